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

// A finish of sums that steps row items[s] with them; also the step itself, on gradients that lie in memory.
template <class T>
struct StepRows {
  using A = Acc<T>;
  UpdateArgs a;
  const uint32_t* items;  // null: the row is given

  struct Row {
    int64_t number;
    A scale, rate, inv_sqrt_correction, row_second;
  };

  // What the rows have in common. Two powers of double cost as much as a row's loads: taken once a thread.
  struct Common {
    A shrink, rate, inv_sqrt_correction;
  };
  __device__ __forceinline__ Common common() const {
    Common all{static_cast<A>(a.live != nullptr ? a.live[1] : a.shrink), static_cast<A>(-learning_rate()), 0};
    if (a.rule == Rule::adam && a.row_steps == nullptr)
      correct_bias(step_number(), all.rate, all.inv_sqrt_correction);
    return all;
  }

  __device__ __forceinline__ Row begin(int64_t s, const Lanes& lanes, const Common& all) const {
    return begin_row(items != nullptr ? items[s] : s, lanes, all);
  }

  __device__ __forceinline__ int64_t step_number() const {
    return a.live != nullptr ? static_cast<int64_t>(a.live[2]) : a.step;
  }

  __device__ __forceinline__ double learning_rate() const { return a.live != nullptr ? a.live[0] : a.lr; }

  __device__ __forceinline__ void correct_bias(int64_t t, A& rate, A& inv_sqrt_correction) const {
    rate = static_cast<A>(-learning_rate() / (1 - pow(a.beta1, static_cast<double>(t))));
    inv_sqrt_correction = static_cast<A>(1 / sqrt(1 - pow(a.beta2, static_cast<double>(t))));
  }

  __device__ __forceinline__ Row begin_row(int64_t number, const Lanes& lanes, const Common& all) const {
    Row row{number, all.shrink, all.rate, all.inv_sqrt_correction, 0};
    int64_t t = 0;
    double decayed = 0;
    if (a.row_steps != nullptr) t = a.row_steps[number] + int64_t{1};
    if (a.decayed != nullptr) decayed = a.decayed[number];
    __syncwarp(lanes.mask);  // all have read what one now writes
    if (lanes.lane == 0) {
      if (a.row_steps != nullptr) a.row_steps[number] = static_cast<int32_t>(t);
      if (a.decayed != nullptr) a.decayed[number] = a.decay_now;
    }
    if (a.decayed != nullptr) row.scale *= static_cast<A>(exp(a.decay_now - decayed));
    if (a.rule == Rule::adam && a.row_steps != nullptr) correct_bias(t, row.rate, row.inv_sqrt_correction);
    return row;
  }

  // The gradient as the separate optimizer would be given it, then with sign and coupled decay.
  template <int N>
  __device__ __forceinline__ void prepare(const Row& row, const A (&p)[N], A (&g)[N]) const {
    const A sign = a.maximize ? A{-1} : A{1}, coupled = static_cast<A>(a.weight_decay);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[j] = upcast(downcast<T>(g[j])) * sign;
      if (coupled != 0) g[j] += coupled * (p[j] * row.scale);
    }
  }

  __device__ __forceinline__ bool needs_squares() const { return a.rule == Rule::rowwise_adagrad; }
  template <int N>
  __device__ __forceinline__ A squares(const Row& row, int64_t col, A (&g)[N]) const {
    A p[N], sum = 0;
    load_upcast<N>(static_cast<const T*>(a.param) + row.number * a.dim + col, p);
    prepare(row, p, g);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += g[j] * g[j];
    return sum;
  }
  __device__ __forceinline__ void take_squares(Row& row, A squares, const Lanes& lanes) const {
    A* second = static_cast<A*>(a.second) + row.number;
    row.row_second = *second + squares / static_cast<A>(a.dim);
    __syncwarp(lanes.mask);
    if (lanes.lane == 0) *second = row.row_second;
  }

  template <int N>
  __device__ __forceinline__ void store(const Row& row, int64_t col, A (&g)[N]) const {
    const int64_t at = row.number * a.dim + col;
    T* param = static_cast<T*>(a.param) + at;
    A p[N], m[N] = {}, v[N] = {};
    load_upcast<N>(param, p);
    const A beta1 = static_cast<A>(a.beta1), beta2 = static_cast<A>(a.beta2), eps = static_cast<A>(a.eps);
    const A rest1 = static_cast<A>(1 - a.beta1), rest2 = static_cast<A>(1 - a.beta2);
    const bool has_first = a.rule == Rule::momentum || a.rule == Rule::adam;
    const bool has_second = a.rule == Rule::adagrad || a.rule == Rule::adam;
    A* first = static_cast<A*>(a.first) + at;
    A* second = static_cast<A*>(a.second) + at;
    if (has_first) load<N>(first, m);
    if (has_second) load<N>(second, v);
    prepare(row, p, g);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (row.scale != 1) p[j] *= row.scale;
      A change;
      if (a.rule == Rule::sgd) {
        change = g[j];
      } else if (a.rule == Rule::momentum) {
        m[j] = beta1 * m[j] + g[j];
        change = a.nesterov ? g[j] + beta1 * m[j] : m[j];
      } else if (a.rule == Rule::adagrad) {
        v[j] += g[j] * g[j];
        change = g[j] / (sqrt(v[j]) + eps);
      } else if (a.rule == Rule::rowwise_adagrad) {
        change = g[j] / (sqrt(row.row_second) + eps);
      } else {
        m[j] += rest1 * (g[j] - m[j]);
        v[j] = beta2 * v[j] + rest2 * (g[j] * g[j]);
        change = m[j] / (sqrt(v[j]) * row.inv_sqrt_correction + eps);
      }
      p[j] += row.rate * change;
    }
    if (has_first) store_numbers(first, m);
    if (has_second) store_numbers(second, v);
    save(row, col, param, p);
  }

  // p <- p times the pending decay, and nothing more.
  template <int N>
  __device__ __forceinline__ void decay(const Row& row, int64_t col) const {
    T* param = static_cast<T*>(a.param) + row.number * a.dim + col;
    A p[N];
    load_upcast<N>(param, p);
#pragma unroll
    for (int j = 0; j < N; ++j) p[j] *= row.scale;
    save(row, col, param, p);
  }

 private:
  template <int N>
  static __device__ __forceinline__ void store_numbers(A* to, const A (&in)[N]) {
    cuda::store<N>(to, in);
  }

  template <int N>
  __device__ __forceinline__ void save(const Row& row, int64_t col, T* param, const A (&p)[N]) const {
    if constexpr (sizeof(T) == 2) {
      if (a.random_rounding) {
        T rounded[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const uint32_t random = rounding_bits(a.seed, step_number(), row.number, col + j);
          round_randomly(rounded[j], p[j], random);
        }
        cuda::store<N>(param, rounded);
        return;
      }
    }
    store_downcast(param, p);
  }
};

}  // namespace resemb::cuda
