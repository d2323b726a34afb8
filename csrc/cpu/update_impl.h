// The optimizers' row kernels, for the instruction set of the including file.
#pragma once

#include "cpu/kernels.h"
#include "cpu/rounding_vec.h"
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

RESEMB_INLINE Split square_root(Split v) { return {square_root(v.even), square_root(v.odd)}; }

// What a moment's numbers are, beside a table with the accumulator A.
template <class A, Moment F>
using MomentType =
    std::conditional_t<F == Moment::bf16, BFloat, std::conditional_t<F == Moment::i8, int8_t, A>>;

// Wide: of bfloat16 tables with bfloat16 and int8 moments, 16 columns at a time, as Splits.
template <class T, Rule R, Moment First = Moment::acc, Moment Second = Moment::acc, bool Wide = false>
class RowUpdate {
  using A = Acc<T>;
  using V = std::conditional_t<Wide, Split, Vec<A>>;
  using Bits = std::conditional_t<Wide, SplitBits, u8>;
  using M1 = MomentType<A, First>;
  using M2 = MomentType<A, Second>;
  static constexpr bool kFirst = R == Rule::momentum || R == Rule::adam;
  static constexpr bool kSecond = R == Rule::adagrad || R == Rule::adam;
  static constexpr bool kRowwise = kSecond && Second == Moment::row;
  static constexpr bool kCodes = First == Moment::i8;
  // Whether moments are rounded at random; for tables that is an option.
  static constexpr bool kRounds = First == Moment::bf16 || kCodes || Second == Moment::bf16;
  static constexpr int64_t kKept = 256;

  // What the columns of a row have in common.
  struct Row {
    int64_t number;
    const T* grad;
    T* param;
    M1* first;
    M2* second;
    A scale;
    bool scales;
    A rate, inv_sqrt_correction;
    uint32_t even, odd;  // keys of its random bits, see RowBits
    A* kept;             // rowwise: the columns of `direction`, or null where they are more than kKept
    float code_scale;    // of the first moments in codes that are read
    float code_inverse;  // of those that are written
  };

 public:
  RESEMB_INLINE explicit RowUpdate(const UpdateArgs& args)
      : a(args),
        coupled(static_cast<A>(args.weight_decay)),
        couples(coupled != 0),
        sign(args.maximize ? A{-1} : A{1}),
        beta1(static_cast<A>(args.beta1)),
        beta2(static_cast<A>(args.beta2)),
        rest1(static_cast<A>(1 - args.beta1)),
        rest2(static_cast<A>(1 - args.beta2)),
        eps(static_cast<A>(args.eps)),
        rounds_param(sizeof(T) == 2 && args.random_rounding) {
    set_step(args.step);
    if (kRounds || rounds_param) rounding = rounding_key(args.seed, args.step);
  }

  RESEMB_INLINE void run(int64_t begin, int64_t end) {
    if constexpr (kRowwise) {
      // A row is surveyed before the columns of the one before it are written, so that the roots and
      // divisions of a row do not keep its columns waiting.
      A kept[2][kKept];
      const auto survey = [&](int64_t i) RESEMB_LAMBDA_INLINE {
        Row row = start(i);
        row.kept = a.dim <= kKept ? kept[i % 2] : nullptr;
        surveyed(row);
        return row;
      };
      if (begin == end) return;
      Row row = survey(begin);
      for (int64_t i = begin + 1; i < end; ++i) {
        const Row next = survey(i);
        write_row(row);
        row = next;
      }
      write_row(row);
    } else {
      for (int64_t i = begin; i < end; ++i) {
        const Row row = start(i);
        if (R != Rule::decay || row.scales) write_row(row);
      }
    }
  }

 private:
  template <class F>
  RESEMB_INLINE void for_columns(const F& f) {
    constexpr int64_t lanes = Wide ? 16 : kLanes<A>;
    int64_t col = 0;
    for (; col + lanes <= a.dim; col += lanes) f(col, lanes);
    if constexpr (!Wide) {
      if (col < a.dim) f(col, a.dim - col);
    }
  }

  template <class P>
  static RESEMB_INLINE V get(const P* p, int64_t n) {
    if constexpr (Wide) {
      return load_split(p);
    } else if constexpr (std::is_same_v<P, int8_t>) {
      return load_codes(p, n);
    } else {
      return load_columns(p, n);
    }
  }
  static RESEMB_INLINE V get_kept(const A* p) {
    if constexpr (Wide) {
      return {load(p), load(p + 8)};
    } else {
      return load(p);
    }
  }
  static RESEMB_INLINE void keep(A* p, V v) {
    if constexpr (Wide) {
      store(p, v.even);
      store(p + 8, v.odd);
    } else {
      store(p, v);
    }
  }

  RESEMB_INLINE void fetch(int64_t row) const {
    const auto lines = [&](const void* p, int64_t item) RESEMB_LAMBDA_INLINE {
      const char* bytes = static_cast<const char*>(p) + row * a.dim * item;
      for (int64_t at = 0; at < a.dim * item; at += 64) prefetch(bytes + at);
    };
    lines(a.param, sizeof(T));
    if constexpr (kFirst) lines(a.first, sizeof(M1));
    if constexpr (kCodes) prefetch(a.first_scale + row);
    if constexpr (kRowwise) prefetch(static_cast<A*>(a.second) + row);
    if constexpr (kSecond && !kRowwise) lines(a.second, sizeof(M2));
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

  // Row number i of the step, its count and pending decay brought up to date.
  RESEMB_INLINE Row start(int64_t i) {
    // Without row numbers the rows lie in line, and most may have nothing pending.
    if (a.rows != nullptr && i + kRowsAhead < a.num_rows) fetch(a.rows[i + kRowsAhead]);
    const int64_t number = a.rows != nullptr ? a.rows[i] : i, at = number * a.dim;
    Row row;
    row.number = number;
    row.grad = static_cast<const T*>(a.grad) + (i - a.grad_first) * a.dim;
    row.param = static_cast<T*>(a.param) + at;
    if constexpr (kFirst) row.first = static_cast<M1*>(a.first) + at;
    if constexpr (kSecond) row.second = static_cast<M2*>(a.second) + (kRowwise ? number : at);
    if constexpr (kCodes) row.code_scale = a.first_scale[number];
    if (a.row_steps != nullptr) set_step(++a.row_steps[number]);
    row.rate = rate;
    row.inv_sqrt_correction = inv_sqrt_correction;
    row.scale = static_cast<A>(a.shrink);
    if (a.decayed != nullptr) {
      row.scale *= static_cast<A>(std::exp(a.decay_now - a.decayed[number]));
      a.decayed[number] = a.decay_now;
    }
    row.scales = row.scale != 1;
    row.even = row.odd = 0;
    if (kRounds || rounds_param) {
      const RowBits random(rounding, number);
      row.even = random.even;
      row.odd = random.odd;
    }
    return row;
  }

  RESEMB_INLINE V gradient(const Row& row, int64_t col, int64_t n) const {
    V g = get(row.grad + col, n) * sign;
    if (couples) g += coupled * (get(row.param + col, n) * row.scale);
    return g;
  }

  // Adam's new first moment.
  RESEMB_INLINE V averaged(const Row& row, int64_t col, int64_t n, V g) const {
    V m = get(row.first + col, n);
    if constexpr (kCodes) m *= row.code_scale;
    return m + rest1 * (g - m);
  }

  // Where the columns of a rowwise step go; its length is the row's rate.
  RESEMB_INLINE V direction(const Row& row, int64_t col, int64_t n, V g) const {
    if constexpr (R == Rule::adam) return averaged(row, col, n, g);
    return g;
  }

  // The second moment of a row, and the scale of its codes.
  RESEMB_INLINE void surveyed(Row& row) {
    V squares = {};
    [[maybe_unused]] i8 largest = {};
    for_columns([&](int64_t col, int64_t n) RESEMB_LAMBDA_INLINE {
      const V g = gradient(row, col, n), d = direction(row, col, n, g);
      squares += g * g;
      if constexpr (kCodes) largest = larger(largest, d);
      if (row.kept != nullptr) keep(row.kept + col, d);
    });
    const A mean = sum_lanes(squares) / static_cast<A>(a.dim);
    const A v = R == Rule::adam ? beta2 * *row.second + rest2 * mean : *row.second + mean;
    *row.second = v;
    row.rate /= square_root(Vec<A>{} + v)[0] * row.inv_sqrt_correction + eps;
    if constexpr (kCodes) {
      const CodeScale codes(largest_lane(largest));
      a.first_scale[row.number] = codes.scale;
      row.code_inverse = codes.inverse;
    }
  }

  RESEMB_INLINE void write_row(const Row& row) {
    Words<Wide> even(row.even), odd(row.odd);
    for_columns([&](int64_t col, int64_t n) RESEMB_LAMBDA_INLINE {
      Bits word = {};
      if (First == Moment::bf16 || kCodes || rounds_param) word = even.next();
      V p = get(row.param + col, n);
      if (row.scales) p *= row.scale;  // where it is 1, the sum below stays one fused multiply-add
      if constexpr (kRowwise) {
        const V d =
            row.kept != nullptr ? get_kept(row.kept + col) : direction(row, col, n, gradient(row, col, n));
        if constexpr (kFirst) save_first(row, col, n, d, word);
        p += row.rate * d;
      } else if constexpr (R != Rule::decay) {
        p += row.rate * change(row, col, n, word, odd);
      }
      if constexpr (sizeof(T) == 2) {
        if (rounds_param) return store_rounded(row.param + col, p, n, lower(word));
      }
      if constexpr (Wide) {
        write(row.param + col, to_bits(p));
      } else {
        store_columns(row.param + col, p, n);
      }
    });
  }

  // What the rate multiplies where no number is kept by row; the state is brought up to date.
  RESEMB_INLINE V change(const Row& row, int64_t col, int64_t n, Bits word, Words<Wide>& odd) const {
    const V g = gradient(row, col, n);
    if constexpr (R == Rule::sgd) {
      return g;
    } else if constexpr (R == Rule::momentum) {
      const V m = beta1 * load_columns(row.first + col, n) + g;
      store_columns(row.first + col, m, n);
      return a.nesterov ? g + beta1 * m : m;
    } else if constexpr (R == Rule::adagrad) {
      const V v = load_columns(row.second + col, n) + g * g;
      store_columns(row.second + col, v, n);
      return g / (square_root(v) + eps);
    } else {
      const V m = averaged(row, col, n, g);
      const V v = beta2 * get(row.second + col, n) + rest2 * (g * g);
      save_first(row, col, n, m, word);
      if constexpr (Second == Moment::bf16) {
        store_rounded(row.second + col, v, n, lower(odd.next()));
      } else {
        store_columns(row.second + col, v, n);
      }
      return m / (square_root(v) * row.inv_sqrt_correction + eps);
    }
  }

  RESEMB_INLINE void save_first(const Row& row, int64_t col, int64_t n, V m, Bits word) const {
    if constexpr (kCodes) {
      store_codes(row.first + col, m, row.code_inverse, n, upper(word));
    } else if constexpr (First == Moment::bf16) {
      store_rounded(row.first + col, m, n, upper(word));
    } else {
      store_columns(row.first + col, m, n);
    }
  }

  const UpdateArgs a;
  const A coupled;
  const bool couples;
  const A sign, beta1, beta2, rest1, rest2, eps;
  const bool rounds_param;
  uint64_t rounding = 0;  // the key of the step's random bits
  A rate = 0, inv_sqrt_correction = 1;
};

template <class T, Moment First, Moment Second>
void update_compact(const UpdateArgs& a, int64_t begin, int64_t end) {
#if defined(RESEMB_STREAM)
  if constexpr (std::is_same_v<T, BFloat> && First != Moment::acc) {
    if (a.dim % 16 == 0) return RowUpdate<T, Rule::adam, First, Second, true>(a).run(begin, end);
  }
#endif
  RowUpdate<T, Rule::adam, First, Second>(a).run(begin, end);
}

template <class T>
void update_adam(const UpdateArgs& a, int64_t begin, int64_t end) {
  if constexpr (sizeof(Acc<T>) == 4) {
    const bool by_row = a.second_form == Moment::row;
    if (a.first_form == Moment::i8) return update_compact<T, Moment::i8, Moment::row>(a, begin, end);
    if (a.first_form == Moment::bf16) {
      return by_row ? update_compact<T, Moment::bf16, Moment::row>(a, begin, end)
                    : update_compact<T, Moment::bf16, Moment::bf16>(a, begin, end);
    }
    if (by_row) return update_compact<T, Moment::acc, Moment::row>(a, begin, end);
  }
  RowUpdate<T, Rule::adam>(a).run(begin, end);
}

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
      return RowUpdate<T, Rule::adagrad, Moment::acc, Moment::row>(a).run(begin, end);
    case Rule::adam:
      return update_adam<T>(a, begin, end);
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
