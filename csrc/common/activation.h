// DIN's attention unit over histories: the operators local_activation and local_activation_backward.
//
// For sample b with query q, part c of the first layer and keys k_p, hidden units h:
//   M = w_key + w_product diag(q)
//   z_p = M k_p + c;  a_p = z_p, or slope z_p where z_p is not above 0
//   score_p = out_weight . a_p + out_bias;  pooled = sum over p of score_p k_p
// M is made once a sample, which halves the products of a layer on [k, q * k], and everything of a tile of
// positions stays in cache. Backward makes z again instead of keeping it.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace resemb {

constexpr int64_t kPositions = 64;  // of a tile
constexpr int64_t in_vectors(int64_t n) { return (n + 7) / 8 * 8; }

// Numbers are float, or double with `is_double`. Rows of wide matrices are padded to whole vectors with
// zeros.
struct ActivationArgs {
  bool is_double;
  int64_t samples, dim, hidden;               // B, D, H
  const int64_t* starts;                      // [B] the first key of each sample
  const int64_t* offsets;                     // [B + 1] the first pair of each sample
  const void* keys;                           // [K, D]
  const void* query;                          // [B, D]
  const void* by_query;                       // [B, H] c
  const void *w_key, *w_product;              // [H, D]
  const void *slope, *out_weight, *out_bias;  // [H], [H], [1]
  void* scores;                               // [Q]; read by backward
  void* pooled;                               // [B, D], or null: not wanted

  // Of backward; null gradients are zero. The samples' keys do not overlap.
  const void *grad_scores, *grad_pooled;               // [Q], [B, D]
  void *grad_keys, *grad_query, *grad_by_query;        // [K, D], [B, D], [B, H]
  void *grad_w_key, *grad_w_product;                   // [H, D]
  void *grad_slope, *grad_out_weight, *grad_out_bias;  // [H], [H], [1]

  // What all samples share, made from the above: w_key and w_product as wide rows [H, D] and as wide columns
  // [D, H]; slope and out_weight as wide rows.
  const void *key_rows, *product_rows, *key_columns, *product_columns, *wide_slope, *wide_out_weight;

  int64_t wide_dim() const { return in_vectors(dim); }
  int64_t wide_hidden() const { return in_vectors(hidden); }
  // Numbers of scratch that a worker needs, and of the gradients that a block of samples sums by itself:
  // w_key and w_product in wide rows, slope and out_weight, out_bias.
  int64_t scratch() const {
    return 2 * hidden * wide_dim() + dim * wide_hidden() +
           kPositions * (2 * wide_dim() + 2 * wide_hidden() + 8) + 3 * wide_dim() + 2 * wide_hidden();
  }
  int64_t partial() const { return 2 * hidden * wide_dim() + 2 * wide_hidden() + 8; }
};

}  // namespace resemb
