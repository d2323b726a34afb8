// resemb_ext.graph._builder: the parallel graph builder on NumPy arrays, without torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <numeric>
#include <string>
#include <system_error>
#include <vector>

#include "graph/batch_module.h"
#include "graph/builder.h"
#include "graph/digest.h"
#include "graph/hops.h"
#include "graph/store_builder.h"
#include "graph/stored_rows.h"

namespace py = pybind11;

namespace resemb::graph {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Hands the buffer over to NumPy.
template <class T>
py::array_t<T> to_numpy(std::unique_ptr<T[]> data, int64_t size) {
  T* raw = data.release();
  py::capsule owner(raw, [](void* pointer) { delete[] static_cast<T*>(pointer); });
  return py::array_t<T>(size, raw, owner);
}

template <class T>
py::array_t<T> copy_to_numpy(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

template <class Id, class Value>
py::tuple to_numpy(Csr<Id, Value> csr, int64_t num_items) {
  return py::make_tuple(
      to_numpy(std::move(csr.indptr), num_items + 1), to_numpy(std::move(csr.neighbors), csr.num_edges),
      to_numpy(std::move(csr.values), csr.num_edges), to_numpy(std::move(csr.degree), num_items));
}

// The options as `_options.native` of the Python side lays them out.
struct Options : BuildOptions {
  explicit Options(const py::dict& given) {
    num_items = given["num_items"].cast<int64_t>();
    padding = given["padding"].cast<int64_t>();
    limits = {given["int_gap"].cast<int64_t>(), given["int_session"].cast<int64_t>(),
              given["float_gap"].cast<double>(), given["float_session"].cast<double>()};
    rows.window = std::max<int64_t>(given["window"].cast<int64_t>(), 1);
    if (!given["mass"].is_none()) {
      const auto mass = given["mass"].cast<Array<int64_t>>();
      rows.mass.assign(mass.data(), mass.data() + mass.size());
      if (static_cast<int64_t>(rows.mass.size()) != rows.window)
        throw py::value_error("mass: expected one for every distance in the window");
    }
    rows.unit = given["unit"].cast<uint64_t>();
    rows.min_mass = given["min_mass"].cast<uint64_t>();
    rows.top_k = std::clamp<int64_t>(given["top_k"].cast<int64_t>(), 0, std::max<int64_t>(num_items, 0));
    const auto name = given["weighting"].cast<std::string>();
    rows.weighting = name == "cosine"    ? Weighting::cosine
                     : name == "jaccard" ? Weighting::jaccard
                     : name == "ppmi"    ? Weighting::ppmi
                                         : Weighting::count;
    rows.damping = given["damping"].cast<double>();
    rows.directed = given["directed"].cast<bool>();
    rows.largest_self_weight = given["self_weight"].is_none();
    if (!rows.largest_self_weight) rows.self_weight = given["self_weight"].cast<double>();
    rows.category_edges = given["category_edges"].cast<int64_t>();
    rows.category_weight = given["category_weight"].cast<double>();
    if (given["category"].is_none()) return;
    categories = given["category"].cast<Array<int64_t>>();
    if (categories.size() != num_items) throw py::value_error("category: expected one for every item");
    category = categories.data();
  }
  Array<int64_t> categories;
};

Events events_of(const Array<int64_t>& user, const Array<int64_t>& item, const py::object& time) {
  Events events{user.data(), item.data(), nullptr, nullptr, static_cast<int64_t>(item.size())};
  py::ssize_t times = events.count;
  if (py::isinstance<Array<int64_t>>(time)) {
    const auto array = py::reinterpret_borrow<Array<int64_t>>(time);
    events.int_time = array.data();
    times = array.size();
  } else if (py::isinstance<Array<double>>(time)) {
    const auto array = py::reinterpret_borrow<Array<double>>(time);
    events.float_time = array.data();
    times = array.size();
  } else if (!time.is_none()) {
    throw py::type_error("time: expected an int64 or float64 array or None");
  }
  if (user.size() != events.count || times != events.count)
    throw py::value_error("user, item and time differ in length");
  return events;
}

[[noreturn]] void raise(const BadEvent& bad, const Events& events, int64_t num_items, int64_t first) {
  const std::string at = "[" + std::to_string(first + bad.index) + "]";
  switch (bad.kind) {
    case BadEvent::Kind::item_range:
      throw py::index_error("item" + at + " is " + std::to_string(events.item[bad.index]) +
                            ", expected an id in [0, num_items = " +
                            (num_items < 0 ? "2**31 - 2" : std::to_string(num_items)) + ")");
    case BadEvent::Kind::padding_item:
      throw py::value_error("item" + at + " is padding_idx = " + std::to_string(events.item[bad.index]) +
                            "; drop padding from the events before building");
    default:
      throw py::value_error("time" + at + " is " + std::to_string(events.float_time[bad.index]) +
                            ", expected a finite time");
  }
}

[[noreturn]] void raise_os_error(const std::system_error& error) {
  errno = error.code().value();
  PyErr_SetObject(PyExc_OSError, py::make_tuple(error.code().value(), std::string(error.what())).ptr());
  throw py::error_already_set();
}

// Errors of the disk and of files as Python has them.
template <class Work>
auto guarded(const Work& work) {
  try {
    return work();
  } catch (const std::system_error& error) {
    raise_os_error(error);
  } catch (const DamagedFile& error) {
    throw py::value_error(error.what());
  }
}

// Runs `work` without the GIL, polling signals and the progress callback on the calling thread.
template <class Work>
auto with_workers(int threads, int64_t total, const py::object& progress, const Work& work) {
  const auto poll = [&](int64_t done, int64_t) {
    py::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress.is_none()) progress(done, total);
  };
  Workers workers(threads, total, poll);
  poll(0, total);
  auto result = [&] {
    py::gil_scoped_release released;
    return work(workers);
  }();
  poll(total, total);
  return result;
}

py::tuple build_graph(const Array<int64_t>& user, const Array<int64_t>& item, const py::object& time,
                      const py::dict& given, int threads, const py::object& progress) {
  const Events events = events_of(user, item, time);
  const Options options(given);
  if (events.count > kMostEvents)
    throw py::value_error("more than 2**32 - 1 events, which one graph cannot count");
  if (options.num_items > kMostItems)
    throw py::value_error("num_items is " + std::to_string(options.num_items) +
                          "; a graph of events has at most 2**31 - 1 items");
  try {
    auto csr = with_workers(threads, 2 * events.count, progress,
                            [&](Workers& workers) { return build(events, options, workers); });
    return to_numpy(std::move(csr), options.num_items);
  } catch (const BadEvent& bad) {
    raise(bad, events, options.num_items, 0);
  }
}

py::tuple weigh_counts(const Array<int64_t>& indptr, const Array<Neighbor>& neighbors,
                       const Array<int64_t>& masses, const Array<int64_t>& occurrences, const py::dict& given,
                       int threads, const py::object& progress) {
  const Options options(given);
  if (indptr.size() != options.num_items + 1 || occurrences.size() != options.num_items ||
      neighbors.size() != masses.size() || indptr.data()[options.num_items] != neighbors.size())
    throw py::value_error("counts: arrays do not fit each other");
  const std::vector<Word> seen(occurrences.data(), occurrences.data() + occurrences.size());
  auto csr = with_workers(threads, options.num_items, progress, [&](Workers& workers) {
    return weigh(indptr.data(), neighbors.data(), masses.data(), seen.data(), options, workers);
  });
  return to_numpy(std::move(csr), options.num_items);
}

template <class Id>
py::tuple multiply_pruned(const Array<int64_t>& p_indptr, const Array<Id>& p_neighbors,
                          const Array<float>& p_weights, const Array<int64_t>& w_indptr,
                          const Array<Id>& w_neighbors, const Array<float>& w_weights, int64_t top_k,
                          int threads) {
  const int64_t num_items = w_indptr.size() - 1;
  if (p_indptr.size() != w_indptr.size()) throw py::value_error("P and W differ in their rows");
  py::array_t<double> kept(num_items), whole(num_items);
  double *after = kept.mutable_data(), *before = whole.mutable_data();
  const CsrView<Id> p{p_indptr.data(), p_neighbors.data(), p_weights.data()};
  const CsrView<Id> w{w_indptr.data(), w_neighbors.data(), w_weights.data()};
  auto csr = with_workers(threads, num_items, py::none(), [&](Workers& workers) {
    return multiply(p, w, num_items, top_k, workers, after, before);
  });
  const py::tuple rows = to_numpy(std::move(csr), num_items);
  return py::make_tuple(rows[0], rows[1], rows[2], kept, whole);
}

py::tuple digest(const Array<int64_t>& user, const Array<int64_t>& item, const py::object& time,
                 int64_t first, int threads) {
  const Events events = events_of(user, item, time);
  const Digest sum = with_workers(threads, events.count, py::none(),
                                  [&](Workers& workers) { return digest_events(workers, events, first); });
  return py::make_tuple(sum[0], sum[1]);
}

// EventStore behind Python's types and errors.
class PyEventStore {
 public:
  PyEventStore(const std::string& folder, int64_t memory, int64_t expected, const std::string& name)
      : store_(folder, memory, expected, name) {}

  void add(const Array<int64_t>& user, const Array<int64_t>& item, const py::object& time, int64_t num_items,
           int64_t padding, int64_t first) {
    const Events events = events_of(user, item, time);
    if (store_.count() + events.count >= kMostEvents + 1)
      throw py::value_error("more than 2**32 - 1 events, which one graph cannot count");
    try {
      py::gil_scoped_release released;
      store_.add(events, num_items, padding);
    } catch (const BadEvent& bad) {
      raise(bad, events, num_items, first < 0 ? store_.count() : first);
    } catch (const std::system_error& error) {
      raise_os_error(error);
    }
  }

  py::tuple build(const py::dict& given, int threads, const py::object& progress) {
    return build_as<GraphRows>(given, threads, progress, nullptr);
  }

  py::tuple count_pairs(const py::dict& given, int threads, const py::object& progress) {
    Tails tails;
    const py::tuple counts = build_as<CountRows>(given, threads, progress, &tails);
    py::object time;
    if (store_.floating()) {
      std::vector<double> values;
      for (const uint64_t key : tails.time) values.push_back(float_of_key(key));
      time = copy_to_numpy(values);
    } else {
      std::vector<int64_t> values;
      for (const uint64_t key : tails.time) values.push_back(static_cast<int64_t>(key ^ kSign));
      time = copy_to_numpy(values);
    }
    return py::make_tuple(counts, copy_to_numpy(tails.user), copy_to_numpy(tails.item), time);
  }

  py::array_t<int64_t> checkpoint() {
    try {
      return copy_to_numpy(store_.checkpoint());
    } catch (const std::system_error& error) {
      raise_os_error(error);
    }
  }

  void restore(const Array<int64_t>& state) {
    try {
      store_.restore({state.data(), state.data() + state.size()});
    } catch (const std::out_of_range&) {
      throw py::value_error("state: expected what checkpoint() of a store for as many events gave");
    } catch (const std::system_error& error) {
      raise_os_error(error);
    }
  }

  py::array_t<int64_t> close() {
    offsets_ = store_.close();
    return copy_to_numpy(offsets_);
  }

  py::array_t<uint64_t> sort_to_file(const py::dict& given, int64_t first, int64_t last,
                                     Array<Word>& occurrences, int threads, const py::object& progress) {
    const Options options(given);
    if (occurrences.size() != options.num_items || first < 0 || last >= static_cast<int64_t>(offsets_.size()))
      throw py::value_error("buckets or occurrences do not fit the store");
    Word* counts = occurrences.mutable_data();
    return guarded([&] {
      return copy_to_numpy(with_workers(threads, offsets_[last] - offsets_[first], progress, [&](Workers& w) {
        return resemb::graph::sort_to_file(store_, offsets_, first, last, options, w, counts);
      }));
    });
  }

  int64_t count() const { return store_.count(); }
  int64_t buckets() const { return store_.buckets(); }
  int64_t held_bytes() const { return store_.held_bytes(); }
  int64_t largest_item() const { return store_.largest_item(); }
  int64_t spilled_bytes() const { return store_.spilled_bytes(); }

 private:
  template <class Rows>
  py::tuple build_as(const py::dict& given, int threads, const py::object& progress, Tails* tails) {
    const Options options(given);
    std::unique_ptr<Word[]> occurrences;
    try {
      auto csr = with_workers(threads, 2 * store_.count(), progress, [&](Workers& workers) {
        return resemb::graph::build<Rows>(store_, options, workers, tails, occurrences);
      });
      const py::tuple rows = to_numpy(std::move(csr), options.num_items);
      return py::make_tuple(rows[0], rows[1], rows[2], rows[3],
                            to_numpy(std::move(occurrences), options.num_items));
    } catch (const std::system_error& error) {
      raise_os_error(error);
    }
  }

  EventStore store_;
  std::vector<int64_t> offsets_;
};

// StoredRows behind Python's types and errors.
class PyStoredRows {
 public:
  PyStoredRows(const std::string& folder, const Array<int64_t>& offsets, const Array<uint64_t>& sums,
               const py::dict& given, const Array<Word>& occurrences, int64_t memory, int threads,
               const py::object& progress)
      : options_(given), occurrences_(occurrences) {
    if (occurrences.size() != options_.num_items || offsets.size() != sums.size() + 1)
      throw py::value_error("offsets, sums or occurrences do not fit each other");
    guarded([&] {
      rows_ = std::make_unique<StoredRows>(
          folder, std::vector<int64_t>(offsets.data(), offsets.data() + offsets.size()), options_,
          occurrences_.data(), memory);
      with_workers(threads, rows_->count(), progress, [&](Workers& workers) {
        rows_->open({sums.data(), sums.data() + sums.size()}, workers);
        return 0;
      });
      return 0;
    });
  }

  py::tuple rows(int64_t first, int64_t positions, int threads, const py::object& progress) {
    if (first < 0 || first >= options_.num_items) throw py::value_error("first is no item");
    return guarded([&] {
      const int64_t last = rows_->pass_end(first, positions);
      const int64_t own =
          std::accumulate(occurrences_.data() + first, occurrences_.data() + last, int64_t{0});
      auto csr = with_workers(threads, own, progress,
                              [&](Workers& workers) { return rows_->rows(first, last, workers); });
      return py::make_tuple(last, to_numpy(std::move(csr), last - first));
    });
  }

 private:
  const Options options_;
  const Array<Word> occurrences_;
  std::unique_ptr<StoredRows> rows_;
};

}  // namespace

PYBIND11_MODULE(_builder, module) {
  module.doc() = "Parallel co-occurrence counting for resemb_ext.graph, which checks the arguments";
  module.def("build", &build_graph, py::arg("user").noconvert(), py::arg("item").noconvert(), py::arg("time"),
             py::arg("options"), py::kw_only(), py::arg("threads"), py::arg("progress"),
             "(indptr, neighbors, weights, degree) of the graph of events.\n"
             "progress(done, total), where total is twice the number of events, is called on the calling\n"
             "thread while worker threads build; an exception or a signal handler that raises stops them.");
  module.def("digest", &digest, py::arg("user").noconvert(), py::arg("item").noconvert(), py::arg("time"),
             py::arg("first"), py::kw_only(), py::arg("threads"),
             "Two 64-bit sums over events of a mix of (index, user, item, time), to be added modulo 2**64.");
  module.def("weigh", &weigh_counts, py::arg("indptr").noconvert(), py::arg("neighbors").noconvert(),
             py::arg("masses").noconvert(), py::arg("occurrences").noconvert(), py::arg("options"),
             py::kw_only(), py::arg("threads"), py::arg("progress"),
             "(indptr, neighbors, weights, degree) of the graph of counted pairs.");
  const char* product = "(indptr, neighbors, weights, kept mass, whole mass of every row) of prune(P W).";
  const auto def_multiply = [&](auto function) {
    module.def("multiply", function, py::arg("p_indptr").noconvert(), py::arg("p_neighbors").noconvert(),
               py::arg("p_weights").noconvert(), py::arg("w_indptr").noconvert(),
               py::arg("w_neighbors").noconvert(), py::arg("w_weights").noconvert(), py::kw_only(),
               py::arg("top_k"), py::arg("threads"), product);
  };
  def_multiply(&multiply_pruned<int32_t>);
  def_multiply(&multiply_pruned<int64_t>);
  py::class_<PyEventStore>(module, "EventStore", "Events in batches, by user; spilled past `memory` bytes.")
      .def(py::init<const std::string&, int64_t, int64_t, const std::string&>(), py::arg("folder"),
           py::arg("memory"), py::arg("expected"), py::arg("name") = "",
           "name: of the file in the folder that gets what is spilled; empty: it has none.")
      .def("add", &PyEventStore::add, py::arg("user").noconvert(), py::arg("item").noconvert(),
           py::arg("time"), py::kw_only(), py::arg("num_items"), py::arg("padding"), py::arg("first") = -1,
           "first: index of the first event in messages, negative: as many as were added before.")
      .def("build", &PyEventStore::build, py::arg("options"), py::kw_only(), py::arg("threads"),
           py::arg("progress"), "build's arrays and the events of each item; uses up the events.")
      .def("count_pairs", &PyEventStore::count_pairs, py::arg("options"), py::kw_only(), py::arg("threads"),
           py::arg("progress"),
           "((indptr, neighbors, masses, zeros, events of each item), and user, item and time of the last\n"
           "`window` events of every user); uses up the events.")
      .def("checkpoint", &PyEventStore::checkpoint,
           "Spills all events; numbers with which another store can restore() them from the file.")
      .def("restore", &PyEventStore::restore, py::arg("state").noconvert())
      .def("close", &PyEventStore::close, "Ends adding; where each bucket's events begin, and their number.")
      .def("sort_to_file", &PyEventStore::sort_to_file, py::arg("options"), py::arg("first"), py::arg("last"),
           py::arg("occurrences").noconvert(), py::kw_only(), py::arg("threads"), py::arg("progress"),
           "Sorts buckets [first, last) into the file of the sequence, adds to the events of each item, and\n"
           "returns the buckets' checksums.")
      .def_property_readonly("buckets", &PyEventStore::buckets)
      .def_property_readonly("held_bytes", &PyEventStore::held_bytes)
      .def_property_readonly("count", &PyEventStore::count)
      .def_property_readonly("largest_item", &PyEventStore::largest_item)
      .def_property_readonly("spilled_bytes", &PyEventStore::spilled_bytes);
  py::class_<PyStoredRows>(module, "StoredRows", "Rows of a sequence that sort_to_file wrote.")
      .def(py::init<const std::string&, const Array<int64_t>&, const Array<uint64_t>&, const py::dict&,
                    const Array<Word>&, int64_t, int, const py::object&>(),
           py::arg("folder"), py::arg("offsets").noconvert(), py::arg("sums").noconvert(), py::arg("options"),
           py::arg("occurrences").noconvert(), py::kw_only(), py::arg("memory"), py::arg("threads"),
           py::arg("progress"))
      .def("rows", &PyStoredRows::rows, py::arg("first"), py::arg("positions"), py::kw_only(),
           py::arg("threads"), py::arg("progress"),
           "(last, (indptr, neighbors, weights, degree)) of rows [first, last), whose positions take about\n"
           "`positions` bytes.");
  define_batches(module);
}

}  // namespace resemb::graph
