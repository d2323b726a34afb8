// Rows of item ranges, counted out of a sequence: for the files that instantiate build_rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "graph/builder.h"
#include "graph/partition.h"
#include "graph/rows.h"

namespace resemb::graph {
namespace detail {

// Ranges of items [begin, end) of about equal work.
struct ItemRanges {
  std::vector<int64_t> first;      // range r is [first[r], first[r + 1])
  std::vector<uint16_t> of_block;  // the range of items begin + [b << shift, (b + 1) << shift)
  int shift = 0;                   // such that of_block fits the innermost cache

  int64_t size() const { return static_cast<int64_t>(first.size()) - 1; }
};

inline ItemRanges item_ranges(const Word* occurrences, int64_t begin, int64_t end, int threads) {
  constexpr int64_t most_blocks = 1 << 13;
  ItemRanges ranges;
  while ((end - begin - 1) >> ranges.shift >= most_blocks) ++ranges.shift;
  const int64_t block = int64_t{1} << ranges.shift;
  const int64_t total = std::accumulate(occurrences + begin, occurrences + end, end - begin);
  const int64_t wanted = std::clamp<int64_t>(total >> 15, int64_t{8} * threads, most_blocks);
  const int64_t work = (total + wanted - 1) / wanted;
  ranges.first.push_back(begin);
  int64_t sum = 0;
  for (int64_t item = begin; item < end; item += block) {
    const int64_t next = std::min(item + block, end);
    const int64_t cost = std::accumulate(occurrences + item, occurrences + next, next - item);
    if (sum > 0 && sum + cost > work) {
      ranges.first.push_back(item);
      sum = 0;
    }
    sum += cost;
    ranges.of_block.push_back(static_cast<uint16_t>(ranges.first.size() - 1));
  }
  ranges.first.push_back(end);
  return ranges;
}

template <class Count, class Rows>
void count_rows(Workers& workers, const Sequence& sequence, const Tables& tables, int64_t first_item,
                int64_t last_item, const BuildOptions& options,
                Collector<Neighbor, typename Rows::Value>& out) {
  const int64_t n = sequence.count;
  const Word* occurrences = tables.occurrences;
  const auto item_at = [&](int64_t at) {
    return static_cast<int64_t>(sequence.entries[at] & ~Sequence::start);
  };
  const ItemRanges item_range = item_ranges(occurrences, first_item, last_item, workers.threads());
  const std::vector<int64_t>& first = item_range.first;
  const int64_t ranges = item_range.size();
  const int64_t own = std::accumulate(occurrences + first_item, occurrences + last_item, int64_t{0});
  auto positions = large_array<Word>(own);
  std::vector<int64_t> offsets;
  {
    const uint64_t items = static_cast<uint64_t>(last_item - first_item);
    const auto bucket_of = [&, of_block = item_range.of_block.data(), shift = item_range.shift](int64_t at) {
      const uint64_t item = static_cast<uint64_t>(item_at(at) - first_item);
      return item < items ? static_cast<int64_t>(of_block[item >> shift]) : ranges;
    };
    offsets = partition(workers, n, ranges, bucket_of, positions.get());
  }
  struct Scratch {
    std::unique_ptr<PairCounter<Count>> counter;
    std::unique_ptr<Rows> rows;
    std::vector<int64_t> cursor;
    std::vector<Word> grouped;
    std::vector<Neighbor> neighbors;
    std::vector<typename Rows::Value> values;
  };
  const int64_t number = out.open(ranges);
  std::vector<Scratch> scratch(workers.threads());
  workers.run(ranges, [&](int64_t range, int worker) {
    Scratch& s = scratch[worker];
    if (!s.rows) {
      s.counter = std::make_unique<PairCounter<Count>>(sequence, options.num_items, options.rows);
      s.rows = std::make_unique<Rows>(tables, options.rows);
    }
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
    s.values.clear();
    for (int64_t i = 0; i < items && !workers.stopped(); ++i) {
      const int64_t item = begin + i;
      const int64_t before = static_cast<int64_t>(s.neighbors.size());
      double degree = 0;
      if (item != options.padding) {
        const int64_t count = occurrences[item];
        const int64_t at = s.cursor[i] - count;
        s.counter->count(s.grouped.data() + at, count, size - at, workers);
        const auto each = [&](const auto& use) { s.counter->take(static_cast<Word>(item), use); };
        degree = s.rows->append(static_cast<Word>(item), s.counter->touched(), each, s.neighbors, s.values);
      }
      out.row(item, static_cast<int64_t>(s.neighbors.size()) - before, degree);
    }
    out.part(number + range, worker, begin, s.neighbors, s.values);
    workers.advance(size);
  });
}

}  // namespace detail

template <class Rows>
void build_rows(Workers& workers, const Sequence& sequence, const Tables& tables, int64_t first_item,
                int64_t last_item, const BuildOptions& options,
                Collector<Neighbor, typename Rows::Value>& out) {
  // A position pairs with at most 2 * window others, each at a mass of at most one unit.
  const uint64_t frequent = first_item < last_item ? *std::max_element(tables.occurrences + first_item,
                                                                       tables.occurrences + last_item)
                                                   : 0;
  const double largest = 2.0 * static_cast<double>(options.rows.window) * static_cast<double>(frequent) *
                         static_cast<double>(options.rows.unit);
  if (largest >= 4294967295.0)
    detail::count_rows<uint64_t, Rows>(workers, sequence, tables, first_item, last_item, options, out);
  else
    detail::count_rows<uint32_t, Rows>(workers, sequence, tables, first_item, last_item, options, out);
}

}  // namespace resemb::graph
