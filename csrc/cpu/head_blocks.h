// Rows cut into heads of whole vectors, for the instruction set of the including file.
#pragma once

#include "cpu/blocks.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Calls body.template operator()<H, N>(h, i) for pieces that cover `heads` heads of `vectors` vectors each:
// N vectors, from vector i on, of each of H heads from head h on.
template <class F>
RESEMB_INLINE void for_head_blocks(int64_t heads, int64_t vectors, const F& body) {
  for (int64_t h = 0; h < heads;) {
    const int64_t left = heads - h;
    if constexpr (!kFewWidths) {
      if (vectors == 1 && left >= 8) {
        body.template operator()<8, 1>(h, 0);
        h += 8;
        continue;
      }
      if (vectors == 1 && left >= 4) {
        body.template operator()<4, 1>(h, 0);
        h += 4;
        continue;
      }
      if (vectors == 2 && left >= 4) {
        body.template operator()<4, 2>(h, 0);
        h += 4;
        continue;
      }
      if (vectors == 1 && left >= 2) {
        body.template operator()<2, 1>(h, 0);
        h += 2;
        continue;
      }
      if (vectors == 2 && left >= 2) {
        body.template operator()<2, 2>(h, 0);
        h += 2;
        continue;
      }
      if (vectors == 4 && left >= 2) {
        body.template operator()<2, 4>(h, 0);
        h += 2;
        continue;
      }
    }
    int64_t i = 0;
    for (; vectors - i >= 8; i += 8) body.template operator()<1, 8>(h, i);
    for (; vectors - i >= 4; i += 4) body.template operator()<1, 4>(h, i);
    for (; vectors - i >= 2; i += 2) body.template operator()<1, 2>(h, i);
    if (i < vectors) body.template operator()<1, 1>(h, i);
    ++h;
  }
}

// Accumulators of H heads of N vectors, with the interface of a Block; weights are those of the heads.
template <class A, int H, int N>
struct HeadBlock {
  Vec<A> v[H * N];

  RESEMB_INLINE HeadBlock() {
#pragma GCC unroll 8
    for (int i = 0; i < H * N; ++i) v[i] = Vec<A>{};
  }
  static RESEMB_INLINE void fetch(const A* row) { Block<A, H * N>::fetch(row); }
  RESEMB_INLINE void add_weighted(const A* weights, const A* row) {
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h) {
      const A w = weights[h];
#pragma GCC unroll 8
      for (int i = h * N; i < (h + 1) * N; ++i) v[i] += w * load(row + i * kLanes<A>);
    }
  }
  RESEMB_INLINE void add_row(const A* row) {
#pragma GCC unroll 8
    for (int i = 0; i < H * N; ++i) v[i] += load(row + i * kLanes<A>);
  }
  template <class O>
  RESEMB_INLINE void save(O* row, int64_t = 0) const {
#pragma GCC unroll 8
    for (int i = 0; i < H * N; ++i) store(row + i * kLanes<A>, v[i]);
  }
  template <class O>
  RESEMB_INLINE void stream(O* row, int64_t) const {
#pragma GCC unroll 8
    for (int i = 0; i < H * N; ++i) store_past_cache(row + i * kLanes<A>, v[i]);
  }
};

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
