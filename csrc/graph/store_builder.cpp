#include "graph/store_builder.h"

#include <algorithm>

#include "graph/passes.h"

namespace resemb::graph {
namespace {

// The events' memory for rows of at most top_k + 1 entries; what they cannot need is freed.
template <class Value>
void spare_blocks(EventStore& store, const BuildOptions& options, Spare& spare) {
  const double pairs = 2.0 * static_cast<double>(options.rows.window) * static_cast<double>(store.count());
  const double rows = static_cast<double>(options.num_items);
  const double bytes = std::min((static_cast<double>(options.rows.top_k) + 1) * rows, pairs + rows) *
                       (sizeof(Neighbor) + sizeof(Value));
  store.give_blocks(bytes, spare);
}

}  // namespace

template <class Rows>
Csr<Neighbor, typename Rows::Value> build(EventStore& store, const BuildOptions& options, Workers& workers,
                                          Tails* tails, std::unique_ptr<Word[]>& occurrences) {
  occurrences = std::make_unique<Word[]>(options.num_items);
  const int64_t count = store.count(), memory = store.memory();
  const bool reach = options.limits.gap();
  const int64_t sequence_bytes = count * int64_t{sizeof(Word)} * (reach ? 2 : 1);
  const bool on_disk = !fits(sequence_bytes, memory);
  if (memory >= 0 && store.held_bytes() + (on_disk ? 0 : sequence_bytes) > memory) store.spill_all();
  Collector<Neighbor, typename Rows::Value> collector(options.num_items, workers.threads());
  const std::vector<int64_t> offsets = store.close();
  const auto sort = [&](const WriteEntries& write) {
    sort_events(store, offsets, 0, store.buckets(), options, workers, occurrences.get(), tails, write);
    store.forget_events();
  };
  if (on_disk) {
    SequenceFile file(store.folder(), count, reach);
    store.count_spilled(sequence_bytes);
    sort([&](int64_t at, const Word* entries, const Word* far, int64_t size) {
      file.write(at, entries, far, size);
    });
    store.free_blocks();
    Tables tables(options, occurrences.get());
    if (needs_margins(options.rows.weighting)) file.margins(tables, options, workers);
    for (int64_t first = 0, last; first < options.num_items; first = last) {
      last = file.pass_end(occurrences.get(), first, options, memory);
      file.rows<Rows>(tables, first, last, options, workers, collector);
    }
  } else {
    Sequence sequence;
    sequence.count = count;
    sequence.entries = large_array<Word>(count);
    if (reach) sequence.reach = large_array<Word>(count);
    sort([&](int64_t at, const Word* entries, const Word* far, int64_t size) {
      std::copy_n(entries, size, sequence.entries.get() + at);
      if (far) std::copy_n(far, size, sequence.reach.get() + at);
    });
    spare_blocks<typename Rows::Value>(store, options, collector.spare);
    Tables tables(options, occurrences.get());
    if (needs_margins(options.rows.weighting)) make_margins(tables, sequence, options, workers);
    for (int64_t first = 0, last; first < options.num_items; first = last) {
      last = memory < 0 ? options.num_items
                        : pass_end(occurrences.get(), first, options.num_items, memory - sequence_bytes);
      build_rows<Rows>(workers, sequence, tables, first, last, options, collector);
    }
  }
  return collector.join(workers);
}

template Csr<Neighbor, float> build<GraphRows>(EventStore&, const BuildOptions&, Workers&, Tails*,
                                               std::unique_ptr<Word[]>&);
template Csr<Neighbor, int64_t> build<CountRows>(EventStore&, const BuildOptions&, Workers&, Tails*,
                                                 std::unique_ptr<Word[]>&);

}  // namespace resemb::graph
