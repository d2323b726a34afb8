// One optimizer step of a row; formulas in common/update.h.
#pragma once

#include "common/rounding.h"
#include "common/update.h"
#include "cuda/segments.cuh"

namespace resemb::cuda {

__device__ __forceinline__ void round_randomly(BFloat& to, float f, uint32_t random) {
  to.bits = round_to_bfloat(f, random);
}
__device__ __forceinline__ void round_randomly(Half& to, float f, uint32_t random) {
  to.bits = round_to_half(f, random);
}

// A finish of sums that steps the rows with them; also the step itself, on gradients that lie in memory.
template <class T>
struct StepRows {
  using A = Acc<T>;
  UpdateArgs a;
  const uint32_t* items;  // row of sum s; null: as `a` says

  struct Row {
    int64_t number;
    A scale, rate, inv_sqrt_correction;
    A second;          // of a moment by row, before the step
    float code_scale;  // of a first moment in int8, before the step
    float inverse;     // of that after it, see CodeScale
    uint64_t random;   // the key of the step's random bits
  };
  // Of all columns.
  struct Totals {
    A squares;
    uint32_t largest;  // of |m|, as bits: they are in its order, with NaN above infinity
  };

  // What the rows have in common. Two powers of double cost as much as a row's loads: taken once a thread.
  struct Common {
    A shrink, rate, inv_sqrt_correction;
    uint64_t random;
  };
  __device__ __forceinline__ Common common() const {
    Common all{static_cast<A>(a.live != nullptr ? a.live[1] : a.shrink), static_cast<A>(-learning_rate()), 1,
               0};
    if (a.rule == Rule::adam && a.row_steps == nullptr)
      correct_bias(step_number(), all.rate, all.inv_sqrt_correction);
    if (a.random_rounding || is_compact()) all.random = rounding_key(a.seed, step_number());
    return all;
  }

  __device__ __forceinline__ int64_t number_of(int64_t s) const {
    return items != nullptr ? items[s] : a.rows != nullptr ? a.rows[s] : s;
  }
  __device__ __forceinline__ Row begin(int64_t s, const Lanes& lanes, const Common& all) const {
    return begin_row(number_of(s), lanes, all);
  }

  __device__ __forceinline__ int64_t step_number() const {
    return a.live != nullptr ? static_cast<int64_t>(a.live[2]) : a.step;
  }

  __device__ __forceinline__ double learning_rate() const { return a.live != nullptr ? a.live[0] : a.lr; }

  __device__ __forceinline__ bool is_compact() const {
    return sizeof(A) == 4 && (a.first_form != Moment::acc || a.second_form == Moment::bf16);
  }
  __device__ __forceinline__ bool has_codes() const { return sizeof(A) == 4 && a.first_form == Moment::i8; }

  __device__ __forceinline__ void correct_bias(int64_t t, A& rate, A& inv_sqrt_correction) const {
    rate = static_cast<A>(-learning_rate() / (1 - pow(a.beta1, static_cast<double>(t))));
    inv_sqrt_correction = static_cast<A>(1 / sqrt(1 - pow(a.beta2, static_cast<double>(t))));
  }

  __device__ __forceinline__ Row begin_row(int64_t number, const Lanes& lanes, const Common& all) const {
    Row row{number, all.shrink, all.rate, all.inv_sqrt_correction, 0, 0, 0, all.random};
    int64_t t = 0;
    double decayed = 0;
    if (a.row_steps != nullptr) t = a.row_steps[number] + int64_t{1};
    if (a.decayed != nullptr) decayed = a.decayed[number];
    if (a.second_form == Moment::row) row.second = static_cast<const A*>(a.second)[number];
    if (has_codes()) row.code_scale = a.first_scale[number];
    __syncwarp(lanes.mask);  // all have read what one now writes, or in settle()
    if (lanes.lane == 0) {
      if (a.row_steps != nullptr) a.row_steps[number] = static_cast<int32_t>(t);
      if (a.decayed != nullptr) a.decayed[number] = a.decay_now;
    }
    if (a.decayed != nullptr) row.scale *= static_cast<A>(exp(a.decay_now - decayed));
    if (a.rule == Rule::adam && a.row_steps != nullptr) correct_bias(t, row.rate, row.inv_sqrt_correction);
    return row;
  }

  __device__ __forceinline__ bool looks() const { return a.second_form == Moment::row || has_codes(); }
  template <int N>
  __device__ __forceinline__ void look(const Row& row, Totals& totals, int64_t col, const A (&sum)[N]) const {
    const int64_t at = row.number * a.dim + col;
    A p[N], g[N];
    load_upcast<N>(static_cast<const T*>(a.param) + at, p);
    prepare(row, p, sum, g);
#pragma unroll
    for (int j = 0; j < N; ++j) totals.squares += g[j] * g[j];
    if (!has_codes()) return;
    A m[N];
    load_first(row, at, m);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const uint32_t size = bits_of(static_cast<float>(first_after(m[j], g[j]))) & 0x7fffffffu;
      if (size > totals.largest) totals.largest = size;
    }
  }
  __device__ __forceinline__ void settle(Row& row, const Totals& totals, const Lanes& lanes) const {
    if (a.second_form == Moment::row) {
      const A mean = lanes.sum(totals.squares) / static_cast<A>(a.dim);
      const A second = a.rule == Rule::adam ? second_after(row.second, mean) : row.second + mean;
      if (lanes.lane == 0) static_cast<A*>(a.second)[row.number] = second;
      row.rate /= sqrt(second) * row.inv_sqrt_correction + static_cast<A>(a.eps);
    }
    if (has_codes()) {
      const CodeScale scale(float_of(lanes.largest(totals.largest)));
      row.inverse = scale.inverse;
      if (lanes.lane == 0) a.first_scale[row.number] = scale.scale;
    }
  }

  template <int N>
  __device__ __forceinline__ void store(const Row& row, int64_t col, const A (&sum)[N]) const {
    const int64_t at = row.number * a.dim + col;
    T* param = static_cast<T*>(a.param) + at;
    A p[N], g[N], m[N] = {}, v[N] = {};
    load_upcast<N>(param, p);
    const bool has_first = a.rule == Rule::momentum || a.rule == Rule::adam;
    const bool has_second = (a.rule == Rule::adagrad || a.rule == Rule::adam) && a.second_form != Moment::row;
    const A beta1 = static_cast<A>(a.beta1), eps = static_cast<A>(a.eps);
    if (has_first) load_first(row, at, m);
    if (has_second) load_second(at, v);
    prepare(row, p, sum, g);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (row.scale != 1) p[j] *= row.scale;
      A change = g[j];
      if (a.rule == Rule::momentum) {
        m[j] = beta1 * m[j] + g[j];
        change = a.nesterov ? g[j] + beta1 * m[j] : m[j];
      } else if (a.rule == Rule::adagrad) {
        v[j] += g[j] * g[j];
        change = g[j] / (sqrt(v[j]) + eps);
      } else if (a.rule == Rule::adam) {
        m[j] = change = first_after(m[j], g[j]);
        if (has_second) {
          v[j] = second_after(v[j], g[j] * g[j]);
          change /= sqrt(v[j]) * row.inv_sqrt_correction + eps;
        }
      }
      p[j] += row.rate * change;
    }
    if (has_first) store_first(row, col, m);
    if (has_second) store_second(row, col, v);
    save(row, col, p);
  }

  // p <- p times the pending decay, and nothing more.
  template <int N>
  __device__ __forceinline__ void decay(const Row& row, int64_t col) const {
    A p[N];
    load_upcast<N>(static_cast<const T*>(a.param) + row.number * a.dim + col, p);
#pragma unroll
    for (int j = 0; j < N; ++j) p[j] *= row.scale;
    save(row, col, p);
  }

 private:
  __device__ __forceinline__ A first_after(A m, A g) const {
    return m + static_cast<A>(1 - a.beta1) * (g - m);
  }
  __device__ __forceinline__ A second_after(A v, A square) const {
    return static_cast<A>(a.beta2) * v + static_cast<A>(1 - a.beta2) * square;
  }

  // The gradient as the separate optimizer would be given it, then with sign and coupled decay.
  template <int N>
  __device__ __forceinline__ void prepare(const Row& row, const A (&p)[N], const A (&sum)[N],
                                          A (&g)[N]) const {
    const A sign = a.maximize ? A{-1} : A{1}, coupled = static_cast<A>(a.weight_decay);
    Raw<T, N> rounded;
    rounded.downcast(sum);
    rounded.upcast(g);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[j] *= sign;
      if (coupled != 0) g[j] += coupled * (p[j] * row.scale);
    }
  }

  template <int N>
  __device__ __forceinline__ void load_first(const Row& row, int64_t at, A (&m)[N]) const {
    if constexpr (sizeof(A) == 4) {
      if (a.first_form == Moment::bf16) return load_upcast<N>(static_cast<const BFloat*>(a.first) + at, m);
      if (a.first_form == Moment::i8) {
        int8_t codes[N];
        load<N>(static_cast<const int8_t*>(a.first) + at, codes);
#pragma unroll
        for (int j = 0; j < N; ++j) m[j] = static_cast<float>(codes[j]) * row.code_scale;
        return;
      }
    }
    load<N>(static_cast<const A*>(a.first) + at, m);
  }
  template <int N>
  __device__ __forceinline__ void load_second(int64_t at, A (&v)[N]) const {
    if constexpr (sizeof(A) == 4) {
      if (a.second_form == Moment::bf16) return load_upcast<N>(static_cast<const BFloat*>(a.second) + at, v);
    }
    load<N>(static_cast<const A*>(a.second) + at, v);
  }

  template <int N>
  __device__ __forceinline__ void store_first(const Row& row, int64_t col, const A (&m)[N]) const {
    const int64_t at = row.number * a.dim + col;
    if constexpr (sizeof(A) == 4) {
      if (a.first_form == Moment::bf16)
        return store_randomly(static_cast<BFloat*>(a.first), row, col, Rounded::first, m);
      if (a.first_form == Moment::i8) {
        const RowBits random(row.random, row.number);
        int8_t codes[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
          codes[j] = round_to_code(m[j], row.inverse, random.of(Rounded::first, col + j));
        }
        return cuda::store<N>(static_cast<int8_t*>(a.first) + at, codes);
      }
    }
    cuda::store<N>(static_cast<A*>(a.first) + at, m);
  }
  template <int N>
  __device__ __forceinline__ void store_second(const Row& row, int64_t col, const A (&v)[N]) const {
    if constexpr (sizeof(A) == 4) {
      if (a.second_form == Moment::bf16)
        return store_randomly(static_cast<BFloat*>(a.second), row, col, Rounded::second, v);
    }
    cuda::store<N>(static_cast<A*>(a.second) + row.number * a.dim + col, v);
  }
  template <int N>
  __device__ __forceinline__ void save(const Row& row, int64_t col, const A (&p)[N]) const {
    if constexpr (sizeof(T) == 2) {
      if (a.random_rounding) return store_randomly(static_cast<T*>(a.param), row, col, Rounded::param, p);
    }
    store_downcast(static_cast<T*>(a.param) + row.number * a.dim + col, p);
  }

  template <class Out, int N>
  __device__ __forceinline__ void store_randomly(Out* table, const Row& row, int64_t col, Rounded which,
                                                 const A (&in)[N]) const {
    const RowBits random(row.random, row.number);
    Out rounded[N];
#pragma unroll
    for (int j = 0; j < N; ++j) round_randomly(rounded[j], in[j], random.of(which, col + j));
    cuda::store<N>(table + row.number * a.dim + col, rounded);
  }
};

}  // namespace resemb::cuda
