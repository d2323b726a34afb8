// The interest graph of a log of events: a function of the sorted events and the options alone.
//
// The events become one sequence of items. An item's row needs only the neighbourhoods of its own
// positions, so positions are grouped by item range, and rows are counted one at a time in a scratch
// array: no list of pairs is ever stored. Masses of pairs are integers, and sums of weights do not depend
// on their order, so neither the threads nor the order of users shows in the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "graph/memory.h"
#include "graph/partition.h"
#include "graph/rows.h"
#include "graph/sequence.h"
#include "graph/weigh.h"
#include "graph/workers.h"

namespace resemb::graph {

// CSR rows; Value is float (weights) or int64_t (masses of pairs).
template <class Neighbor, class Value>
struct Csr {
  int64_t num_edges = 0;
  std::unique_ptr<int64_t[]> indptr;      // [num_items + 1]
  std::unique_ptr<Neighbor[]> neighbors;  // [num_edges]
  std::unique_ptr<Value[]> values;        // [num_edges]
  std::unique_ptr<double[]> degree;       // [num_items]
};

inline bool needs_wide(int64_t events, const BuildOptions& options) {
  constexpr int64_t words = int64_t{1} << 32;
  // The highest bit of an id is taken.
  return options.force_wide || options.num_items > words / 2 - 1 || events >= words;
}

// Collects the rows of item ranges and joins them.
template <class Neighbor, class Value>
class Collector {
 public:
  Collector(int64_t num_items, int threads) : num_items_(num_items), slabs_(threads) {
    csr_.indptr = std::make_unique_for_overwrite<int64_t[]>(num_items + 1);
    csr_.degree = std::make_unique_for_overwrite<double[]>(num_items);
  }

  void row(int64_t item, int64_t size, double degree) {
    csr_.indptr[item + 1] = size;
    csr_.degree[item] = degree;
  }

  // Room for `ranges` more parts; returns the first one's number.
  int64_t open(int64_t ranges) {
    parts_.resize(parts_.size() + ranges);
    return static_cast<int64_t>(parts_.size()) - ranges;
  }

  void part(int64_t number, int worker, int64_t first_item, const std::vector<Neighbor>& neighbors,
            const std::vector<Value>& values) {
    Part& part = parts_[number];
    part.first_item = first_item;
    part.size = static_cast<int64_t>(neighbors.size());
    part.neighbors = slabs_[worker].template take<Neighbor>(part.size, spare);
    part.values = slabs_[worker].template take<Value>(part.size, spare);
    std::copy(neighbors.begin(), neighbors.end(), part.neighbors.get());
    std::copy(values.begin(), values.end(), part.values.get());
  }

  Csr<Neighbor, Value> join(Workers& workers) {
    csr_.indptr[0] = 0;
    std::partial_sum(csr_.indptr.get(), csr_.indptr.get() + num_items_ + 1, csr_.indptr.get());
    csr_.num_edges = csr_.indptr[num_items_];
    csr_.neighbors = large_array<Neighbor>(csr_.num_edges);
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
    int64_t first_item = 0, size = 0;
    std::shared_ptr<Neighbor[]> neighbors;
    std::shared_ptr<Value[]> values;
  };
  const int64_t num_items_;
  Csr<Neighbor, Value> csr_;
  std::vector<Part> parts_;
  std::vector<Slabs> slabs_;  // of each worker
};

namespace detail {

// Ranges of items [begin, end) of about equal work: `first[b]` is the first item of range b.
template <class Word>
std::vector<int64_t> item_ranges(const Word* occurrences, int64_t begin, int64_t end, int threads) {
  const int64_t total = std::accumulate(occurrences + begin, occurrences + end, end - begin);
  const int64_t wanted = std::clamp<int64_t>(total >> 15, int64_t{8} * threads, 1 << 15);
  const int64_t work = (total + wanted - 1) / wanted;
  std::vector<int64_t> first{begin};
  int64_t sum = 0;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t cost = 1 + static_cast<int64_t>(occurrences[item]);
    if (sum > 0 && sum + cost > work) {
      first.push_back(item);
      sum = 0;
    }
    sum += cost;
  }
  first.push_back(end);
  return first;
}

template <class Width, class Count, class Rows>
void count_rows(Workers& workers, const Sequence<typename Width::Word>& sequence,
                const Tables<typename Width::Word>& tables, int64_t first_item, int64_t last_item,
                const BuildOptions& options, Collector<typename Width::Neighbor, typename Rows::Value>& out) {
  using Word = typename Width::Word;
  const int64_t n = sequence.count;
  const Word* occurrences = tables.occurrences;
  const auto item_at = [&](int64_t at) {
    return static_cast<int64_t>(sequence.entries[at] & ~Sequence<Word>::start);
  };
  const std::vector<int64_t> first = item_ranges(occurrences, first_item, last_item, workers.threads());
  const int64_t ranges = static_cast<int64_t>(first.size()) - 1;
  const int64_t own = std::accumulate(occurrences + first_item, occurrences + last_item, int64_t{0});
  auto positions = large_array<Word>(own);
  std::vector<int64_t> offsets;
  {
    auto range_of = std::make_unique_for_overwrite<uint32_t[]>(last_item - first_item);
    for (int64_t range = 0; range < ranges; ++range)
      std::fill(range_of.get() + first[range] - first_item, range_of.get() + first[range + 1] - first_item,
                static_cast<uint32_t>(range));
    const auto bucket_of = [&](int64_t at) {
      const int64_t item = item_at(at);
      return item >= first_item && item < last_item ? static_cast<int64_t>(range_of[item - first_item])
                                                    : ranges;
    };
    offsets = partition(workers, n, ranges, bucket_of, positions.get());
  }
  struct Scratch {
    std::unique_ptr<PairCounter<Word, Count>> counter;
    std::unique_ptr<Rows> rows;
    std::vector<int64_t> cursor;
    std::vector<Word> grouped;
    std::vector<Pair<Word>> pairs;
    std::vector<typename Width::Neighbor> neighbors;
    std::vector<typename Rows::Value> values;
  };
  const int64_t number = out.open(ranges);
  std::vector<Scratch> scratch(workers.threads());
  workers.run(ranges, [&](int64_t range, int worker) {
    Scratch& s = scratch[worker];
    if (!s.rows) {
      s.counter = std::make_unique<PairCounter<Word, Count>>(sequence, options.num_items, options.rows);
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
        s.counter->count(static_cast<Word>(item), s.grouped.data() + at, count, size - at, workers, s.pairs);
        degree = s.rows->append(static_cast<Word>(item), s.pairs, s.neighbors, s.values);
      }
      out.row(item, static_cast<int64_t>(s.neighbors.size()) - before, degree);
    }
    out.part(number + range, worker, begin, s.neighbors, s.values);
    workers.advance(size);
  });
}

}  // namespace detail

// Rows [first_item, last_item) out of a sequence that holds the surroundings of all their positions.
template <class Width, class Rows>
void build_rows(Workers& workers, const Sequence<typename Width::Word>& sequence,
                const Tables<typename Width::Word>& tables, int64_t first_item, int64_t last_item,
                const BuildOptions& options, Collector<typename Width::Neighbor, typename Rows::Value>& out) {
  // A position pairs with at most 2 * window others, each at a mass of at most one unit.
  const uint64_t frequent = first_item < last_item ? *std::max_element(tables.occurrences + first_item,
                                                                       tables.occurrences + last_item)
                                                   : 0;
  const double largest = 2.0 * static_cast<double>(options.rows.window) * static_cast<double>(frequent) *
                         static_cast<double>(options.rows.unit);
  if (options.force_wide || largest >= 4294967295.0)
    detail::count_rows<Width, uint64_t, Rows>(workers, sequence, tables, first_item, last_item, options, out);
  else
    detail::count_rows<Width, uint32_t, Rows>(workers, sequence, tables, first_item, last_item, options, out);
}

template <class Word>
std::unique_ptr<Word[]> count_items(Workers& workers, const Sequence<Word>& sequence, int64_t num_items) {
  auto occurrences = std::make_unique<Word[]>(num_items);
  workers.ranges(sequence.count, detail::kEventGrain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at)
      std::atomic_ref(occurrences[sequence.entries[at] & ~Sequence<Word>::start])
          .fetch_add(1, std::memory_order_relaxed);
  });
  return occurrences;
}

// Adds the masses that pairs of events [begin, end) of a sequence give rows and columns.
template <class Word>
void add_margins(const Sequence<Word>& sequence, int64_t begin, int64_t end, const RowOptions& options,
                 uint64_t* rows, uint64_t* columns) {
  constexpr Word start = Sequence<Word>::start;
  const Word* entries = sequence.entries.get();
  for (int64_t at = begin; at < end; ++at) {
    const Word item = entries[at] & ~start;
    const int64_t last =
        std::min(sequence.count - 1,
                 at + (sequence.reach ? static_cast<int64_t>(sequence.reach[at]) : options.window));
    uint64_t own = 0;
    for (int64_t next = at + 1; next <= last && !(entries[next] & start); ++next) {
      if (entries[next] == item) continue;
      const uint64_t mass = options.mass_at(next - at);
      own += mass;
      std::atomic_ref((columns ? columns : rows)[entries[next]]).fetch_add(mass, std::memory_order_relaxed);
    }
    if (own) std::atomic_ref(rows[item]).fetch_add(own, std::memory_order_relaxed);
  }
}

template <class Word>
void open_margins(Tables<Word>& tables, const BuildOptions& options) {
  tables.row_mass = std::make_unique<uint64_t[]>(options.num_items);
  if (options.rows.directed) tables.column_mass = std::make_unique<uint64_t[]>(options.num_items);
}

template <class Word>
void close_margins(Tables<Word>& tables, const BuildOptions& options) {
  uint64_t total = 0;
  for (int64_t i = 0; i < options.num_items; ++i) total += tables.row_mass[i];
  tables.total_mass = static_cast<double>(total);
}

template <class Width>
Csr<typename Width::Neighbor, float> build(const Events& events, const BuildOptions& options,
                                           Workers& workers) {
  using Word = typename Width::Word;
  const Sequence<Word> sequence = make_sequence<Word>(workers, events, options);
  const auto occurrences = count_items(workers, sequence, options.num_items);
  Tables<Word> tables(options, occurrences.get());
  if (needs_margins(options.rows.weighting)) {
    open_margins(tables, options);
    workers.ranges(sequence.count, detail::kEventGrain, [&](int64_t begin, int64_t end) {
      add_margins(sequence, begin, end, options.rows, tables.row_mass.get(), tables.column_mass.get());
    });
    close_margins(tables, options);
  }
  Collector<typename Width::Neighbor, float> collector(options.num_items, workers.threads());
  build_rows<Width, GraphRows<Width>>(workers, sequence, tables, 0, options.num_items, options, collector);
  return collector.join(workers);
}

// The graph of pairs counted before: CSR masses, ascending in every row, without own entries.
template <class Width>
Csr<typename Width::Neighbor, float> weigh(const int64_t* indptr, const typename Width::Neighbor* neighbors,
                                           const int64_t* masses, const typename Width::Word* occurrences,
                                           const BuildOptions& options, Workers& workers) {
  using Word = typename Width::Word;
  Tables<Word> tables(options, occurrences);
  if (needs_margins(options.rows.weighting)) {
    open_margins(tables, options);
    for (int64_t i = 0; i < options.num_items; ++i)
      for (int64_t e = indptr[i]; e < indptr[i + 1]; ++e) {
        tables.row_mass[i] += static_cast<uint64_t>(masses[e]);
        if (tables.column_mass) tables.column_mass[neighbors[e]] += static_cast<uint64_t>(masses[e]);
      }
    close_margins(tables, options);
  }
  Collector<typename Width::Neighbor, float> collector(options.num_items, workers.threads());
  constexpr int64_t grain = 4096;
  const int64_t ranges = (options.num_items + grain - 1) / grain;
  collector.open(ranges);
  workers.run(ranges, [&](int64_t range, int worker) {
    GraphRows<Width> rows(tables, options.rows);
    std::vector<Pair<Word>> pairs;
    std::vector<typename Width::Neighbor> kept;
    std::vector<float> weights;
    const int64_t begin = range * grain, end = std::min(options.num_items, begin + grain);
    for (int64_t i = begin; i < end && !workers.stopped(); ++i) {
      const int64_t before = static_cast<int64_t>(kept.size());
      double degree = 0;
      if (i != options.padding) {
        pairs.clear();
        for (int64_t e = indptr[i]; e < indptr[i + 1]; ++e)
          pairs.push_back({static_cast<Word>(neighbors[e]), static_cast<uint64_t>(masses[e])});
        degree = rows.append(static_cast<Word>(i), pairs, kept, weights);
      }
      collector.row(i, static_cast<int64_t>(kept.size()) - before, degree);
    }
    collector.part(range, worker, begin, kept, weights);
    workers.advance(end - begin);
  });
  return collector.join(workers);
}

}  // namespace resemb::graph
