// resemb_ext.graph._builder: the parallel graph builder on NumPy arrays, without torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "graph/builder.h"

namespace py = pybind11;

namespace resemb::graph {
namespace {

using Int64Array = py::array_t<int64_t, py::array::c_style>;
using Float64Array = py::array_t<double, py::array::c_style>;

// Hands the buffer over to NumPy.
template <class T>
py::array_t<T> to_numpy(std::unique_ptr<T[]> data, int64_t size) {
  T* raw = data.release();
  py::capsule owner(raw, [](void* pointer) { delete[] static_cast<T*>(pointer); });
  return py::array_t<T>(size, raw, owner);
}

template <class Width>
py::tuple build_to_numpy(const Events& events, const BuildOptions& options, Workers& workers) {
  Graph<typename Width::Neighbor> graph;
  {
    py::gil_scoped_release released;
    graph = build<Width>(events, options, workers);
  }
  return py::make_tuple(to_numpy(std::move(graph.indptr), options.num_items + 1),
                        to_numpy(std::move(graph.neighbors), graph.num_edges),
                        to_numpy(std::move(graph.weights), graph.num_edges),
                        to_numpy(std::move(graph.degree), options.num_items));
}

[[noreturn]] void raise(const BadEvent& bad, const Events& events, const BuildOptions& options) {
  const std::string at = "[" + std::to_string(bad.index) + "]";
  switch (bad.kind) {
    case BadEvent::Kind::item_range:
      throw py::index_error("item" + at + " is " + std::to_string(events.item[bad.index]) +
                            ", expected an id in [0, num_items = " + std::to_string(options.num_items) + ")");
    case BadEvent::Kind::padding_item:
      throw py::value_error("item" + at + " is padding_idx = " + std::to_string(options.padding) +
                            "; drop padding from the events before building");
    default:
      throw py::value_error("time" + at + " is " + std::to_string(events.float_time[bad.index]) +
                            ", expected a finite time");
  }
}

py::tuple build_graph(const Int64Array& user, const Int64Array& item, const py::object& time,
                      int64_t num_items, int64_t window, int64_t top_k, int64_t min_count, bool cosine,
                      const py::object& self_weight, bool directed, int64_t padding, int threads,
                      const py::object& progress, bool force_wide) {
  Events events{user.data(), item.data(), nullptr, nullptr, static_cast<int64_t>(item.size())};
  py::ssize_t times = events.count;
  if (py::isinstance<Int64Array>(time)) {
    const auto array = time.cast<Int64Array>();
    events.int_time = array.data();
    times = array.size();
  } else if (py::isinstance<Float64Array>(time)) {
    const auto array = time.cast<Float64Array>();
    events.float_time = array.data();
    times = array.size();
  } else if (!time.is_none()) {
    throw py::type_error("time: expected an int64 or float64 array or None");
  }
  if (user.size() != events.count || times != events.count)
    throw py::value_error("user, item and time differ in length");
  // A row has no more than num_items entries and a window no more than all events.
  const bool largest = self_weight.is_none();
  const BuildOptions options{num_items, padding,
                             RowOptions{std::clamp<int64_t>(window, 1, std::max<int64_t>(events.count, 1)),
                                        std::clamp<int64_t>(top_k, 0, num_items), min_count,
                                        cosine ? Weighting::cosine : Weighting::count, directed, largest,
                                        largest ? 0.0 : self_weight.cast<double>()},
                             force_wide};
  const int64_t total = 2 * events.count;  // sorting, then rows
  const auto poll = [&](int64_t done, int64_t) {
    py::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress.is_none()) progress(done, total);
  };
  Workers workers(threads, total, poll);
  try {
    poll(0, total);
    py::tuple graph = needs_wide(events, options) ? build_to_numpy<Wide>(events, options, workers)
                                                  : build_to_numpy<Narrow>(events, options, workers);
    poll(total, total);
    return graph;
  } catch (const BadEvent& bad) {
    raise(bad, events, options);
  }
}

}  // namespace

PYBIND11_MODULE(_builder, module) {
  module.doc() = "Parallel co-occurrence counting for resemb_ext.graph";
  module.def("build", &build_graph, py::arg("user").noconvert(), py::arg("item").noconvert(), py::arg("time"),
             py::kw_only(), py::arg("num_items"), py::arg("window"), py::arg("top_k"), py::arg("min_count"),
             py::arg("cosine"), py::arg("self_weight"), py::arg("directed"), py::arg("padding"),
             py::arg("threads"), py::arg("progress"), py::arg("force_wide") = false,
             "(indptr, neighbors, weights, degree) of the graph of events; InterestGraph.from_events checks\n"
             "the arguments. self_weight None: the row's largest weight. padding -1: none.\n"
             "progress(done, total), where total is twice the number of events, is called on the calling\n"
             "thread while worker threads build; an exception or a signal handler that raises stops them.");
}

}  // namespace resemb::graph
