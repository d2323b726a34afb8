// Lookups and bags of served rows, decoded in registers, for the instruction set of the including file.
#pragma once

#include "cpu/blocks.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// Rows are found, and asked for, a block before they are read, and the words of the overlay a block before
// that. A block at once: asked for one by one between rows that are decoded, half as many are on their way
// together where each costs a walk of the page table.
constexpr int64_t kBlockRows = 32;

typedef uint8_t b8 __attribute__((vector_size(8)));

RESEMB_INLINE i8 widened_codes(const char* p) {
#if defined(RESEMB_STREAM)
  return (i8)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  return __builtin_convertvector(read<b8>(p), i8);
#endif
}

// What a format's row is made of: pieces of kColumns numbers, each summed in a Sum, and the scale and bias of
// all. A piece of fewer columns is read and written through a copy. Sums leave out the biases, which are
// added up once a row, not once a piece.
struct Floats {
  static constexpr int64_t kColumns = 8;
  using Sum = f8;
  static RESEMB_INLINE int64_t at(int64_t col) { return 4 * col; }
  static RESEMB_INLINE float scale(const char*, int64_t) { return 1; }
  static RESEMB_INLINE float bias(const char*, int64_t) { return 0; }
  static RESEMB_INLINE void add(Sum& sum, const char* p, float scale) {
    sum += scale * load(reinterpret_cast<const float*>(p));
  }
  static RESEMB_INLINE void make(Sum& sum, const char* p, float, float) {
    sum = load(reinterpret_cast<const float*>(p));
  }
};

struct Halves : Floats {
  static RESEMB_INLINE int64_t at(int64_t col) { return 2 * col; }
  static RESEMB_INLINE void add(Sum& sum, const char* p, float scale) {
    sum += scale * load(reinterpret_cast<const Half*>(p));
  }
  static RESEMB_INLINE void make(Sum& sum, const char* p, float, float) {
    sum = load(reinterpret_cast<const Half*>(p));
  }
};

struct Bytes {
  static constexpr int64_t kColumns = 8;
  using Sum = f8;
  static RESEMB_INLINE int64_t at(int64_t col) { return col; }
  static RESEMB_INLINE float scale(const char* row, int64_t dim) { return read<float>(row + dim); }
  static RESEMB_INLINE float bias(const char* row, int64_t dim) { return read<float>(row + dim + 4); }
  static RESEMB_INLINE f8 codes(const char* p) { return __builtin_convertvector(widened_codes(p), f8); }
  static RESEMB_INLINE void add(Sum& sum, const char* p, float scale) { sum += scale * codes(p); }
  static RESEMB_INLINE void make(Sum& sum, const char* p, float scale, float bias) {
    sum = scale * codes(p) + bias;
  }
};

// A byte holds an even column and the odd one behind it.
struct Nibbles {
  static constexpr int64_t kColumns = 16;
  using Sum = Split;
  static RESEMB_INLINE int64_t at(int64_t col) { return col / 2; }
  static RESEMB_INLINE float scale(const char* row, int64_t dim) {
    return half_value(read<uint16_t>(row + dim / 2));
  }
  static RESEMB_INLINE float bias(const char* row, int64_t dim) {
    return half_value(read<uint16_t>(row + dim / 2 + 2));
  }
  static RESEMB_INLINE void add(Sum& sum, const char* p, float scale) {
    const i8 codes = widened_codes(p);
    sum.even += scale * __builtin_convertvector(codes & 15, f8);
    sum.odd += scale * __builtin_convertvector(codes >> 4, f8);
  }
  static RESEMB_INLINE void make(Sum& sum, const char* p, float scale, float bias) {
    const i8 codes = widened_codes(p);
    sum.even = scale * __builtin_convertvector(codes & 15, f8) + bias;
    sum.odd = scale * __builtin_convertvector(codes >> 4, f8) + bias;
  }
};

RESEMB_INLINE void shift(f8& sum, float by) { sum += by; }
RESEMB_INLINE void shift(Split& sum, float by) {
  sum.even += by;
  sum.odd += by;
}
RESEMB_INLINE void divide(f8& sum, float by) { sum /= by; }
RESEMB_INLINE void divide(Split& sum, float by) {
  sum.even /= by;
  sum.odd /= by;
}

template <bool kStream>
RESEMB_INLINE void put(float* to, f8 v) {
  if constexpr (kStream) {
    store_past_cache(to, v);
  } else {
    store(to, v);
  }
}
template <bool kStream>
RESEMB_INLINE void put(float* to, Split v) {
  put<kStream>(to, first_half(v));
  put<kStream>(to + kLanes<float>, second_half(v));
}

// The rows of positions [first, past), found ahead of their turn.
class Found {
 public:
  RESEMB_INLINE Found(const ServedRows& x, int64_t first, int64_t past)
      : ids_(x.ids.data),
        int64_(x.ids.are_int64),
        rows_(x.rows),
        oov_(x.oov),
        padding_(x.padding),
        bytes_(row_bytes(x.format, x.dim)),
        base_(x.base),
        base_rows_(x.base_rows),
        bits_(x.bits),
        before_(x.before),
        overlay_(x.overlay),
        overlay_rows_(x.overlay_rows),
        next_(first),
        past_(past),
        turn_(first) {
    // Rows lie at multiples of a power of two, which bounds how many lines one takes.
    const uintptr_t all = reinterpret_cast<uintptr_t>(base_) | reinterpret_cast<uintptr_t>(overlay_) |
                          static_cast<uintptr_t>(bytes_) | 64;
    const int64_t apart = static_cast<int64_t>(all & -all);
    lines_ = (64 - apart + bytes_ - 1) / 64;  // but for the last
    fetch_words(first);
    find_block();
  }

  // The row of the position after the one before; null for padding.
  RESEMB_INLINE const char* take(int64_t p) {
    if (p == turn_) {
      turn_ = next_;
      find_block();
    }
    return rows_found_[p & (2 * kBlockRows - 1)];
  }
  // The same of any position.
  RESEMB_INLINE const char* find(int64_t p) {
    int64_t row = id(p);
    if (__builtin_expect(static_cast<uint64_t>(row) >= static_cast<uint64_t>(rows_), 0)) {
      if (oov_ < 0) return fail(p);
      row = oov_;
    }
    if (row == padding_) return nullptr;
    if (bits_ != nullptr) {
      const uint64_t word = bits_[row >> 6], bit = uint64_t{1} << (row & 63);
      if ((word & bit) != 0) {
        const int64_t rank = before_[row >> 6] + __builtin_popcountll(word & (bit - 1));
        if (static_cast<uint64_t>(rank) >= static_cast<uint64_t>(overlay_rows_)) return fail(p);
        return overlay_ + rank * bytes_;
      }
      if (row >= base_rows_) return fail(p);
    }
    return base_ + row * bytes_;
  }
  int64_t bad() const { return bad_; }

 private:
  RESEMB_INLINE int64_t id(int64_t p) const {
    return int64_ ? static_cast<const int64_t*>(ids_)[p] : static_cast<const int32_t*>(ids_)[p];
  }
  RESEMB_INLINE const char* fail(int64_t p) {
    if (bad_ < 0 || p < bad_) bad_ = p;
    return nullptr;
  }
  // Asks for the overlay's words of a block.
  RESEMB_INLINE void fetch_words(int64_t first) const {
    if (bits_ == nullptr) return;
    for (int64_t p = first; p < past_ && p < first + kBlockRows; ++p) {
      const int64_t row = id(p);
      if (static_cast<uint64_t>(row) >= static_cast<uint64_t>(rows_)) continue;
      prefetch(bits_ + (row >> 6));
      prefetch(before_ + (row >> 6));
    }
  }
  RESEMB_INLINE void find_block() {
    const int64_t stop = next_ + kBlockRows < past_ ? next_ + kBlockRows : past_;
    if (bits_ != nullptr) {
      fetch_words(stop);
      for (; next_ < stop; ++next_) keep(next_, find(next_));
    } else if (int64_) {
      find_in_base(static_cast<const int64_t*>(ids_), stop);
    } else {
      find_in_base(static_cast<const int32_t*>(ids_), stop);
    }
  }
  // Most tables have no overlay and most ids a row: what few need stays out of their loop's registers.
  template <class Id>
  RESEMB_INLINE void find_in_base(const Id* ids, int64_t stop) {
    const int64_t rows = rows_, padding = padding_, bytes = bytes_;
    const char* const base = base_;
    for (; next_ < stop; ++next_) {
      const int64_t row = ids[next_];
      const bool plain = (static_cast<uint64_t>(row) < static_cast<uint64_t>(rows)) & (row != padding);
      keep(next_, __builtin_expect(plain, 1) ? base + row * bytes : find(next_));
    }
  }
  RESEMB_INLINE void keep(int64_t p, const char* row) {
    rows_found_[p & (2 * kBlockRows - 1)] = row;
    if (row == nullptr) return;
    prefetch(row);
    for (int64_t line = 1; line < lines_; ++line) prefetch(row + 64 * line);
    prefetch(row + bytes_ - 1);
  }

  const void* ids_;
  bool int64_;
  int64_t rows_, oov_, padding_, bytes_, lines_;
  const char* base_;
  int64_t base_rows_;
  const uint64_t* bits_;
  const int32_t* before_;
  const char* overlay_;
  int64_t overlay_rows_, next_, past_;
  int64_t turn_;  // the position whose turn is that of the next block
  int64_t bad_ = -1;
  const char* rows_found_[2 * kBlockRows];
};

// Of rows narrower than a piece, through copies of a piece.
template <class R>
RESEMB_INLINE void add_narrow(typename R::Sum& sum, const char* row, int64_t dim, float scale) {
  char part[4 * R::kColumns] = {};
  __builtin_memcpy(part, row, R::at(dim));
  R::add(sum, part, scale);
}
template <class Sum>
RESEMB_INLINE void put_narrow(float* to, const Sum& sum, int64_t dim) {
  float part[2 * kLanes<float>];
  put<false>(part, sum);
  __builtin_memcpy(to, part, dim * sizeof(float));
}

template <class R, bool kStream>
RESEMB_INLINE int64_t read_as(const ServedRows& x, int64_t begin, int64_t end) {
  constexpr int64_t lanes = R::kColumns, many = 64 / lanes;
  const int64_t dim = x.dim;
  float* out = x.out;
  Found found(x, begin, end);
  for (int64_t p = begin; p < end; ++p) {
    const char* row = found.take(p);
    float* to = out + p * dim;
    if (row == nullptr) {
      __builtin_memset(to, 0, dim * sizeof(float));
      continue;
    }
    const float scale = R::scale(row, dim), bias = R::bias(row, dim);
    if (dim < lanes) {
      typename R::Sum sum{};
      add_narrow<R>(sum, row, dim, scale);
      shift(sum, bias);
      put_narrow(to, sum, dim);
      continue;
    }
    const auto piece = [&](int64_t col) RESEMB_LAMBDA_INLINE {
      typename R::Sum sum;
      R::make(sum, row + R::at(col), scale, bias);
      put<kStream>(to + col, sum);
    };
    int64_t col = 0;
    for (; col + 64 <= dim; col += 64) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < many; ++i) piece(col + i * lanes);
    }
    for (; col + lanes <= dim; col += lanes) piece(col);
    if (col < dim) piece(dim - lanes);
  }
  if constexpr (kStream) finish_stream();
  return found.bad();
}

// A bag's sum in registers, over N pieces of columns from col on; the last lies at `last`, as of for_blocks.
template <class R, int N>
struct Pieces {
  typename R::Sum v[N];

  RESEMB_INLINE Pieces() {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) v[i] = typename R::Sum{};
  }
  static RESEMB_INLINE int64_t at(int i, int64_t last) { return i == N - 1 ? last : i * R::kColumns; }
  RESEMB_INLINE void add(const char* row, int64_t col, int64_t last, float scale) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) R::add(v[i], row + R::at(col + at(i, last)), scale);
  }
  RESEMB_INLINE void shift_by(float by) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) shift(v[i], by);
  }
  RESEMB_INLINE void divide_by(float by) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) divide(v[i], by);
  }
  RESEMB_INLINE void save(float* to, int64_t last) const {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) put<false>(to + at(i, last), v[i]);
  }
};
template <class R>
struct NarrowPiece {
  typename R::Sum v = {};

  RESEMB_INLINE void add(const char* row, int64_t, int64_t dim, float scale) {
    add_narrow<R>(v, row, dim, scale);
  }
  RESEMB_INLINE void shift_by(float by) { shift(v, by); }
  RESEMB_INLINE void divide_by(float by) { divide(v, by); }
  RESEMB_INLINE void save(float* to, int64_t dim) const { put_narrow(to, v, dim); }
};

template <class R>
RESEMB_INLINE int64_t pool_as(const ServedBags& x, int64_t begin, int64_t end) {
  constexpr int most = 64 / R::kColumns;
  const int64_t dim = x.dim;
  const float* weights = x.weights;
  Found found(x, x.begin(begin), x.end(end - 1));
  for (int64_t b = begin; b < end; ++b) {
    const int64_t first = x.begin(b), past = x.end(b);
    float* to = x.out + b * dim;
    int64_t count = 0;
    float total = 0, bias = 0;  // of weights, and of their rows' biases
    const auto sum_columns = [&]<class S>(S sum, int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      for (int64_t p = first; p < past; ++p) {
        // The first columns find the rows; the others' lie in cache then.
        const char* row = col == 0 ? found.take(p) : found.find(p);
        if (row == nullptr) continue;
        const float weight = weights != nullptr ? weights[p] : 1;
        if (col == 0) {
          ++count;
          total += weight;
          bias += weight * R::bias(row, dim);
        }
        sum.add(row, col, last, weight * R::scale(row, dim));
      }
      sum.shift_by(bias);
      if (x.divisor != Divisor::none && count > 0) {
        sum.divide_by(x.divisor == Divisor::weights ? total : static_cast<float>(count));
      }
      sum.save(to + col, last);
    };
    if (dim < R::kColumns) {
      sum_columns(NarrowPiece<R>(), 0, dim);
    } else {
      for_blocks<R::kColumns, most>(dim, [&]<int N>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
        sum_columns(Pieces<R, N>(), col, last);
      });
    }
  }
  return found.bad();
}

int64_t read_rows(const ServedRows& x, int64_t begin, int64_t end) {
  const auto read = [&]<class R>(R) RESEMB_LAMBDA_INLINE {
    const bool stream = x.bypass_cache && can_stream(DType::f32, x.out, x.dim);
    return stream ? read_as<R, true>(x, begin, end) : read_as<R, false>(x, begin, end);
  };
  switch (x.format) {
    case RowFormat::f32:
      return read(Floats());
    case RowFormat::f16:
      return read(Halves());
    case RowFormat::i8:
      return read(Bytes());
    case RowFormat::i4:
      return read(Nibbles());
  }
  return -1;
}

int64_t pool_rows(const ServedBags& x, int64_t begin, int64_t end) {
  switch (x.format) {
    case RowFormat::f32:
      return pool_as<Floats>(x, begin, end);
    case RowFormat::f16:
      return pool_as<Halves>(x, begin, end);
    case RowFormat::i8:
      return pool_as<Bytes>(x, begin, end);
    case RowFormat::i4:
      return pool_as<Nibbles>(x, begin, end);
  }
  return -1;
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
