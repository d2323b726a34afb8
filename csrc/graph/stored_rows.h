// The second half of a build that another process can go on with: from a sorted sequence in a file to rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "graph/builder.h"
#include "graph/passes.h"
#include "graph/sorting.h"

namespace resemb::graph {

// The name of the file of the sequence.
inline constexpr const char* kSequenceName = "sequence";

// Sorts buckets [first, last) of a store into the sequence in its folder and counts the events of each item.
// Returns the buckets' checksums. offsets: of store.close().
std::vector<uint64_t> sort_to_file(EventStore& store, const std::vector<int64_t>& offsets, int64_t first,
                                   int64_t last, const BuildOptions& options, Workers& workers,
                                   Word* occurrences);

// Makes rows of such a sequence.
class StoredRows {
 public:
  // offsets, sums: of the buckets. occurrences: events of each item; outlives the object, as options do.
  StoredRows(const std::string& folder, const std::vector<int64_t>& offsets, const BuildOptions& options,
             const Word* occurrences, int64_t memory)
      : options_(options),
        offsets_(offsets),
        folder_(folder),
        memory_(memory),
        file_(folder, offsets.back(), options.limits.gap(), kSequenceName),
        tables_(options, occurrences) {}

  int64_t count() const { return offsets_.back(); }

  // Before the first rows: reads the sequence, throws DamagedFile where it is not what was written.
  void open(const std::vector<uint64_t>& sums, Workers& workers);

  // The item that ends the pass that starts with `first`, where its positions may take `positions` bytes.
  int64_t pass_end(int64_t first, int64_t positions) const;
  Csr<Neighbor, float> rows(int64_t first, int64_t last, Workers& workers) const;

 private:
  const BuildOptions& options_;
  const std::vector<int64_t> offsets_;
  const std::string folder_;
  const int64_t memory_;
  SequenceFile file_;
  Tables tables_;
  Sequence whole_;  // where it fits
  bool in_memory_ = false;
};

}  // namespace resemb::graph
