// A sequence too long for memory: on disk, read once for every range of items that fits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "graph/builder.h"
#include "graph/spill.h"

namespace resemb::graph {

class SequenceFile {
 public:
  SequenceFile(const std::string& folder, int64_t count, bool reach) : entries_(folder), count_(count) {
    if (reach) reach_ = std::make_unique<SpillFile>(folder);
  }

  void write(int64_t at, const Word* entries, const Word* reach, int64_t size) {
    entries_.write(entries, size * kBytes, at * kBytes);
    if (reach_) reach_->write(reach, size * kBytes, at * kBytes);
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

  template <class Rows>
  void rows(const Tables& tables, const BuildOptions& options, Workers& workers, int64_t memory,
            Collector<Neighbor, typename Rows::Value>& out) const {
    const int64_t around = 2 * options.rows.window + 1;
    const int64_t bytes = reach_ ? 2 * kBytes : kBytes;
    int64_t first = 0;
    while (first < options.num_items) {
      int64_t last = first, own = 0;
      const auto need = [&](int64_t positions) {
        return std::min(count_, positions * around) * bytes + positions * kBytes;
      };
      do own += tables.occurrences[last++];
      while (last < options.num_items && need(own + tables.occurrences[last]) <= memory);
      Sequence part;
      workers.run(1, [&](int64_t, int) {
        gather(part, first, last, std::min(count_, own * around), options.rows.window, workers);
      });
      build_rows<Rows>(workers, part, tables, first, last, options, out);
      first = last;
    }
  }

 private:
  static constexpr int64_t kBytes = sizeof(Word);
  static constexpr int64_t kChunk = 1 << 20;

  void load(Sequence& part, int64_t begin, int64_t end) const {
    part.count = end - begin;
    part.entries = std::make_unique_for_overwrite<Word[]>(part.count);
    entries_.read(part.entries.get(), part.count * kBytes, begin * kBytes);
    if (!reach_) return;
    part.reach = std::make_unique_for_overwrite<Word[]>(part.count);
    reach_->read(part.reach.get(), part.count * kBytes, begin * kBytes);
  }

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

  SpillFile entries_;
  std::unique_ptr<SpillFile> reach_;
  const int64_t count_;
};

}  // namespace resemb::graph
