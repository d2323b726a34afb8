#include "graph/builder.h"

#include <algorithm>
#include <atomic>

namespace resemb::graph {

std::unique_ptr<Word[]> count_items(Workers& workers, const Sequence& sequence, int64_t num_items) {
  auto occurrences = std::make_unique<Word[]>(num_items);
  workers.ranges(sequence.count, detail::kEventGrain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at)
      std::atomic_ref(occurrences[sequence.entries[at] & ~Sequence::start])
          .fetch_add(1, std::memory_order_relaxed);
  });
  return occurrences;
}

void add_margins(const Sequence& sequence, int64_t begin, int64_t end, const RowOptions& options,
                 uint64_t* rows, uint64_t* columns) {
  constexpr Word start = Sequence::start;
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

void open_margins(Tables& tables, const BuildOptions& options) {
  tables.row_mass = std::make_unique<uint64_t[]>(options.num_items);
  if (options.rows.directed) tables.column_mass = std::make_unique<uint64_t[]>(options.num_items);
}

void close_margins(Tables& tables, const BuildOptions& options) {
  uint64_t total = 0;
  for (int64_t i = 0; i < options.num_items; ++i) total += tables.row_mass[i];
  tables.total_mass = static_cast<double>(total);
}

void make_margins(Tables& tables, const Sequence& sequence, const BuildOptions& options, Workers& workers) {
  open_margins(tables, options);
  workers.ranges(sequence.count, detail::kEventGrain, [&](int64_t begin, int64_t end) {
    add_margins(sequence, begin, end, options.rows, tables.row_mass.get(), tables.column_mass.get());
  });
  close_margins(tables, options);
}

Csr<Neighbor, float> build(const Events& events, const BuildOptions& options, Workers& workers) {
  const Sequence sequence = make_sequence(workers, events, options);
  const auto occurrences = count_items(workers, sequence, options.num_items);
  Tables tables(options, occurrences.get());
  if (needs_margins(options.rows.weighting)) make_margins(tables, sequence, options, workers);
  Collector<Neighbor, float> collector(options.num_items, workers.threads());
  build_rows<GraphRows>(workers, sequence, tables, 0, options.num_items, options, collector);
  return collector.join(workers);
}

Csr<Neighbor, float> weigh(const int64_t* indptr, const Neighbor* neighbors, const int64_t* masses,
                           const Word* occurrences, const BuildOptions& options, Workers& workers) {
  Tables tables(options, occurrences);
  if (needs_margins(options.rows.weighting)) {
    open_margins(tables, options);
    for (int64_t i = 0; i < options.num_items; ++i)
      for (int64_t e = indptr[i]; e < indptr[i + 1]; ++e) {
        tables.row_mass[i] += static_cast<uint64_t>(masses[e]);
        if (tables.column_mass) tables.column_mass[neighbors[e]] += static_cast<uint64_t>(masses[e]);
      }
    close_margins(tables, options);
  }
  Collector<Neighbor, float> collector(options.num_items, workers.threads());
  constexpr int64_t grain = 4096;
  const int64_t ranges = (options.num_items + grain - 1) / grain;
  collector.open(ranges);
  workers.run(ranges, [&](int64_t range, int worker) {
    GraphRows rows(tables, options.rows);
    std::vector<Neighbor> kept;
    std::vector<float> weights;
    const int64_t begin = range * grain, end = std::min(options.num_items, begin + grain);
    for (int64_t i = begin; i < end && !workers.stopped(); ++i) {
      const int64_t before = static_cast<int64_t>(kept.size());
      double degree = 0;
      if (i != options.padding) {
        const auto each = [&](const auto& use) {
          for (int64_t e = indptr[i]; e < indptr[i + 1]; ++e)
            use(static_cast<Word>(neighbors[e]), static_cast<uint64_t>(masses[e]));
        };
        degree = rows.append(static_cast<Word>(i), indptr[i + 1] - indptr[i], each, kept, weights);
      }
      collector.row(i, static_cast<int64_t>(kept.size()) - before, degree);
    }
    collector.part(range, worker, begin, kept, weights);
    workers.advance(end - begin);
  });
  return collector.join(workers);
}

}  // namespace resemb::graph
