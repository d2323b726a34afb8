// The kernels: everything that touches rows of D numbers. Compiled once per instruction set.
//
// Tables may be float, double, float16 or bfloat16; scratch rows are accumulators (double for
// float64 tables, float otherwise), named "acc" below. All matrices are row-major and contiguous.
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/attention.h"
#include "common/quantized.h"
#include "common/types.h"
#include "common/update.h"

namespace resemb::cpu {

// out[i] = sum over edges e of ids[i] of weight_e * central[neighbor_e] + residual[ids[i]]
struct GatherArgs {
  GraphView graph;
  int64_t num_items;   // H
  int64_t num_edges;   // E
  const int32_t* ids;  // [U]
  int64_t num_ids;     // U
  int64_t dim;         // D
  DType table;
  const void* central;   // [H, D] table
  const void* residual;  // [H, D] table, or null for none
  void* out;             // [U, D] out_type
  DType out_type;        // that of the lookup's output, or acc
};

// Memory of the attention kernels, in numbers of acc: for an item its edges' logs and four numbers of every
// edge and head, copies of a chunk of central rows, and some rows more, heads in whole vectors of 8 at most.
constexpr int64_t attention_stride(int64_t edges) { return (edges + 7) / 8 * 8; }
constexpr int64_t attention_apart(int64_t heads) {
  return heads <= 2 ? heads : heads <= 4 ? 4 : (heads + 7) / 8 * 8;
}
constexpr int64_t attention_scratch(int64_t edges, int64_t dim, int64_t heads) {
  const int64_t row = heads * ((dim / heads + 7) / 8 * 8), copies = edges < kChunk ? edges : kChunk;
  const int64_t apart = attention_apart(heads);
  return (4 * apart + 1) * attention_stride(edges) + (copies + 8) * row + 2 * (apart + 8);
}

// E of a lookup's unique ids under the attention link. Forward: as gather, with weights alpha made on the
// fly. Backward: the same alpha again and, with G the gradient of out,
//   d_ue = alpha_ue (G_u . C_ne - sum over e of alpha_ue G_u . C_ne)    gradient of the whole score
//   score_ue = d_ue, or kLeak d_ue where LeakyReLU's argument is not above 0
// and the sums over rows and edges of score_ue C_u, score_ue C_ne and d_ue log z_ue: of a_src, a_dst, b.
struct AttentionArgs {
  GatherArgs gather;  // graph.weights: log z; out: of forward alone
  Attention link;
  void* scratch;  // attention_scratch(the widest row's edges, dim, heads) acc

  const void* grad;        // [U, D] acc: G
  const int64_t* offsets;  // [U + 1] touched edges before each row
  void* edges;             // [T, 2, heads] acc: alpha after dropout, then score
  void* row_scores;        // [U, heads] acc: the row's sum of score
  void* sums;              // [2 D + heads] acc, added to
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

// Terms of the central gradient under the attention link: of one head with its numbers, of several with
// the place of its numbers.
template <class A>
struct AttendedTerm {
  uint32_t source;
  EdgeGradient<A> edge;
};
struct PlacedTerm {
  uint32_t source, edge;
};

// out[target_s] = sum over terms of alpha * source[u] + (sum of score) * a_dst
//                 + row_scores[u] * a_src for the row u of item s itself, where the batch has it.
// Terms are AttendedTerm<acc> with one head, PlacedTerm with several; source rows are acc.
struct AttentionSegmentArgs : SegmentArgs {
  Attention link;
  const void* edges;          // [T, 2, heads] acc: alpha and score, where there are several heads
  const void* row_scores;     // [U, heads] acc
  const int32_t* unique_ids;  // [U] ascending
  int64_t num_unique;         // U
  const int32_t* items;       // [S] ascending
  // The sums alone, each a row of D + heads acc: those of alpha * source, then those of score.
  bool parts;
};

// out[targets[i]] = source[sources[i]], of out_type, or converted from acc to it; a null index is the
// identity.
struct CopyArgs {
  const int32_t* sources;  // [N] or null
  const int32_t* targets;  // [N] or null
  int64_t dim;
  DType source_type, out_type;
  const void* source;
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

// Each runs over items [begin, end) of its arguments: rows, segments, copies, pairs, ids, updates, samples.
struct Kernels {
  const char* isa;
  // Returns the first row whose edges leave the graph's arrays or name an item outside [0, H), or -1:
  // a malformed graph must not read foreign memory, and the check is free while edges are in cache.
  int64_t (*gather)(const GatherArgs&, int64_t begin, int64_t end);
  bool (*segment_sum)(const SegmentArgs&, int64_t begin, int64_t end);
  // Likewise; a row is bad too that lacks its own entry or has a log z that is not finite.
  int64_t (*attend)(const AttentionArgs&, int64_t begin, int64_t end);
  void (*attend_backward)(const AttentionArgs&, int64_t begin, int64_t end);
  bool (*attention_segment_sum)(const AttentionSegmentArgs&, int64_t begin, int64_t end);
  void (*copy)(const CopyArgs&, int64_t begin, int64_t end);
  void (*dot)(const DotArgs&, int64_t begin, int64_t end);
  void (*rank)(const RankArgs&, int64_t begin, int64_t end);
  void (*update)(const UpdateArgs&, int64_t begin, int64_t end);
  // See common/activation.h; scratch: args.scratch() numbers, partial: args.partial(), written.
  void (*activate)(const ActivationArgs&, void* scratch, int64_t begin, int64_t end);
  void (*activate_backward)(const ActivationArgs&, void* scratch, void* partial, int64_t begin, int64_t end);
  // Over positions, and over bags whose bounds were checked. Return the first position whose id is bad or
  // whose row is nowhere, or -1; what they have written then means nothing.
  int64_t (*read_rows)(const ServedRows&, int64_t begin, int64_t end);
  int64_t (*pool_rows)(const ServedBags&, int64_t begin, int64_t end);
};

// The kernels in use: the best path of this processor, or the one that RESEMB_ISA names.
const Kernels& kernels();

// Chooses a path by name ("auto", "baseline", "avx2"); throws std::invalid_argument with the paths
// at hand where this build or processor lacks it.
void select_isa(const char* name);

// Comma-separated names of the paths that run here.
const char* available_isas();

}  // namespace resemb::cpu
