// One step of a row-sparse optimizer on one table: what the kernels take.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace resemb {

// The names that C++ and Python share, in the order of the operators' `integers` and `reals`; `_C` hands
// them to Python, which makes its lists by them.
#define RESEMB_RULES(X) X(sgd) X(momentum) X(adagrad) X(rowwise_adagrad) X(adam)
#define RESEMB_UPDATE_REALS(X) X(decay_now) X(shrink) X(weight_decay) X(lr) X(beta1) X(beta2) X(eps)
#define RESEMB_UPDATE_INTEGERS(X) \
  X(rule) X(maximize) X(nesterov) X(random_rounding) X(seed) X(step) X(first_form) X(second_form)
#define RESEMB_MOMENTS(X) X(acc) X(bf16) X(i8) X(row)

#define RESEMB_NAME(name) name,
enum class Rule : int32_t { RESEMB_RULES(RESEMB_NAME) decay };

// How a moment is kept: [H, D] acc; [H, D] bfloat16; [H, D] int8, each times its row's scale; [H] acc, one
// number a row. bf16 and i8 are rounded at random (common/rounding.h), after the row's step has used them.
enum class Moment : int32_t { RESEMB_MOMENTS(RESEMB_NAME) };
#undef RESEMB_NAME

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
//                    with v by row: v <- beta2 v + (1 - beta2) mean over columns of g^2
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
  void* first;         // m in first_form, where the rule has one: acc, bf16 or i8
  float* first_scale;  // [H] of a first moment in i8 alone
  void* second;        // v in second_form, where the rule has one: acc, bf16 or row
  int32_t* row_steps;  // [H] t of each row, raised here; null: t is `step`
  double* decayed;     // [H] the logarithm of the decay that the row has had; null: none is pending
  double decay_now;
  double shrink, weight_decay, lr, beta1, beta2, eps;
  bool maximize, nesterov;
  bool random_rounding;  // of float16 and bfloat16 tables
  uint64_t seed;         // of the random bits of param, first and second
  int64_t step;
  // Beside acc and acc, of adam on tables of other types than double: bf16 and bf16, or row with any first.
  // rowwise_adagrad has row.
  Moment first_form, second_form;
  const double* live;  // [3] on the device: lr, shrink and step in place of those here; null: none
};

// A table's next step, counted on its device, so that a CUDA graph can repeat it.
struct Advance {
  float* step;            // [1], raised
  const void* lr_device;  // [1] float or double; null: `lr`
  bool lr_is_double;
  double lr, lr_decay, decay;
  double* live;  // [3] lr / (1 + (step - 1) lr_decay), 1 - lr decay, step

  RESEMB_INLINE void run() const {
    const double next = static_cast<double>(*step + 1.0f);
    double rate = lr;
    if (lr_device != nullptr) {
      rate = lr_is_double ? *static_cast<const double*>(lr_device)
                          : static_cast<double>(*static_cast<const float*>(lr_device));
    }
    *step = static_cast<float>(next);
    live[0] = rate / (1 + (next - 1) * lr_decay);
    live[1] = 1 - rate * decay;
    live[2] = next;
  }
};

}  // namespace resemb
