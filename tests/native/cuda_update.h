// Steps of every rule and form of state under emulation: on stored gradients and with the sums as they are
// made, bit for bit the same, and against plain loops in double.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda_call.h"
#include "expected.h"

namespace driver {

using resemb::Moment;
using resemb::Rule;

// A moment's numbers. int8 ones end with their last as Array's do, and may be aligned to a byte alone.
struct MomentArray {
  Moment form;
  Array numbers;
  std::vector<int8_t> codes;
  size_t shift = 0;

  MomentArray() = default;
  MomentArray(Moment form_in, DType acc, int64_t items, int64_t dim, bool aligned) : form(form_in) {
    const int64_t n = form == Moment::row ? items : items * dim;
    if (form == Moment::i8) {
      shift = aligned ? 0 : 1;
      codes.resize(static_cast<size_t>(n) + shift);
    } else {
      numbers = Array(form == Moment::bf16 ? DType::bf16 : acc, n, aligned);
    }
  }
  void* data() { return form == Moment::i8 ? codes.data() + shift : numbers.data(); }
  bool same_bits(const MomentArray& other) const {
    return codes == other.codes && numbers.same_bits(other.numbers);
  }
};

// What a step is made with.
struct StepCase {
  Rule rule;
  Moment first = Moment::acc, second = Moment::acc;
  bool by_row = true, decays = true;  // with a count of steps by row; with decay pending
  std::string text() const {
    return "rule " + std::to_string(static_cast<int>(rule)) + ", moments " +
           std::to_string(static_cast<int>(first)) + " and " + std::to_string(static_cast<int>(second)) +
           (by_row ? ", steps by row" : "") + (decays ? ", decay" : "");
  }
};

inline std::vector<StepCase> step_cases(DType table) {
  std::vector<StepCase> cases{{Rule::sgd},     {Rule::momentum},
                              {Rule::adagrad}, {Rule::adam},
                              {Rule::decay},   {Rule::rowwise_adagrad, Moment::acc, Moment::row}};
  if (table == DType::f64) return cases;
  cases.push_back({Rule::adam, Moment::bf16, Moment::bf16, true, false});
  cases.push_back({Rule::adam, Moment::acc, Moment::row, false, true});
  cases.push_back({Rule::adam, Moment::bf16, Moment::row, false, false});
  cases.push_back({Rule::adam, Moment::i8, Moment::row, true, true});
  return cases;
}

// Tables and state of one optimizer, from a seed.
struct Table {
  StepCase of;
  DType acc;
  Array param, scale;
  MomentArray first, second;
  std::vector<int32_t> steps;
  std::vector<double> decayed, live;
  resemb::UpdateArgs a{};

  Table(const Problem& p, const StepCase& step_case, bool is_live, Random random)
      : of(step_case),
        acc(p.acc()),
        param(random.array(p.table, p.items * p.dim, p.aligned)),
        scale(DType::f32, p.items, p.aligned),
        first(of.first, acc, p.items, p.dim, p.aligned),
        second(of.second, acc, p.items, p.dim, p.aligned),
        steps(static_cast<size_t>(p.items)),
        decayed(static_cast<size_t>(p.items)) {
    const auto draw = [&](MomentArray& to, double least) {
      for (int8_t& code : to.codes) code = static_cast<int8_t>(random.below(255) - 127);
      for (int64_t i = 0; i < to.numbers.size(); ++i) to.numbers.set(i, std::max(random.value(), least));
    };
    draw(first, -2);
    draw(second, 0.125);
    // A row's old codes may all stand for 0.
    for (int64_t i = 0; i < p.items; ++i) scale.set(i, static_cast<double>(random.below(3)) / 64);
    const bool compact = of.first != Moment::acc || of.second == Moment::bf16;
    a.rule = of.rule;
    a.table = p.table;
    a.dim = p.dim;
    a.param = param.data();
    a.first = first.data();
    a.first_scale = of.first == Moment::i8 ? static_cast<float*>(scale.data()) : nullptr;
    a.second = second.data();
    a.first_form = of.first;
    a.second_form = of.second;
    a.row_steps = of.by_row ? steps.data() : nullptr;
    a.decayed = of.decays ? decayed.data() : nullptr;
    a.decay_now = -0.1;
    a.shrink = 0.9;
    a.weight_decay = 0.1;
    a.lr = 0.1;
    a.beta1 = a.beta2 = 0.9;
    a.eps = 1e-8;
    a.step = of.by_row ? 0 : 3;
    a.seed = 11;
    a.nesterov = p.dim % 2 == 0;
    a.random_rounding = compact || static_cast<int>(of.rule) % 2 == 0;
    if (!is_live) return;
    live = {a.lr, a.shrink, static_cast<double>(a.step)};
    a.live = live.data();
    a.lr = a.shrink = NAN;
    a.step = -1;
  }
  Table(const Table&) = delete;

  bool same_bits(const Table& other) const {
    return param.same_bits(other.param) && first.same_bits(other.first) && second.same_bits(other.second) &&
           scale.same_bits(other.scale) && steps == other.steps && decayed == other.decayed;
  }
  double first_at(int64_t row, int64_t at) const {
    return of.first == Moment::i8 ? first.codes[first.shift + at] * scale[row] : first.numbers[at];
  }
  double second_at(int64_t row, int64_t at) const {
    return second.numbers[of.second == Moment::row ? row : at];
  }
};

// Throws where `found` is further from `expected` than an accumulator's error in `size`, or the distance
// between neighbouring numbers `unit`.
inline void require_near(const Table& t, const char* what, double found, double expected, double size,
                         double unit) {
  const double room = (t.acc == DType::f64 ? 1e-13 : 3e-6) * size + unit;
  require(std::fabs(found - expected) <= room,
          (std::string(what) + " after a step (" + t.of.text() + "): " + std::to_string(found) +
           " in place of " + std::to_string(expected))
              .c_str());
}

// A row's step by the formulas of common/update.h, in double, against what `after` has.
inline void check_row(const Table& before, const Table& after, int64_t row, const std::vector<double>& grad) {
  const resemb::UpdateArgs& a = before.a;
  const StepCase& of = before.of;
  const int64_t dim = a.dim, t = of.by_row ? 1 : 3;
  const double scale = 0.9 * (of.decays ? std::exp(a.decay_now) : 1), lr = 0.1;
  const bool adam = of.rule == Rule::adam;
  const auto rest = [](double beta) { return 1 - beta; };
  std::vector<double> g(grad), m(dim);
  double squares = 0, largest = 0, size = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const double p = before.param[row * dim + d];
    g[d] += a.weight_decay * p * scale;
    squares += g[d] * g[d];
    size = std::max({size, std::fabs(g[d]), std::fabs(p)});
  }
  double row_second = of.second == Moment::row ? before.second.numbers[row] : 0;
  const double mean = squares / static_cast<double>(dim);
  row_second = adam ? a.beta2 * row_second + rest(a.beta2) * mean : row_second + mean;
  for (int64_t d = 0; d < dim; ++d) {
    const int64_t at = row * dim + d;
    const double m0 = before.first_at(row, at), v0 = before.second_at(row, at);
    const double v = of.second == Moment::row   ? row_second
                     : of.rule == Rule::adagrad ? v0 + g[d] * g[d]
                                                : a.beta2 * v0 + rest(a.beta2) * g[d] * g[d];
    m[d] = of.rule == Rule::momentum ? a.beta1 * m0 + g[d] : m0 + rest(a.beta1) * (g[d] - m0);
    size = std::max(size, std::fabs(m0));
    largest = std::max(largest, std::fabs(m[d]));
    double change = g[d];
    if (of.rule == Rule::momentum) change = a.nesterov ? g[d] + a.beta1 * m[d] : m[d];
    if (of.rule == Rule::adagrad || of.rule == Rule::rowwise_adagrad) change /= std::sqrt(v) + a.eps;
    if (adam) {
      change = m[d] / (std::sqrt(v / (1 - std::pow(a.beta2, t))) + a.eps) / (1 - std::pow(a.beta1, t));
    }
    if (of.rule != Rule::momentum && of.rule != Rule::sgd) {
      const double unit = of.second == Moment::bf16 ? std::fabs(v) / 128 : 0;
      require_near(after, "second moment", after.second_at(row, at), v, v + size * size, unit);
    }
    const double p = before.param[at] * scale - lr * change;
    const double unit = before.a.table == DType::bf16  ? std::fabs(p) / 128 + 1e-30
                        : before.a.table == DType::f16 ? std::fabs(p) / 1024 + 0x1p-24
                                                       : 0;
    require_near(after, "parameter", after.param[at], p, std::fabs(p) + size + std::fabs(lr * change) * 9,
                 unit);
  }
  if (!adam && of.rule != Rule::momentum) return;
  const double code = largest / 127;
  if (of.first == Moment::i8) require_near(after, "scale", after.scale[row], code, size, 0);
  for (int64_t d = 0; d < dim; ++d) {
    const double unit = of.first == Moment::i8 ? code : of.first == Moment::bf16 ? std::fabs(m[d]) / 128 : 0;
    require_near(after, "first moment", after.first_at(row, row * dim + d), m[d], size, unit);
  }
}

// A step on `gradient`, stored rows of the table's type, and the same by `step` with sums that are not.
inline void check_steps(const Problem& p, const Array& gradient, const std::vector<int64_t>& items,
                        int blocks, const std::function<void(Call&, const resemb::UpdateArgs&)>& step) {
  for (const StepCase& of : step_cases(p.table)) {
    Call call(blocks);
    const Table before(p, of, false, Random(7));
    Table apart(p, of, false, Random(7));
    apart.a.rows = items.data();
    apart.a.grad = gradient.data();
    apart.a.num_rows = static_cast<int64_t>(items.size());
    resemb::cuda::update_rows(call.context, apart.a, p.items);
    for (const int64_t item : items) {
      require(!of.by_row || apart.steps[item] == 1, "a row is not stepped once");
    }
    if (of.rule == Rule::decay) continue;
    Table together(p, of, true, Random(7));
    step(call, together.a);
    require(together.same_bits(apart), "the step made with the sums differs from that after them");
    call.require_no_fault();
    for (size_t i = 0; i < items.size(); ++i) {
      std::vector<double> grad(p.dim);
      for (int64_t d = 0; d < p.dim; ++d) grad[d] = gradient[static_cast<int64_t>(i) * p.dim + d];
      check_row(before, apart, items[i], grad);
    }
  }
}

}  // namespace driver
