// Row kernels: everything that touches D-wide rows. Compiled once per instruction set.
//
// Tables may be float, double, float16 or bfloat16; scratch rows are accumulators (double for
// float64 tables, float otherwise), named "acc" below. All matrices are row-major and contiguous.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "common/update.h"

namespace resemb {

// out[i] = sum over e in graph row rows[i] of weight_e * central[neighbor_e] + residual[rows[i]]
struct GatherArgs {
  GraphView graph;
  int64_t num_items;    // H
  int64_t num_edges;    // E
  const int32_t* rows;  // [U]
  int64_t num_rows;     // U
  int64_t dim;          // D
  DType table;
  const void* central;   // [H, D] table
  const void* residual;  // [H, D] table, or null for none
  void* out;             // [U, D] acc
};

// out[target_s] = sum over t in [begin[s], end[s]) of terms[t].weight * source[terms[t].source].
// Segments longer than kChunk are left untouched: the caller sums them chunk by chunk. Returns whether
// there were any.
struct SegmentArgs {
  const void* terms;  // [num_terms] Term<float>, or Term<double> for double accumulation
  int64_t num_terms;
  const uint32_t* begin;   // [S]
  const uint32_t* end;     // [S]
  const int32_t* targets;  // [S] rows of out, or null for the segment's own number
  int64_t dim;
  DType source_type, out_type;
  const void* source;     // [*, D]
  void* out;              // [*, D]
  bool bypass_cache;      // the output is too large to stay in cache
  int64_t out_first = 0;  // without targets: the segment whose sum is the first row of out
};

// out[targets[i]] = source[sources[i]], converted from acc to out_type; a null index is the identity.
struct CopyArgs {
  const int32_t* sources;  // [N] or null
  const int32_t* targets;  // [N] or null
  int64_t dim;
  DType out_type;
  const void* source;  // acc rows
  void* out;
  bool bypass_cache;  // the output is too large to stay in cache
};

// out[k] = dot(left[pairs[k].left], right[pairs[k].right]), summed in acc
struct DotPair {
  uint32_t left, right;
};
struct DotArgs {
  const DotPair* pairs;  // [N]
  int64_t dim;
  DType right_type;
  const void* left;   // acc rows
  const void* right;  // rows of right_type
  void* out;          // [N] acc
};

// out[i] = rank of items[i] in an ItemSet, which holds it; excluded_rank where items[i] == excluded. May
// run in place.
struct RankArgs {
  const uint64_t* bits;
  const uint32_t* before;
  const void* items;  // [N] int32 or int64
  bool items_are_int64;
  int64_t excluded;
  int32_t excluded_rank;
  int32_t* out;  // [N]
};

// Each runs over items [begin, end) of its arguments: rows, segments, copies, pairs, ids, updates.
struct RowKernels {
  const char* isa;
  // Returns the first row whose edges leave the graph's arrays or name an item outside [0, H), or -1:
  // a malformed graph must not read foreign memory, and the check is free while edges are in cache.
  int64_t (*gather)(const GatherArgs&, int64_t begin, int64_t end);
  bool (*segment_sum)(const SegmentArgs&, int64_t begin, int64_t end);
  void (*copy)(const CopyArgs&, int64_t begin, int64_t end);
  void (*dot)(const DotArgs&, int64_t begin, int64_t end);
  void (*rank)(const RankArgs&, int64_t begin, int64_t end);
  void (*update)(const UpdateArgs&, int64_t begin, int64_t end);
};

extern const RowKernels kBaselineRows;
#if defined(__x86_64__)
extern const RowKernels kAvx2Rows;
#endif

// The kernels in use: the best path of this processor, or the one that RESEMB_ISA names.
const RowKernels& row_kernels();

// Chooses a path by name ("auto", "baseline", "avx2"); throws std::invalid_argument with the paths
// at hand where this build or processor lacks it.
void select_isa(const char* name);

// Comma-separated names of the paths that run here.
const char* available_isas();

}  // namespace resemb
