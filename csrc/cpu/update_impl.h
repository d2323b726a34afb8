// The optimizers' row kernels, for the instruction set of the including file.
#pragma once

#include "common/rounding.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Rows ahead of the one being updated whose memory is prefetched.
constexpr int64_t kRowsAhead = 12;

RESEMB_INLINE f8 square_root(f8 v) {
#if defined(RESEMB_STREAM)
  return (f8)_mm256_sqrt_ps((__m256)v);
#else
  for (int i = 0; i < 8; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}
RESEMB_INLINE d4 square_root(d4 v) {
#if defined(RESEMB_STREAM)
  return (d4)_mm256_sqrt_pd((__m256d)v);
#else
  for (int i = 0; i < 4; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
#endif
}

RESEMB_INLINE uint16_t round_randomly(const BFloat*, float f, uint32_t random) {
  return round_to_bfloat(f, random);
}
RESEMB_INLINE uint16_t round_randomly(const Half*, float f, uint32_t random) {
  return round_to_half(f, random);
}

template <class T, Rule R>
class RowUpdate {
  using A = Acc<T>;
  using V = Vec<A>;
  static constexpr bool kRowwise = R == Rule::rowwise_adagrad;
  static constexpr bool kFirst = R == Rule::momentum || R == Rule::adam;
  static constexpr bool kSecond = R == Rule::adagrad || R == Rule::adam;

 public:
  RESEMB_INLINE explicit RowUpdate(const UpdateArgs& args)
      : a(args),
        grad(static_cast<const T*>(args.grad)),
        param(static_cast<T*>(args.param)),
        first(static_cast<A*>(args.first)),
        second(static_cast<A*>(args.second)),
        shrink(static_cast<A>(args.shrink)),
        coupled(static_cast<A>(args.weight_decay)),
        sign(args.maximize ? A{-1} : A{1}),
        beta1(static_cast<A>(args.beta1)),
        beta2(static_cast<A>(args.beta2)),
        rest1(static_cast<A>(1 - args.beta1)),
        rest2(static_cast<A>(1 - args.beta2)),
        eps(static_cast<A>(args.eps)) {
    set_step(args.step);
  }

  RESEMB_INLINE void run(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Without row numbers the rows lie in line, and most may have nothing pending.
      if (a.rows != nullptr && i + kRowsAhead < a.num_rows) fetch(a.rows[i + kRowsAhead]);
      const int64_t row = a.rows != nullptr ? a.rows[i] : i;
      if (a.row_steps != nullptr) set_step(++a.row_steps[row]);
      A scale = shrink;
      if (a.decayed != nullptr) {
        scale *= static_cast<A>(std::exp(a.decay_now - a.decayed[row]));
        a.decayed[row] = a.decay_now;
      }
      if (R == Rule::decay && scale == 1) continue;
      if constexpr (kRowwise) {
        V squares = {};
        for_columns([&](int64_t col, int64_t n) RESEMB_LAMBDA_INLINE {
          const V g = gradient(i, row, col, n, scale);
          squares += g * g;
        });
        second[row] += sum_lanes(squares) / static_cast<A>(a.dim);
      }
      for_columns([&](int64_t col, int64_t n) RESEMB_LAMBDA_INLINE { update(i, row, col, n, scale); });
    }
  }

 private:
  template <class F>
  RESEMB_INLINE void for_columns(const F& f) {
    constexpr int64_t lanes = kLanes<A>;
    int64_t col = 0;
    for (; col + lanes <= a.dim; col += lanes) f(col, lanes);
    if (col < a.dim) f(col, a.dim - col);
  }

  RESEMB_INLINE void fetch(int64_t row) {
    const auto lines = [&](const auto* p) RESEMB_LAMBDA_INLINE {
      const char* bytes = reinterpret_cast<const char*>(p + row * a.dim);
      for (int64_t at = 0; at < a.dim * static_cast<int64_t>(sizeof *p); at += 64) prefetch(bytes + at);
    };
    lines(param);
    if constexpr (kFirst) lines(first);
    if constexpr (kSecond) lines(second);
    if constexpr (kRowwise) prefetch(second + row);
    if (a.row_steps != nullptr) prefetch(a.row_steps + row);
    if (a.decayed != nullptr) prefetch(a.decayed + row);
  }

  RESEMB_INLINE void set_step(int64_t t) {
    rate = static_cast<A>(-a.lr);
    if constexpr (R == Rule::adam) {
      rate = static_cast<A>(-a.lr / (1 - std::pow(a.beta1, static_cast<double>(t))));
      inv_sqrt_correction = static_cast<A>(1 / std::sqrt(1 - std::pow(a.beta2, static_cast<double>(t))));
    }
  }

  RESEMB_INLINE V gradient(int64_t i, int64_t row, int64_t col, int64_t n, A scale) const {
    V g = load_columns(grad + (i - a.grad_first) * a.dim + col, n) * sign;
    if (coupled != 0) g += coupled * (load_columns(param + row * a.dim + col, n) * scale);
    return g;
  }

  RESEMB_INLINE void update(int64_t i, int64_t row, int64_t col, int64_t n, A scale) {
    const int64_t at = row * a.dim + col;
    V p = load_columns(param + at, n);
    if (scale != 1) p *= scale;  // where it is 1, the sum below stays one fused multiply-add
    if constexpr (R == Rule::decay) return save(row, col, n, p);
    const V g = gradient(i, row, col, n, scale);
    if constexpr (R == Rule::sgd) {
      p += rate * g;
    } else if constexpr (R == Rule::momentum) {
      const V m = beta1 * load_columns(first + at, n) + g;
      store_columns(first + at, m, n);
      p += rate * (a.nesterov ? g + beta1 * m : m);
    } else if constexpr (R == Rule::adagrad) {
      const V v = load_columns(second + at, n) + g * g;
      store_columns(second + at, v, n);
      p += rate * (g / (square_root(v) + eps));
    } else if constexpr (kRowwise) {
      const V v = V{} + second[row];
      p += rate * (g / (square_root(v) + eps));
    } else {
      const V m0 = load_columns(first + at, n);
      const V m = m0 + rest1 * (g - m0);
      const V v = beta2 * load_columns(second + at, n) + rest2 * (g * g);
      store_columns(first + at, m, n);
      store_columns(second + at, v, n);
      p += rate * (m / (square_root(v) * inv_sqrt_correction + eps));
    }
    save(row, col, n, p);
  }

  RESEMB_INLINE void save(int64_t row, int64_t col, int64_t n, V p) {
    T* to = param + row * a.dim + col;
    if constexpr (sizeof(T) == 2) {
      if (a.random_rounding) {
        for (int64_t c = 0; c < n; ++c) {
          const uint32_t random = rounding_bits(a.seed, a.step, row, col + c);
          to[c].bits = round_randomly(to, p[c], random);
        }
        return;
      }
    }
    store_columns(to, p, n);
  }

  const UpdateArgs& a;
  const T* grad;
  T* param;
  A* first;
  A* second;
  A shrink, coupled, sign, beta1, beta2, rest1, rest2, eps;
  A rate = 0, inv_sqrt_correction = 0;
};

template <class T>
void update_table(const UpdateArgs& a, int64_t begin, int64_t end) {
  switch (a.rule) {
    case Rule::sgd:
      return RowUpdate<T, Rule::sgd>(a).run(begin, end);
    case Rule::momentum:
      return RowUpdate<T, Rule::momentum>(a).run(begin, end);
    case Rule::adagrad:
      return RowUpdate<T, Rule::adagrad>(a).run(begin, end);
    case Rule::rowwise_adagrad:
      return RowUpdate<T, Rule::rowwise_adagrad>(a).run(begin, end);
    case Rule::adam:
      return RowUpdate<T, Rule::adam>(a).run(begin, end);
    case Rule::decay:
      return RowUpdate<T, Rule::decay>(a).run(begin, end);
  }
}

void update(const UpdateArgs& a, int64_t begin, int64_t end) {
  switch (a.table) {
    case DType::f32:
      return update_table<float>(a, begin, end);
    case DType::f64:
      return update_table<double>(a, begin, end);
    case DType::f16:
      return update_table<Half>(a, begin, end);
    case DType::bf16:
      return update_table<BFloat>(a, begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
