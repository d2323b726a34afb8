// Rows of a CSR matrix, made by item ranges on many threads and joined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "graph/memory.h"
#include "graph/workers.h"

namespace resemb::graph {

// CSR rows; Id is int32 or int64, Value is float (weights) or int64_t (masses of pairs).
template <class Id, class Value>
struct Csr {
  int64_t num_edges = 0;
  std::unique_ptr<int64_t[]> indptr;  // [num_items + 1]
  std::unique_ptr<Id[]> neighbors;    // [num_edges]
  std::unique_ptr<Value[]> values;    // [num_edges]
  std::unique_ptr<double[]> degree;   // [num_items]
};

// Collects the rows of ranges of items [first_item, first_item + num_items) and joins them.
template <class Id, class Value>
class Collector {
 public:
  Collector(int64_t num_items, int threads, int64_t first_item = 0)
      : num_items_(num_items), first_item_(first_item), slabs_(threads) {
    csr_.indptr = std::make_unique_for_overwrite<int64_t[]>(num_items + 1);
    csr_.degree = std::make_unique_for_overwrite<double[]>(num_items);
  }

  void row(int64_t item, int64_t size, double degree) {
    csr_.indptr[item - first_item_ + 1] = size;
    csr_.degree[item - first_item_] = degree;
  }

  // Room for `ranges` more parts; returns the first one's number.
  int64_t open(int64_t ranges) {
    parts_.resize(parts_.size() + ranges);
    return static_cast<int64_t>(parts_.size()) - ranges;
  }

  void part(int64_t number, int worker, int64_t first_item, const std::vector<Id>& neighbors,
            const std::vector<Value>& values) {
    Part& part = parts_[number];
    part.first_item = first_item - first_item_;
    part.size = static_cast<int64_t>(neighbors.size());
    part.neighbors = slabs_[worker].template take<Id>(part.size, spare);
    part.values = slabs_[worker].template take<Value>(part.size, spare);
    std::copy(neighbors.begin(), neighbors.end(), part.neighbors.get());
    std::copy(values.begin(), values.end(), part.values.get());
  }

  Csr<Id, Value> join(Workers& workers) {
    csr_.indptr[0] = 0;
    std::partial_sum(csr_.indptr.get(), csr_.indptr.get() + num_items_ + 1, csr_.indptr.get());
    csr_.num_edges = csr_.indptr[num_items_];
    csr_.neighbors = large_array<Id>(csr_.num_edges);
    csr_.values = large_array<Value>(csr_.num_edges);
    workers.run(static_cast<int64_t>(parts_.size()), [&](int64_t number, int) {
      Part part = std::move(parts_[number]);  // freed as soon as it is copied
      const int64_t to = csr_.indptr[part.first_item];
      std::copy_n(part.neighbors.get(), part.size, csr_.neighbors.get() + to);
      std::copy_n(part.values.get(), part.size, csr_.values.get() + to);
    });
    return std::move(csr_);
  }

  Spare spare;  // memory for the parts

 private:
  struct Part {
    int64_t first_item = 0, size = 0;  // of the collector's items
    std::shared_ptr<Id[]> neighbors;
    std::shared_ptr<Value[]> values;
  };
  const int64_t num_items_, first_item_;
  Csr<Id, Value> csr_;
  std::vector<Part> parts_;
  std::vector<Slabs> slabs_;  // of each worker
};

}  // namespace resemb::graph
