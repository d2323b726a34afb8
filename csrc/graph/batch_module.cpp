#include "graph/batch_module.h"

#include <pybind11/numpy.h>

#include <vector>

#include "graph/batch.h"

namespace py = pybind11;

namespace resemb::graph {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

Array<int64_t> to_numpy(const std::vector<int64_t>& values) {
  return Array<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple by_owner(const Array<int64_t>& items, int64_t ranks) {
  if (ranks < 1) throw py::value_error("ranks: expected at least 1");
  Array<int64_t> out(items.size()), counts(ranks);
  const int64_t *from = items.data(), count = items.size();
  int64_t *to = out.mutable_data(), *found = counts.mutable_data();
  {
    const py::gil_scoped_release released;
    group_by_owner(from, count, ranks, to, found);
  }
  return py::make_tuple(out, counts);
}

py::tuple lists(const Array<int64_t>& indptr, const py::array& neighbors, const py::array& weights,
                const Array<int64_t>& rows) {
  const bool flat = neighbors.flags() & weights.flags() & py::array::c_style;
  const int64_t width = neighbors.itemsize();
  if (!flat || neighbors.dtype().kind() != 'i' || (width != 4 && width != 8) || indptr.size() < 1 ||
      neighbors.size() != weights.size())
    throw py::value_error("indptr, neighbors and weights: expected CSR arrays");
  const BatchGraph graph{indptr.data(),
                         indptr.size() - 1,
                         static_cast<const char*>(neighbors.data()),
                         width,
                         static_cast<const char*>(weights.data()),
                         weights.itemsize(),
                         neighbors.size()};
  const int64_t count = rows.size(), *of = rows.data();
  Array<int64_t> lengths(count);
  const int64_t total = row_lengths(graph, of, count, lengths.mutable_data());
  if (total < 0) throw py::index_error("rows: a row is not in the graph, or leaves its arrays");
  Array<int32_t> found(total);
  py::array values(weights.dtype(), total);
  int32_t* to = found.mutable_data();
  char* weights_to = static_cast<char*>(values.mutable_data());
  {
    const py::gil_scoped_release released;
    copy_lists(graph, of, count, to, weights_to);
  }
  return py::make_tuple(lengths, found, values);
}

py::tuple numbers(Array<int32_t> slots, const Array<int64_t>& ids, Array<int32_t> neighbors, int64_t ranks,
                  bool apart) {
  if (ranks < 1) throw py::value_error("ranks: expected at least 1");
  Numbers found;
  int32_t *of = slots.mutable_data(), *edges = neighbors.mutable_data();
  const int64_t items = slots.size(), num_ids = ids.size(), count = neighbors.size();
  const int64_t* looked_up = ids.data();
  bool good = false;
  {
    const py::gil_scoped_release released;
    good = number_items(of, items, ranks, looked_up, num_ids, edges, count, apart, found);
  }
  if (!good) throw py::index_error("ids or neighbors: an item is outside [0, H)");
  py::object read = py::none();
  if (!found.all_read) read = to_numpy(found.read);
  return py::make_tuple(to_numpy(found.items), to_numpy(found.looked_up), read);
}

}  // namespace

void define_batches(py::module_& module) {
  module.def("by_owner", &by_owner, py::arg("items").noconvert(), py::arg("ranks"),
             "(items by item % ranks, in their order otherwise; how many each has).");
  module.def("lists", &lists, py::arg("indptr").noconvert(), py::arg("neighbors").noconvert(),
             py::arg("weights").noconvert(), py::arg("rows").noconvert(),
             "(lengths, neighbors, weights) of some rows, one behind the other.");
  module.def(
      "numbers", &numbers, py::arg("slots").noconvert(), py::arg("ids").noconvert(),
      py::arg("neighbors").noconvert(), py::arg("ranks"), py::arg("apart"),
      "(items, numbers of ids, numbers that occur among neighbors or None for all) of a batch; ids are\n"
      "distinct and by owner. neighbors become numbers in place, and slots those of ids and neighbours;\n"
      "apart, of ids alone, which are then their places.");
}

}  // namespace resemb::graph
