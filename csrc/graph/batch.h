// The items of a batch among many: their neighbour lists, and numbers of their own.
#pragma once

#include <cstdint>
#include <vector>

namespace resemb::graph {

// Items by owner, item % ranks, in their order otherwise; counts [ranks].
void group_by_owner(const int64_t* items, int64_t count, int64_t ranks, int64_t* out, int64_t* counts);

struct BatchGraph {
  const int64_t* indptr;
  int64_t num_rows;
  const char* neighbors;
  int64_t neighbor_bytes;  // 4 or 8
  const char* weights;
  int64_t weight_bytes;
  int64_t num_edges;
};

// Lengths of some rows; their sum, or -1 where a row is not there or leaves the arrays.
int64_t row_lengths(const BatchGraph& graph, const int64_t* rows, int64_t count, int64_t* lengths);
// The rows' neighbours and weights one behind the other.
void copy_lists(const BatchGraph& graph, const int64_t* rows, int64_t count, int32_t* neighbors,
                char* weights);

// Numbers 0, 1, ... for the items that are looked up and their neighbours: by owner, those looked up before
// others. Or, apart: numbers of the neighbours alone, while those of the ids are their places.
struct Numbers {
  std::vector<int64_t> items;      // [L], or [V] apart
  std::vector<int64_t> looked_up;  // [U], the numbers of ids, in their order
  std::vector<int64_t> read;       // numbers that occur among the neighbours; empty where all do
  bool all_read;
};

// ids: distinct, by owner. neighbors [count] become numbers. slots: int32 for every item, left with the
// numbers of the ids and, unless apart, of the neighbours. Items must be in [0, num_items); returns false,
// with neighbors as they were, where one is not.
bool number_items(int32_t* slots, int64_t num_items, int64_t ranks, const int64_t* ids, int64_t num_ids,
                  int32_t* neighbors, int64_t count, bool apart, Numbers& numbers);

}  // namespace resemb::graph
