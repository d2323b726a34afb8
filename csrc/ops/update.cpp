// The optimizers' operators: steps and decay of rows, and backward and step in one.
#include <string>
#include <vector>

#include "ops/inputs.h"
#include "ops/operators.h"
#include "ops/table_rows.h"

namespace resemb {
namespace {

// A table's step as the operators are given it.
struct StepArguments {
  const OptionalTensor &first, &second, &row_steps, &decayed, &first_scale;
  const std::vector<double>& reals;
  const std::vector<int64_t>& integers;
};

// Memory of a state tensor, or null where the rule or option has none.
void* state_of(const Call& call, const OptionalTensor& state, bool wanted, const char* name,
               const std::vector<int64_t>& shape, ScalarType type) {
  if (!wanted) {
    if (state.has_value()) fail_value(std::string(name) + ": this rule has no such state");
    return nullptr;
  }
  if (!state.has_value()) fail_value(std::string(name) + ": missing");
  call.check_device(*state, name);
  bool fits = state->dim() == static_cast<int64_t>(shape.size()) && state->is_contiguous();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = state->size(i) == shape[i];
  check_shape(fits, name, *state, "the table's rows, contiguous on its device");
  check_type(*state, type, name);
  return state->mutable_data_ptr();
}

// The dtype of a moment beside a table.
ScalarType moment_type(Moment form, DType table) {
  return form == Moment::bf16 ? ScalarType::BFloat16
         : form == Moment::i8 ? ScalarType::Char
                              : scalar_type(accumulator(table));
}

// Whether kernels take moments of these forms.
bool forms_fit(const UpdateArgs& a) {
  const Moment first = a.first_form, second = a.second_form;
  if (first == Moment::acc && second == Moment::acc) return true;
  if (a.rule != Rule::adam || a.table == DType::f64) return false;
  if (second == Moment::row) return first == Moment::acc || first == Moment::bf16 || first == Moment::i8;
  return first == Moment::bf16 && second == Moment::bf16;
}

// What every update of a table has; no rows.
UpdateArgs update_of(const Call& call, const Tensor& table) {
  call.check_device(table, "table");
  check_shape(table.dim() == 2 && table.is_contiguous(), "table", table,
              "[H, D], contiguous on the device of the gradient");
  UpdateArgs a{};
  a.table = table_type(table.scalar_type(), "table");
  a.dim = table.size(1);
  a.param = table.mutable_data_ptr();
  return a;
}

// One step of a table; rows and gradient are the caller's.
UpdateArgs step_of(const Call& call, const Tensor& table, const StepArguments& in) {
  UpdateArgs a = update_of(call, table);
#define RESEMB_COUNT(name) +1
  if (in.reals.size() != RESEMB_UPDATE_REALS(RESEMB_COUNT) ||
      in.integers.size() != RESEMB_UPDATE_INTEGERS(RESEMB_COUNT)) {
    fail_value("options: expected the reals and integers of common/update.h");
  }
#undef RESEMB_COUNT
  const double* real = in.reals.data();
  const int64_t* integer = in.integers.data();
  if (*integer < 0 || *integer >= static_cast<int64_t>(Rule::decay)) fail_value("rule: unknown");
#define RESEMB_TAKE(name) a.name = static_cast<decltype(a.name)>(*real++);
  RESEMB_UPDATE_REALS(RESEMB_TAKE)
#undef RESEMB_TAKE
#define RESEMB_TAKE(name) a.name = static_cast<decltype(a.name)>(*integer++);
  RESEMB_UPDATE_INTEGERS(RESEMB_TAKE)
#undef RESEMB_TAKE
  if (!forms_fit(a)) {
    fail_value(
        "first_form, second_form: expected acc and acc; or, of adam on tables that are not float64, bf16 and "
        "bf16, or acc, bf16 or i8 and row");
  }
  const int64_t items = table.size(0);
  const bool adam = a.rule == Rule::adam, rowwise = a.rule == Rule::rowwise_adagrad;
  if (rowwise) a.second_form = Moment::row;
  const std::vector<int64_t> by_row{items}, by_element{items, a.dim};
  a.first = state_of(call, in.first, a.rule == Rule::momentum || adam, "first", by_element,
                     moment_type(a.first_form, a.table));
  a.first_scale = static_cast<float*>(
      state_of(call, in.first_scale, a.first_form == Moment::i8, "first_scale", by_row, ScalarType::Float));
  a.second =
      state_of(call, in.second, rowwise || a.rule == Rule::adagrad || adam, "second",
               a.second_form == Moment::row ? by_row : by_element, moment_type(a.second_form, a.table));
  a.row_steps = static_cast<int32_t*>(
      state_of(call, in.row_steps, in.row_steps.has_value(), "row_steps", {items}, ScalarType::Int));
  a.decayed = static_cast<double*>(
      state_of(call, in.decayed, in.decayed.has_value(), "decayed", {items}, ScalarType::Double));
  return a;
}

void update_rows(const Tensor& table, const OptionalTensor& first, const OptionalTensor& second,
                 const OptionalTensor& row_steps, const OptionalTensor& decayed,
                 const OptionalTensor& first_scale, const Tensor& rows_in, const Tensor& values_in,
                 std::vector<double> reals, std::vector<int64_t> integers) {
  const Call call(table, "table");
  UpdateArgs a = step_of(call, table, {first, second, row_steps, decayed, first_scale, reals, integers});
  check_shape(values_in.dim() == 2 && values_in.size(1) == a.dim, "values", values_in,
              "[N, " + std::to_string(a.dim) + "]");
  if (values_in.scalar_type() != table.scalar_type()) fail_value("values: dtype differs from the table's");
  const Tensor rows = row_indices(call, rows_in, values_in.size(0));
  const Tensor values = call.dense(values_in, "values");
  a.num_rows = rows.size(0);
  a.rows = static_cast<const int64_t*>(rows.const_data_ptr());
  a.grad = values.const_data_ptr();
  call.backend().update(a, table.size(0));
}

// p <- p exp(now - decayed[r]) for the given rows, or for all of them.
void decay_rows(const Tensor& table, const Tensor& decayed, const OptionalTensor& rows_in, double now,
                bool random_rounding, int64_t seed, int64_t step) {
  const Call call(table, "table");
  UpdateArgs a = update_of(call, table);
  a.rule = Rule::decay;
  a.num_rows = table.size(0);
  a.decayed =
      static_cast<double*>(state_of(call, decayed, true, "decayed", {a.num_rows}, ScalarType::Double));
  a.decay_now = now;
  a.shrink = 1;
  a.random_rounding = random_rounding;
  a.seed = static_cast<uint64_t>(seed);
  a.step = step;
  OptionalTensor rows;
  if (rows_in.has_value()) {
    rows = row_indices(call, *rows_in);
    a.rows = static_cast<const int64_t*>(rows->const_data_ptr());
    a.num_rows = rows->size(0);
  }
  call.backend().update(a, table.size(0));
}

// Counts a table's step where it lies; what the kernels then read there.
Tensor advance_step(const Tensor& step, const OptionalTensor& lr, double lr_value, double lr_decay,
                    double decay) {
  const Call call(step, "step");
  check_shape(step.numel() == 1 && step.is_contiguous(), "step", step, "[] or [1]");
  check_type(step, ScalarType::Float, "step");
  Tensor live = call.empty({3}, ScalarType::Double);
  Advance a{static_cast<float*>(step.mutable_data_ptr()), nullptr, false, lr_value, lr_decay, decay,
            static_cast<double*>(live.mutable_data_ptr())};
  OptionalTensor kept;
  if (lr.has_value()) {
    kept = call.dense(*lr, "lr");
    check_shape(kept->numel() == 1, "lr", *kept, "[] or [1]");
    a.lr_is_double = is_double(*kept, "lr");
    a.lr_device = kept->const_data_ptr();
  }
  call.backend().advance(a);
  return live;
}

// A table's step in backward: with what advance_step gave in place of lr, shrink and step, where given.
UpdateArgs step_in_backward(const Call& call, const Tensor& table, const StepArguments& in,
                            const OptionalTensor& live) {
  UpdateArgs a = step_of(call, table, in);
  if (live.has_value()) {
    call.check_device(*live, "live");
    check_shape(live->numel() == 3 && live->is_contiguous(), "live", *live, "[3]");
    check_type(*live, ScalarType::Double, "live");
    a.live = static_cast<const double*>(live->const_data_ptr());
  }
  return a;
}

Tensor backward_step(const Tensor& grad, const Tensor& plan, const Tensor& central, const Tensor& residual,
                     const Tensor& indptr, const Tensor& neighbors, const Tensor& weights,
                     const OptionalTensor& offsets, const OptionalTensor& sample_weights, bool mean,
                     bool need_sample_weights, const OptionalTensor& central_first,
                     const OptionalTensor& central_second, const OptionalTensor& central_row_steps,
                     const OptionalTensor& central_decayed, const OptionalTensor& central_first_scale,
                     std::vector<double> central_reals, std::vector<int64_t> central_integers,
                     const OptionalTensor& central_live, const OptionalTensor& residual_first,
                     const OptionalTensor& residual_second, const OptionalTensor& residual_row_steps,
                     const OptionalTensor& residual_decayed, const OptionalTensor& residual_first_scale,
                     std::vector<double> residual_reals, std::vector<int64_t> residual_integers,
                     const OptionalTensor& residual_live) {
  const OptionalTensor tables[] = {central, residual};
  BackwardInputs b(grad, plan,
                   {tables[0], tables[1], indptr, neighbors, weights, offsets, sample_weights, mean,
                    central.scalar_type()});
  b.check_needs(/*link_weights=*/false, need_sample_weights);
  const UpdateArgs of_central =
      step_in_backward(b.call, central,
                       {central_first, central_second, central_row_steps, central_decayed,
                        central_first_scale, central_reals, central_integers},
                       central_live);
  const UpdateArgs of_residual =
      step_in_backward(b.call, residual,
                       {residual_first, residual_second, residual_row_steps, residual_decayed,
                        residual_first_scale, residual_reals, residual_integers},
                       residual_live);
  Tensor samples = b.sample_weights_gradient(need_sample_weights);
  b.call.backend().backward_step(b.x(), b.plan(), b.grad.const_data_ptr(), of_central, of_residual,
                                 place_of(samples, need_sample_weights));
  return samples;
}

// Throws what the device has reported, as every call does.
void raise_faults(const Tensor& like) { const Call call(like, "like"); }

}  // namespace

void implement_updates(Library& m) {
  m.impl("update_rows_", TORCH_BOX(&update_rows));
  m.impl("decay_rows_", TORCH_BOX(&decay_rows));
  m.impl("advance_step_", TORCH_BOX(&advance_step));
  m.impl("res_embedding_backward_step_", TORCH_BOX(&backward_step));
  m.impl("raise_faults", TORCH_BOX(&raise_faults));
}

}  // namespace resemb
