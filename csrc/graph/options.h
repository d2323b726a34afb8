// What the builder is told: how pairs are counted, weighed and kept.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace resemb::graph {

// Ids of items and places of events. The highest bit of an id is taken, so there are as many items as an
// int32 has ids.
using Word = uint32_t;
using Neighbor = int32_t;
constexpr int64_t kMostItems = std::numeric_limits<Neighbor>::max();
constexpr int64_t kMostEvents = std::numeric_limits<Word>::max();

enum class Weighting { count, cosine, jaccard, ppmi };

// Longest times between events, in the units of the log's times; a negative one means no limit.
struct TimeLimits {
  int64_t int_gap = -1, int_session = -1;
  double float_gap = -1, float_session = -1;
  bool gap() const { return int_gap >= 0; }
  bool session() const { return int_session >= 0; }
};

struct RowOptions {
  int64_t window = 1;          // positions, >= 1
  std::vector<uint64_t> mass;  // of a pair by distance (from 1), in units; empty: one unit each
  uint64_t unit = 1;           // units of mass in a pair that counts 1
  uint64_t min_mass = 1;       // smallest mass that makes an edge
  int64_t top_k = 0;           // other items kept in a row
  Weighting weighting = Weighting::count;
  double damping = 0;                // weights are divided by (n_i n_j)^damping
  bool directed = false;             // count pairs in the row of the earlier item only
  bool largest_self_weight = false;  // self weight: the row's largest weight (1 in an empty row)
  double self_weight = 0;            // else this
  int64_t category_edges = 0;        // heads of a category
  double category_weight = 0;

  uint64_t mass_at(int64_t distance) const { return mass.empty() ? 1 : mass[distance - 1]; }
};

struct BuildOptions {
  int64_t num_items = 0;
  int64_t padding = -1;  // -1: none; else the one row without entries
  TimeLimits limits;
  RowOptions rows;
  const int64_t* category = nullptr;  // [num_items] of each item, negative: none; or null
};

}  // namespace resemb::graph
