// Lookup and bag over the interest graph on the device; what csrc/cpu/lookup.h says of them holds here.
//
// Nothing waits for the device: the numbers of unique rows, touched edges and touched neighbours stay
// there, and arrays have the size that P, H and the graph's longest row allow.
#pragma once

#include <cstdint>

#include "common/attention.h"
#include "common/types.h"
#include "common/update.h"
#include "cuda/context.h"

namespace resemb::cuda {

struct Lookup {
  int64_t num_items;     // H
  int64_t num_edges;     // E
  int64_t dim;           // D
  int64_t positions;     // P
  int64_t max_degree;    // of the graph, or more
  DType table;           // of central and residual
  DType out_type;        // of the output and its gradient
  const void* central;   // [H, D]; may be null where only G and grad C are wanted
  const void* residual;  // [H, D]; may be null likewise
  GraphView graph;
  const int64_t* offsets;      // [B + 1] starts of bags and P, or null for a lookup
  int64_t num_bags;            // B
  const void* sample_weights;  // [P] acc, or null
  bool mean;                   // divide a bag's sum by its count of positions other than padding
  Attention attention;         // heads 0: the link is another one; else the graph's weights are log z
  bool graph_on_host;          // in pinned memory: every touched edge is read once a pass

  DType acc() const { return accumulator(table); }
  bool is_bag() const { return offsets != nullptr; }
  int64_t max_unique() const { return positions < num_items ? positions : num_items; }
  // Of the edges that a batch can touch.
  int64_t max_edges() const {
    const bool all = max_unique() == 0 || max_degree > num_edges / max_unique();
    return all && max_unique() > 0 ? num_edges : max_unique() * max_degree;
  }
  int64_t max_columns() const { return max_edges() < num_items ? max_edges() : num_items; }
};

// The plan on the device, int32 [2 P + 1]: U; the positions' ids in ascending order, padding and bad ones
// as H at the end; and the positions in that order.
struct Plan {
  uint32_t* num_unique;  // [1]
  uint32_t* sorted;      // [P]
  uint32_t* order;       // [P]
  Plan(int32_t* data, int64_t positions)
      : num_unique(reinterpret_cast<uint32_t*>(data)), sorted(num_unique + 1), order(sorted + positions) {}
};

// Unique rows and, for each, its positions: order[starts[u]] to order[starts[u + 1]].
struct Groups {
  const uint32_t* num_unique;  // [1] U
  uint32_t* ids;               // [U], ascending
  uint32_t* starts;            // [U + 1]
  uint32_t* rank;              // [P] unique row of a position; max_unique() for padding
  const uint32_t* order;       // [P]
};

// Sorts ids, int32 or int64 [P]. padding_idx < 0: none.
void make_plan(const Context& c, const Lookup& x, const void* ids, bool ids_are_int64, int64_t padding_idx,
               const Plan& plan);
// Finds the groups of a plan, and sets its U.
Groups make_groups(const Context& c, const Lookup& x, const Plan& plan);

// out [P or B, D].
void lookup_forward(const Context& c, const Lookup& x, const Groups& groups, void* out);

// G, [U, D] acc, from grad [P or B, D].
void unique_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* grad, void* out);

// The unique rows' G in the tables' type: out[rows[u]] = G[u], or out[u] where `in_line`.
void store_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* g, bool in_line,
                    void* out);

// Edges of the touched rows, in row order: edge t of unique row u stands at starts[u] + k.
struct TouchedEdges {
  int64_t* first;    // [U] the graph's number of the row's first edge
  uint32_t* starts;  // [U + 1]
  uint32_t* count;   // [1] T
  uint32_t* row;     // [T] u
  uint32_t* column;  // [T] the neighbour; H for one that the graph should not have
};
TouchedEdges touched_edges(const Context& c, const Lookup& x, const Groups& groups);

// Touched edges by neighbour, for each its edges in row order: order[starts[v]] to order[starts[v + 1]].
struct Columns {
  uint32_t* count;    // [1] V
  uint32_t* items;    // [V], ascending
  uint32_t* starts;   // [V + 1]
  uint32_t* order;    // [T] t
  const void* edges;  // [T] u and link weight of edge t
};
// Without weights, Columns::edges is null.
Columns transpose(const Context& c, const Lookup& x, const TouchedEdges& edges, bool with_weights = true);
// The link weights of touched edges, [T] acc.
const void* touched_weights(const Context& c, const Lookup& x, const TouchedEdges& edges);

// grad C: out[items[v]], or out[v] where `in_line`.
void central_gradient(const Context& c, const Lookup& x, const Columns& columns, const void* g, bool in_line,
                      void* out);
// One step of the rows of C, without their gradient in memory. Rows and gradient of `step` are not read.
void step_central(const Context& c, const Lookup& x, const Columns& columns, const void* g,
                  const UpdateArgs& step);

// Grad w in row order, [T] of the weights' type; at edge numbers of the graph where `dense`, else those go
// to `numbers` [T].
void link_weight_gradient(const Context& c, const Lookup& x, const TouchedEdges& edges, const void* g,
                          bool dense, int64_t* numbers, void* out);

// Grad c, [P] acc; 0 at padding. Not defined for mean.
void sample_weight_gradient(const Context& c, const Lookup& x, const Groups& groups, const void* grad,
                            void* out);

// One step of the rows of R, whose gradient is G. Rows and gradient of `step` are not read.
void step_residual(const Context& c, const Lookup& x, const Groups& groups, const void* g,
                   const UpdateArgs& step);
// One step on the rows of a.rows (null: 0 .. N-1); those outside [0, num_items) are passed over.
void update_rows(const Context& c, const UpdateArgs& a, int64_t num_items);

// A table's next step, counted on the device, so that a CUDA graph can repeat it.
struct Advance {
  float* step;            // [1], raised
  const void* lr_device;  // [1] float or double; null: `lr`
  bool lr_is_double;
  double lr, lr_decay, decay;
  double* live;  // [3] lr / (1 + (step - 1) lr_decay), 1 - lr decay, step
};
void advance_step(const Context& c, const Advance& a);

// out[i] = rows[i] for i < n, where n is known.
void to_int64(const Context& c, const uint32_t* rows, int64_t n, int64_t* out);

// The longest row of a graph, to *out on the device.
void max_degree(const Context& c, const int64_t* indptr, int64_t num_items, uint32_t* out);

// Reports rows that do not ascend strictly within [0, num_items), and sets *bad to 1 where not null.
void check_rows(const Context& c, const int64_t* rows, int64_t n, int64_t num_items, bool to_fault,
                uint32_t* bad);

}  // namespace resemb::cuda
