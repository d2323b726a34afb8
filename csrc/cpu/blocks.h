// Rows cut into column blocks whose sums stay in registers, for the instruction set of the including file.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Terms ahead of the one being summed whose row is prefetched.
constexpr int64_t kAhead = 24;
constexpr int kMaxBlock = 8;  // vectors of accumulators kept in registers
constexpr int kVectorBytes = 32;
// Only widths that are powers of two: half of the compile time, for kernels that hardly any processor runs.
#if defined(RESEMB_FEW_WIDTHS)
constexpr bool kFewWidths = true;
#else
constexpr bool kFewWidths = false;
#endif

// Calls body.template operator()<N>(col, last) for consecutive column blocks of N pieces, at most Most, of
// `lanes` columns. The last piece of a block starts at col + last: moved back so that it ends with the row,
// where D is no multiple of the lanes. The overlap is computed twice, with the same result. Needs
// dim >= lanes.
template <int64_t lanes, int Most, class F>
RESEMB_INLINE void for_blocks(int64_t dim, const F& body) {
  int64_t col = 0;
  if constexpr (kFewWidths) {
    const auto take = [&]<int N>() RESEMB_LAMBDA_INLINE {
      if constexpr (N > Most) return;
      while (dim - col > (N - 1) * lanes) {
        body.template operator()<N>(col, std::min(N * lanes, dim - col) - lanes);
        col += N * lanes;
      }
    };
    take.template operator()<8>();
    take.template operator()<4>();
    take.template operator()<2>();
    take.template operator()<1>();
  } else {
    for (; dim - col >= Most * lanes; col += Most * lanes) {
      body.template operator()<Most>(col, (Most - 1) * lanes);
    }
    const int64_t rest = dim - col, pieces = (rest + lanes - 1) / lanes;
    const auto take = [&]<int... N>(std::integer_sequence<int, N...>) RESEMB_LAMBDA_INLINE {
      ((pieces == N + 1 ? body.template operator()<N + 1>(col, rest - lanes) : void()), ...);
    };
    take(std::make_integer_sequence<int, Most>{});
  }
}

// N vectors of accumulators over one column block.
template <class A, int N>
struct Block {
  Vec<A> v[N];

  RESEMB_INLINE Block() {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) v[i] = Vec<A>{};
  }
  template <class T>
  static RESEMB_INLINE void fetch(const T* row) {
    constexpr int64_t bytes = N * kLanes<A> * static_cast<int64_t>(sizeof(T));
#pragma GCC unroll 8
    for (int64_t at = 0; at < bytes; at += 64) prefetch(reinterpret_cast<const char*>(row) + at);
  }
  static RESEMB_INLINE int64_t at(int i, int64_t last) { return i == N - 1 ? last : i * kLanes<A>; }
  template <class T>
  RESEMB_INLINE void add_scaled(A w, const T* row, int64_t last) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) v[i] += w * load(row + at(i, last));
  }
  template <class T>
  RESEMB_INLINE void add_row(const T* row, int64_t last) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) v[i] += load(row + at(i, last));
  }
  RESEMB_INLINE void add(const Block& other) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) v[i] += other.v[i];
  }
  template <class O>
  RESEMB_INLINE void save(O* row, int64_t last) const {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) store(row + at(i, last), v[i]);
  }
  // Past the cache; needs can_stream().
  template <class O>
  RESEMB_INLINE void stream(O* row, int64_t last) const {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) store_past_cache(row + at(i, last), v[i]);
  }
};

// The same for a bfloat16 table: N pieces of sixteen columns, summed in two vectors each.
template <int N>
struct SplitBlock {
  static constexpr int64_t kColumns = 2 * kLanes<float>;
  Split v[N];

  RESEMB_INLINE SplitBlock() {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) v[i] = Split{};
  }
  static RESEMB_INLINE void fetch(const BFloat* row) {
#pragma GCC unroll 4
    for (int64_t at = 0; at < N * kColumns; at += 32) prefetch(row + at);
  }
  static RESEMB_INLINE int64_t at(int i, int64_t last) { return i == N - 1 ? last : i * kColumns; }
  RESEMB_INLINE void add_scaled(float w, const BFloat* row, int64_t last) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const Split x = load_split(row + at(i, last));
      v[i].even += w * x.even;
      v[i].odd += w * x.odd;
    }
  }
  RESEMB_INLINE void add_row(const BFloat* row, int64_t last) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const Split x = load_split(row + at(i, last));
      v[i].even += x.even;
      v[i].odd += x.odd;
    }
  }
  RESEMB_INLINE void add(const SplitBlock& other) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      v[i].even += other.v[i].even;
      v[i].odd += other.v[i].odd;
    }
  }
  template <class O>
  RESEMB_INLINE void save(O* row, int64_t last) const {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      O* to = row + at(i, last);
      if constexpr (std::is_same_v<O, BFloat>) {
        write(to, to_bits(v[i]));
      } else {
        store(to, first_half(v[i]));
        store(to + kLanes<float>, second_half(v[i]));
      }
    }
  }
  template <class O>
  RESEMB_INLINE void stream(O* row, int64_t last) const {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      O* to = row + at(i, last);
      if constexpr (std::is_same_v<O, BFloat>) {
        write_past_cache(to, to_bits(v[i]));
      } else {
        store_past_cache(to, first_half(v[i]));
        store_past_cache(to + kLanes<float>, second_half(v[i]));
      }
    }
  }
};

// The same interface for rows narrower than one vector.
template <class A>
struct NarrowBlock {
  Vec<A> v = {};

  template <class T>
  static RESEMB_INLINE void fetch(const T* row) {
    prefetch(row);
  }
  template <class T>
  RESEMB_INLINE void add_scaled(A w, const T* row, int64_t dim) {
    v += w * load_part(row, dim);
  }
  template <class T>
  RESEMB_INLINE void add_row(const T* row, int64_t dim) {
    v += load_part(row, dim);
  }
  RESEMB_INLINE void add(const NarrowBlock& other) { v += other.v; }
  template <class O>
  RESEMB_INLINE void save(O* row, int64_t dim) const {
    store_part(row, v, dim);
  }
  template <class O>
  RESEMB_INLINE void stream(O* row, int64_t dim) const {
    save(row, dim);
  }
};

// Whether rows of that type can be written past the cache: aligned vectors throughout.
RESEMB_INLINE bool can_stream(DType out_type, const void* out, int64_t dim) {
  return dim * static_cast<int64_t>(item_size(out_type)) % kVectorBytes == 0 &&
         reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0;
}

// Saves a block at element `at` of `out`, which holds out_type; `stream` only where can_stream().
template <class A, class B>
RESEMB_INLINE void save_as(const B& block, DType out_type, bool stream, void* out, int64_t at, int64_t last) {
  const auto put = [&](auto* to) RESEMB_LAMBDA_INLINE {
    if (stream) return block.stream(to + at, last);
    block.save(to + at, last);
  };
  if constexpr (sizeof(A) == 4) {
    if (out_type == DType::f16) return put(static_cast<Half*>(out));
    if (out_type == DType::bf16) return put(static_cast<BFloat*>(out));
  }
  put(static_cast<A*>(out));
}

// Calls body.template operator()<BlockType>(col, last) over all columns of rows of any width, read from T.
// The body holds the loop over rows, so that it is compiled for its block's width.
template <class T, class F>
RESEMB_INLINE void for_columns(int64_t dim, const F& body) {
  using A = Acc<T>;
  constexpr int64_t lanes = kLanes<A>;
  if (dim < lanes) return body.template operator()<NarrowBlock<A>>(0, dim);
  if constexpr (std::is_same_v<T, BFloat>) {
    constexpr int64_t columns = SplitBlock<1>::kColumns;
    if (dim < columns) return body.template operator()<Block<A, 2>>(0, dim - lanes);
    for_blocks<columns, kMaxBlock / 2>(dim, [&]<int N>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      body.template operator()<SplitBlock<N>>(col, last);
    });
  } else {
    for_blocks<lanes, kMaxBlock>(dim, [&]<int N>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      body.template operator()<Block<A, N>>(col, last);
    });
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
