// Rows cut into column blocks whose sums stay in registers, for the instruction set of the including file.
#pragma once

#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Terms ahead of the one being summed whose row is prefetched.
constexpr int64_t kAhead = 24;
constexpr int kMaxBlock = 8;  // vectors of accumulators kept in registers
// Only widths that are powers of two: half of the compile time, for kernels that hardly any processor runs.
#if defined(RESEMB_FEW_WIDTHS)
constexpr bool kFewWidths = true;
#else
constexpr bool kFewWidths = false;
#endif

// Calls body.template operator()<N>(col, last) for consecutive column blocks of N vectors. The last
// vector of a block starts at col + last: moved back so that it ends with the row, where D is no
// multiple of the lanes. The overlap is computed twice, with the same result. Needs dim >= lanes.
template <class A, class F>
RESEMB_INLINE void for_blocks(int64_t dim, const F& body) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t col = 0;
  if constexpr (kFewWidths) {
    const auto take = [&]<int N>() RESEMB_LAMBDA_INLINE {
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
    for (; dim - col >= kMaxBlock * lanes; col += kMaxBlock * lanes) {
      body.template operator()<kMaxBlock>(col, (kMaxBlock - 1) * lanes);
    }
    const int64_t rest = dim - col;
    const int64_t last = rest - lanes;
    switch ((rest + lanes - 1) / lanes) {
      case 0:
        break;
      case 1:
        body.template operator()<1>(col, last);
        break;
      case 2:
        body.template operator()<2>(col, last);
        break;
      case 3:
        body.template operator()<3>(col, last);
        break;
      case 4:
        body.template operator()<4>(col, last);
        break;
      case 5:
        body.template operator()<5>(col, last);
        break;
      case 6:
        body.template operator()<6>(col, last);
        break;
      case 7:
        body.template operator()<7>(col, last);
        break;
      default:
        body.template operator()<8>(col, last);
        break;
    }
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

// Whether rows of that type can be written past the cache: aligned vectors of accumulators throughout.
template <class A>
RESEMB_INLINE bool can_stream(DType out_type, const void* out, int64_t dim) {
  return item_size(out_type) == sizeof(A) && dim % kLanes<A> == 0 &&
         reinterpret_cast<uintptr_t>(out) % 32 == 0;
}

// Saves a block at element `at` of `out`, which holds out_type; `stream` only where can_stream().
template <class A, class B>
RESEMB_INLINE void save_as(const B& block, DType out_type, bool stream, void* out, int64_t at, int64_t last) {
  if (stream) return block.stream(static_cast<A*>(out) + at, last);
  if constexpr (sizeof(A) == 4) {
    if (out_type == DType::f16) return block.save(static_cast<Half*>(out) + at, last);
    if (out_type == DType::bf16) return block.save(static_cast<BFloat*>(out) + at, last);
  }
  block.save(static_cast<A*>(out) + at, last);
}

// Calls body.template operator()<BlockType>(col, last) over all columns of rows of any width. The body
// holds the loop over rows, so that it is compiled for its block's width.
template <class A, class F>
RESEMB_INLINE void for_columns(int64_t dim, const F& body) {
  if (dim < kLanes<A>) {
    body.template operator()<NarrowBlock<A>>(0, dim);
  } else {
    for_blocks<A>(dim, [&]<int N>(int64_t col, int64_t last)
                           RESEMB_LAMBDA_INLINE { body.template operator()<Block<A, N>>(col, last); });
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
