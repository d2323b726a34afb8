// One step of a row-sparse optimizer on one table: what the kernels take.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace resemb {

// Values are those of resemb_ext/optim/_rows.py.
enum class Rule : int32_t { sgd, momentum, adagrad, rowwise_adagrad, adam, decay };

// For each touched row r with gradient g, in accumulators:
//   g    <- -g where maximize
//   p    <- p * exp(decay_now - decayed[r]);  decayed[r] <- decay_now          where decayed
//   p    <- p * shrink
//   g    <- g + weight_decay * p
//   sgd              p <- p - lr g
//   momentum         m <- beta1 m + g;  p <- p - lr (nesterov ? g + beta1 m : m)
//   adagrad          v <- v + g^2;  p <- p - lr g / (sqrt(v) + eps)
//   rowwise_adagrad  v <- v + mean over columns of g^2;  p <- p - lr g / (sqrt(v) + eps)
//   adam             m <- m + (1 - beta1)(g - m);  v <- beta2 v + (1 - beta2) g^2;
//                    p <- p - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
//   decay            nothing more: no gradient
struct UpdateArgs {
  Rule rule;
  DType table;
  int64_t num_rows;     // N
  int64_t dim;          // D
  const int64_t* rows;  // [N], ascending; null: 0 .. N-1
  const void* grad;     // [N, D] table, from the row of number grad_first on
  int64_t grad_first;
  void* param;         // [H, D] table
  void* first;         // m: [H, D] acc, where the rule has one
  void* second;        // v: [H, D] acc, or [H] acc for rowwise_adagrad
  int32_t* row_steps;  // [H] t of each row, raised here; null: t is `step`
  double* decayed;     // [H] the logarithm of the decay that the row has had; null: none is pending
  double decay_now;
  double shrink, weight_decay, lr, beta1, beta2, eps;
  bool maximize, nesterov;
  bool random_rounding;  // of float16 and bfloat16 tables, by Philox(seed; row, column, step)
  uint64_t seed;
  int64_t step;
  const double*
      live;  // [3] on the device: lr, shrink and step in place of those here; null: none. CUDA alone
};

}  // namespace resemb
