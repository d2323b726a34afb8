// A sequence too long for memory: on disk, read once for every range of items that fits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "graph/builder.h"
#include "graph/hash.h"
#include "graph/memory.h"
#include "graph/spill.h"

namespace resemb::graph {

class SequenceFile {
 public:
  // In files that have no name, or `name` and, of the reaches, `name`.reach.
  SequenceFile(const std::string& folder, int64_t count, bool reach, const std::string& name = {})
      : count_(count) {
    const auto file = [&](const std::string& named) {
      return name.empty() ? std::make_unique<SpillFile>(folder)
                          : std::make_unique<SpillFile>(folder, named, count * kBytes);
    };
    entries_ = file(name);
    if (reach) reach_ = file(name + ".reach");
  }

  int64_t bytes() const { return count_ * (reach_ ? 2 * kBytes : kBytes); }

  void write(int64_t at, const Word* entries, const Word* reach, int64_t size) {
    entries_->write(entries, size * kBytes, at * kBytes);
    if (reach_) reach_->write(reach, size * kBytes, at * kBytes);
  }

  // Of what write() wrote.
  static uint64_t checksum_of(const Word* entries, const Word* reach, int64_t size) {
    return checksum(entries, size * kBytes) + (reach ? 3 * checksum(reach, size * kBytes) : 0);
  }

  // All of it.
  Sequence load(Workers& workers) const {
    Sequence whole;
    whole.count = count_;
    whole.entries = large_array<Word>(count_);
    if (reach_) whole.reach = large_array<Word>(count_);
    workers.ranges(count_, kChunk, [&](int64_t begin, int64_t end) {
      entries_->read(whole.entries.get() + begin, (end - begin) * kBytes, begin * kBytes);
      if (reach_) reach_->read(whole.reach.get() + begin, (end - begin) * kBytes, begin * kBytes);
    });
    return whole;
  }
  // [begin, end) of it.
  void load(Sequence& part, int64_t begin, int64_t end) const {
    part.count = end - begin;
    part.entries = std::make_unique_for_overwrite<Word[]>(part.count);
    entries_->read(part.entries.get(), part.count * kBytes, begin * kBytes);
    if (!reach_) return;
    part.reach = std::make_unique_for_overwrite<Word[]>(part.count);
    reach_->read(part.reach.get(), part.count * kBytes, begin * kBytes);
  }

  void margins(Tables& tables, const BuildOptions& options, Workers& workers) const {
    open_margins(tables, options);
    const int64_t window = options.rows.window;
    workers.run((count_ + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
      Sequence part;
      const int64_t begin = chunk * kChunk, end = std::min(count_, begin + kChunk);
      load(part, begin, std::min(count_, end + window));
      add_margins(part, 0, end - begin, options.rows, tables.row_mass.get(), tables.column_mass.get());
    });
    close_margins(tables, options);
  }

  // The item that ends a pass over the rows from `first` on: with the surroundings of their positions, the
  // pass takes `memory` bytes at most, where one item does not take more.
  int64_t pass_end(const Word* occurrences, int64_t first, const BuildOptions& options,
                   int64_t memory) const {
    const int64_t around = 2 * options.rows.window + 1;
    const int64_t entry = reach_ ? 2 * kBytes : kBytes;
    int64_t last = first, own = occurrences[last++];
    const auto need = [&](int64_t positions) {
      return std::min(count_, positions * around) * entry + positions * kBytes;
    };
    while (last < options.num_items && need(own + occurrences[last]) <= memory) own += occurrences[last++];
    return last;
  }

  // Rows [first, last) of one pass.
  template <class Rows>
  void rows(const Tables& tables, int64_t first, int64_t last, const BuildOptions& options, Workers& workers,
            Collector<Neighbor, typename Rows::Value>& out) const {
    const int64_t around = 2 * options.rows.window + 1;
    const int64_t own = std::accumulate(tables.occurrences + first, tables.occurrences + last, int64_t{0});
    Sequence part;
    workers.run(1, [&](int64_t, int) {
      gather(part, first, last, std::min(count_, own * around), options.rows.window, workers);
    });
    build_rows<Rows>(workers, part, tables, first, last, options, out);
  }

 private:
  static constexpr int64_t kBytes = sizeof(Word);
  static constexpr int64_t kChunk = 1 << 20;

  // The surroundings of all positions of items [first, last): runs of the sequence, each with a start
  // mark, so that no pair crosses what is left out.
  void gather(Sequence& out, int64_t first, int64_t last, int64_t room, int64_t window,
              const Workers& workers) const {
    constexpr Word start = Sequence::start;
    out.count = 0;
    out.entries = std::make_unique_for_overwrite<Word[]>(room);
    if (reach_) out.reach = std::make_unique_for_overwrite<Word[]>(room);
    int64_t taken = 0;  // positions before it are in `out` or are not wanted
    for (int64_t begin = 0; begin < count_ && !workers.stopped(); begin += kChunk) {
      const int64_t end = std::min(count_, begin + kChunk);
      const int64_t low = std::max<int64_t>(0, begin - window);
      Sequence part;
      load(part, low, std::min(count_, end + window));
      for (int64_t at = begin; at < end; ++at) {
        const int64_t item = part.entries[at - low] & ~start;
        if (item < first || item >= last) continue;
        int64_t from = at - window;
        const bool cut = from > taken;
        from = std::max(from, taken);
        const int64_t to = std::min(count_, at + window + 1);
        for (int64_t k = from; k < to; ++k) {
          out.entries[out.count] = part.entries[k - low] | (cut && k == from ? start : Word{0});
          if (reach_) out.reach[out.count] = part.reach[k - low];
          ++out.count;
        }
        taken = std::max(taken, to);
      }
    }
  }

  std::unique_ptr<SpillFile> entries_, reach_;
  const int64_t count_;
};

// Of a sequence in memory: the item that ends a pass over the rows from `first` on, whose positions take
// `memory` bytes at most, where those of one item do not take more.
inline int64_t pass_end(const Word* occurrences, int64_t first, int64_t num_items, int64_t memory) {
  int64_t last = first, own = occurrences[last++];
  while (last < num_items && (own + occurrences[last]) * int64_t{sizeof(Word)} <= memory)
    own += occurrences[last++];
  return last;
}

// Whether a sequence is held in memory as a whole, beside positions of a quarter of the memory.
inline bool fits(int64_t sequence_bytes, int64_t memory) {
  return memory < 0 || sequence_bytes <= memory - memory / 4;
}

}  // namespace resemb::graph
