// The interest graph of a log of events: a function of the sorted events and the options alone.
//
// The events become one sequence of items. An item's row needs only the neighbourhoods of its own
// positions, so positions are grouped by item range, and rows are counted one at a time in a scratch
// array: no list of pairs is ever stored.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "graph/partition.h"
#include "graph/rows.h"
#include "graph/sequence.h"
#include "graph/workers.h"

namespace resemb::graph {

struct BuildOptions {
  int64_t num_items;
  int64_t padding;  // -1: none; else the one row without entries
  RowOptions rows;
  bool force_wide;  // 64-bit words even where 32 bits suffice (tests)
};

template <class Neighbor>
struct Graph {
  int64_t num_edges = 0;
  std::unique_ptr<int64_t[]> indptr;      // [num_items + 1]
  std::unique_ptr<Neighbor[]> neighbors;  // [num_edges]
  std::unique_ptr<float[]> weights;       // [num_edges]
  std::unique_ptr<double[]> degree;       // [num_items]
};

inline bool needs_wide(const Events& events, const BuildOptions& options) {
  constexpr int64_t words = int64_t{1} << 32;
  // A pair's count is at most 2 * window * events; the highest bit of an id is taken.
  return options.force_wide || options.num_items > words / 2 - 1 || events.count >= words ||
         options.rows.window >= words / 2 / std::max<int64_t>(events.count, 1);
}

namespace detail {

// Item ranges of about equal work: `first[b]` is the first item of range b.
template <class Word>
std::vector<int64_t> item_ranges(const Word* occurrences, int64_t num_items, int64_t total, int threads) {
  const int64_t wanted = std::clamp<int64_t>((total + num_items) >> 15, int64_t{8} * threads, 1 << 15);
  const int64_t work = (total + num_items + wanted - 1) / wanted;
  std::vector<int64_t> first{0};
  int64_t sum = 0;
  for (int64_t item = 0; item < num_items; ++item) {
    const int64_t cost = 1 + static_cast<int64_t>(occurrences[item]);
    if (sum > 0 && sum + cost > work) {
      first.push_back(item);
      sum = 0;
    }
    sum += cost;
  }
  first.push_back(num_items);
  return first;
}

template <class T>
std::unique_ptr<T[]> copy_of(const std::vector<T>& values) {
  auto copy = std::make_unique_for_overwrite<T[]>(values.size());
  std::copy(values.begin(), values.end(), copy.get());
  return copy;
}

}  // namespace detail

template <class Width>
Graph<typename Width::Neighbor> build(const Events& events, const BuildOptions& options, Workers& workers) {
  using Word = typename Width::Word;
  using Neighbor = typename Width::Neighbor;
  const int64_t num_items = options.num_items;
  Sequence<Word> sequence = make_sequence<Word>(workers, events, num_items, options.padding);
  const int64_t n = sequence.count;
  const auto item_at = [&](int64_t at) { return sequence.entries[at] & ~Sequence<Word>::start; };

  auto occurrences = std::make_unique<Word[]>(num_items);
  workers.ranges(n, detail::kEventGrain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at)
      std::atomic_ref(occurrences[item_at(at)]).fetch_add(1, std::memory_order_relaxed);
  });

  const std::vector<int64_t> first = detail::item_ranges(occurrences.get(), num_items, n, workers.threads());
  const int64_t ranges = static_cast<int64_t>(first.size()) - 1;
  auto positions = std::make_unique_for_overwrite<Word[]>(n);
  std::vector<int64_t> offsets;
  {
    auto range_of = std::make_unique_for_overwrite<uint32_t[]>(num_items);
    for (int64_t range = 0; range < ranges; ++range)
      std::fill(range_of.get() + first[range], range_of.get() + first[range + 1],
                static_cast<uint32_t>(range));
    offsets =
        partition(workers, n, ranges, [&](int64_t at) { return range_of[item_at(at)]; }, positions.get());
  }

  struct Part {
    int64_t size = 0;
    std::unique_ptr<Neighbor[]> neighbors;
    std::unique_ptr<float[]> weights;
  };
  struct Scratch {
    std::unique_ptr<RowCounter<Width>> rows;
    std::vector<int64_t> cursor;
    std::vector<Word> grouped;
    std::vector<Neighbor> neighbors;
    std::vector<float> weights;
  };
  Graph<Neighbor> graph;
  graph.indptr = std::make_unique_for_overwrite<int64_t[]>(num_items + 1);
  graph.degree = std::make_unique_for_overwrite<double[]>(num_items);
  std::vector<Part> parts(ranges);
  std::vector<Scratch> scratch(workers.threads());
  workers.run(ranges, [&](int64_t range, int worker) {
    Scratch& s = scratch[worker];
    if (!s.rows)
      s.rows = std::make_unique<RowCounter<Width>>(sequence, occurrences.get(), num_items, options.rows);
    const int64_t begin = first[range], items = first[range + 1] - begin;
    const Word* unsorted = positions.get() + offsets[range];
    const int64_t size = offsets[range + 1] - offsets[range];
    // Group the range's positions by item; they stay ascending within each.
    s.cursor.resize(items);
    int64_t sum = 0;
    for (int64_t i = 0; i < items; ++i) s.cursor[i] = std::exchange(sum, sum + occurrences[begin + i]);
    s.grouped.resize(size);
    for (int64_t p = 0; p < size; ++p) s.grouped[s.cursor[item_at(unsorted[p]) - begin]++] = unsorted[p];

    s.neighbors.clear();
    s.weights.clear();
    for (int64_t i = 0; i < items && !workers.stopped(); ++i) {
      const int64_t item = begin + i;
      const int64_t before = static_cast<int64_t>(s.neighbors.size());
      double degree = 0;
      if (item != options.padding) {
        const int64_t count = occurrences[item];
        degree = s.rows->append_row(static_cast<Word>(item), s.grouped.data() + s.cursor[i] - count, count,
                                    workers, s.neighbors, s.weights);
      }
      graph.degree[item] = degree;
      graph.indptr[item + 1] = static_cast<int64_t>(s.neighbors.size()) - before;
    }
    parts[range] = {static_cast<int64_t>(s.neighbors.size()), detail::copy_of(s.neighbors),
                    detail::copy_of(s.weights)};
    workers.advance(size);
  });
  scratch.clear();
  positions.reset();
  sequence.entries.reset();

  graph.indptr[0] = 0;
  std::partial_sum(graph.indptr.get(), graph.indptr.get() + num_items + 1, graph.indptr.get());
  graph.num_edges = graph.indptr[num_items];
  graph.neighbors = std::make_unique_for_overwrite<Neighbor[]>(graph.num_edges);
  graph.weights = std::make_unique_for_overwrite<float[]>(graph.num_edges);
  workers.run(ranges, [&](int64_t range, int) {
    Part part = std::move(parts[range]);  // freed as soon as it is copied
    const int64_t to = graph.indptr[first[range]];
    std::copy_n(part.neighbors.get(), part.size, graph.neighbors.get() + to);
    std::copy_n(part.weights.get(), part.size, graph.weights.get() + to);
  });
  return graph;
}

}  // namespace resemb::graph
