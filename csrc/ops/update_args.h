// A table with its optimizer's state and options, as the update kernel takes them.
#pragma once

#include <string>
#include <vector>

#include "common/update.h"
#include "ops/tensors.h"

namespace resemb {

// Memory of a state tensor, or null where the rule or option has none.
inline void* state_of(const OptionalTensor& state, bool wanted, const char* name,
                      const std::vector<int64_t>& shape, ScalarType type, bool on_cpu = true) {
  if (!wanted) {
    if (state.has_value()) fail_value(std::string(name) + ": this rule has no such state");
    return nullptr;
  }
  if (!state.has_value()) fail_value(std::string(name) + ": missing");
  bool fits = state->dim() == static_cast<int64_t>(shape.size()) && state->is_contiguous();
  if (on_cpu) fits &= state->is_cpu();  // elsewhere the caller has looked
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = state->size(i) == shape[i];
  check_shape(fits, name, *state, "the table's rows, contiguous on its device");
  if (state->scalar_type() != type) {
    fail_value(std::string(name) + ": dtype " + torch::headeronly::toString(state->scalar_type()) +
               "; expected " + torch::headeronly::toString(type));
  }
  return state->mutable_data_ptr();
}

// reals: decay_now, shrink, weight_decay, lr, beta1, beta2, eps; integers: rule, maximize, nesterov,
// random_rounding, seed, step. Rows and gradient are the caller's.
inline UpdateArgs update_args(const Tensor& table, const OptionalTensor& first, const OptionalTensor& second,
                              const OptionalTensor& row_steps, const OptionalTensor& decayed,
                              const std::vector<double>& reals, const std::vector<int64_t>& integers,
                              bool on_cpu = true) {
  check_shape(table.dim() == 2 && (!on_cpu || table.is_cpu()) && table.is_contiguous(), "table", table,
              "[H, D], contiguous on the device of the gradient");
  if (reals.size() != 7 || integers.size() != 6) fail_value("options: expected 7 reals and 6 integers");
  if (integers[0] < 0 || integers[0] >= static_cast<int64_t>(Rule::decay)) fail_value("rule: unknown");
  const int64_t items = table.size(0), dim = table.size(1);
  UpdateArgs a{};
  a.rule = static_cast<Rule>(integers[0]);
  a.table = table_type(table.scalar_type(), "table");
  a.dim = dim;
  const ScalarType acc = scalar_type(accumulator(a.table));
  const bool rowwise = a.rule == Rule::rowwise_adagrad;
  a.first =
      state_of(first, a.rule == Rule::momentum || a.rule == Rule::adam, "first", {items, dim}, acc, on_cpu);
  a.second = state_of(second, rowwise || a.rule == Rule::adagrad || a.rule == Rule::adam, "second",
                      rowwise ? std::vector<int64_t>{items} : std::vector<int64_t>{items, dim}, acc, on_cpu);
  a.row_steps = static_cast<int32_t*>(
      state_of(row_steps, row_steps.has_value(), "row_steps", {items}, ScalarType::Int, on_cpu));
  a.decayed = static_cast<double*>(
      state_of(decayed, decayed.has_value(), "decayed", {items}, ScalarType::Double, on_cpu));
  a.decay_now = reals[0];
  a.shrink = reals[1];
  a.weight_decay = reals[2];
  a.lr = reals[3];
  a.beta1 = reals[4];
  a.beta2 = reals[5];
  a.eps = reals[6];
  a.maximize = integers[1] != 0;
  a.nesterov = integers[2] != 0;
  a.random_rounding = integers[3] != 0;
  a.seed = static_cast<uint64_t>(integers[4]);
  a.step = integers[5];
  a.param = table.mutable_data_ptr();
  return a;
}

}  // namespace resemb
