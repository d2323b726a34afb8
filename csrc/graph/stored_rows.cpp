#include "graph/stored_rows.h"

#include <algorithm>

namespace resemb::graph {

std::vector<uint64_t> sort_to_file(EventStore& store, const std::vector<int64_t>& offsets, int64_t first,
                                   int64_t last, const BuildOptions& options, Workers& workers,
                                   Word* occurrences) {
  SequenceFile file(store.folder(), offsets.back(), options.limits.gap(), kSequenceName);
  std::vector<uint64_t> sums(last - first, 0);
  sort_events(store, offsets, first, last, options, workers, occurrences, nullptr,
              [&](int64_t at, const Word* entries, const Word* reach, int64_t size) {
                if (size == 0) return;
                file.write(at, entries, reach, size);
                const auto next = std::upper_bound(offsets.begin(), offsets.end(), at);
                sums[next - offsets.begin() - 1 - first] = SequenceFile::checksum_of(entries, reach, size);
              });
  return sums;
}

void StoredRows::open(const std::vector<uint64_t>& sums, Workers& workers) {
  in_memory_ = fits(file_.bytes(), memory_);
  if (in_memory_) whole_ = file_.load(workers);
  workers.run(static_cast<int64_t>(sums.size()), [&](int64_t b, int) {
    const int64_t begin = offsets_[b], end = offsets_[b + 1];
    if (begin == end) return;
    Sequence part;
    if (!in_memory_) file_.load(part, begin, end);
    const Sequence& from = in_memory_ ? whole_ : part;
    const int64_t at = in_memory_ ? begin : 0;
    const Word* reach = from.reach ? from.reach.get() + at : nullptr;
    if (SequenceFile::checksum_of(from.entries.get() + at, reach, end - begin) != sums[b])
      throw DamagedFile(folder_ + "/" + kSequenceName);
    workers.advance(end - begin);
  });
  if (!needs_margins(options_.rows.weighting)) return;
  if (in_memory_)
    make_margins(tables_, whole_, options_, workers);
  else
    file_.margins(tables_, options_, workers);
}

int64_t StoredRows::pass_end(int64_t first, int64_t positions) const {
  if (!in_memory_) return file_.pass_end(tables_.occurrences, first, options_, memory_);
  const int64_t left = memory_ < 0 ? positions : std::min(positions, memory_ - file_.bytes());
  return graph::pass_end(tables_.occurrences, first, options_.num_items, left);
}

Csr<Neighbor, float> StoredRows::rows(int64_t first, int64_t last, Workers& workers) const {
  Collector<Neighbor, float> collector(last - first, workers.threads(), first);
  if (in_memory_)
    build_rows<GraphRows>(workers, whole_, tables_, first, last, options_, collector);
  else
    file_.rows<GraphRows>(tables_, first, last, options_, workers, collector);
  return collector.join(workers);
}

}  // namespace resemb::graph
