// DIN's attention unit on the samples of a block, for the instruction set of the including file.
#pragma once

#include "common/activation.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace resemb::cpu {
namespace RESEMB_ISA {

// A strided matrix: entry (i, l) at i * row + l * step.
template <class A>
struct Strided {
  const A* at;
  int64_t row, step;
};

// R rows and C vectors of out = left right, or of out += left right; right and out have whole vectors in a
// row.
template <int R, int C, class A>
RESEMB_INLINE void multiply_tile(const Strided<A>& left, const A* right, int64_t right_row, A* out,
                                 int64_t out_row, int64_t inner, bool add) {
  using V = Vec<A>;
  V sum[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) sum[r][c] = add ? load(out + r * out_row + c * kLanes<A>) : V{};
  }
  for (int64_t l = 0; l < inner; ++l) {
    V row[C];
    for (int c = 0; c < C; ++c) row[c] = load(right + l * right_row + c * kLanes<A>);
    for (int r = 0; r < R; ++r) {
      const A factor = left.at[r * left.row + l * left.step];
      for (int c = 0; c < C; ++c) sum[r][c] += factor * row[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store(out + r * out_row + c * kLanes<A>, sum[r][c]);
  }
}

template <int C, class A>
RESEMB_INLINE void multiply_columns(Strided<A> left, const A* right, int64_t right_row, A* out,
                                    int64_t out_row, int64_t rows, int64_t inner, bool add) {
  while (rows > 0) {
    const int64_t done = rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    if (done == 4) {
      multiply_tile<4, C>(left, right, right_row, out, out_row, inner, add);
    } else if (done == 2) {
      multiply_tile<2, C>(left, right, right_row, out, out_row, inner, add);
    } else {
      multiply_tile<1, C>(left, right, right_row, out, out_row, inner, add);
    }
    rows -= done;
    left.at += done * left.row;
    out += done * out_row;
  }
}

// out [rows, vectors] = left [rows, inner] right [inner, vectors], or += with `add`.
template <class A>
void multiply(const Strided<A>& left, const A* right, int64_t right_row, A* out, int64_t out_row,
              int64_t rows, int64_t vectors, int64_t inner, bool add) {
  while (vectors > 0) {
    const int64_t done = vectors == 3 || vectors > 4 ? 3 : vectors > 1 ? 2 : 1;
    if (done == 3) {
      multiply_columns<3>(left, right, right_row, out, out_row, rows, inner, add);
    } else if (done == 2) {
      multiply_columns<2>(left, right, right_row, out, out_row, rows, inner, add);
    } else {
      multiply_columns<1>(left, right, right_row, out, out_row, rows, inner, add);
    }
    vectors -= done;
    right += done * kLanes<A>;
    out += done * kLanes<A>;
  }
}

template <class A>
class Activation {
  using V = Vec<A>;
  static constexpr int64_t L = kLanes<A>;

 public:
  Activation(const ActivationArgs& args, A* scratch)
      : a_(args), dim_(args.dim), hidden_(args.hidden), wide_(args.wide_dim()), tall_(args.wide_hidden()) {
    const auto take = [&](int64_t n) {
      A* taken = scratch;
      scratch += n;
      return taken;
    };
    rows_ = take(hidden_ * wide_);
    grad_rows_ = take(hidden_ * wide_);
    columns_ = take(dim_ * tall_);
    key_copies_ = take(kPositions * wide_);
    grad_keys_ = take(kPositions * wide_);
    z_ = take(kPositions * tall_);
    grad_z_ = take(kPositions * tall_);
    grad_scores_ = take(kPositions * 8);
    query_ = take(wide_);
    pooled_ = take(wide_);
    grad_query_ = take(wide_);
    by_query_ = take(tall_);
    grad_by_query_ = take(tall_);
  }

  void forward(int64_t begin, int64_t end) {
    const A* weight = typed(a_.wide_out_weight);
    const A* slope = typed(a_.wide_slope);
    const A bias = *typed(a_.out_bias);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t pairs = a_.offsets[b + 1] - a_.offsets[b];
      fill(pooled_, wide_);
      if (pairs > 0) take_sample(b);
      for (int64_t first = 0; first < pairs; first += kPositions) {
        const int64_t n = pairs - first < kPositions ? pairs - first : kPositions;
        const A* keys = take_keys(a_.starts[b] + first, n);
        first_layer(keys, n);
        A* scores = static_cast<A*>(a_.scores) + a_.offsets[b] + first;
        for (int64_t p = 0; p < n; ++p) {
          V sum{};
          for (int64_t h = 0; h < tall_; h += L) {
            const V z = load(z_ + p * tall_ + h);
            sum += load(weight + h) * (z > V{} ? z : load(slope + h) * z);
          }
          scores[p] = sum_lanes(sum) + bias;
          if (a_.pooled == nullptr) continue;
          for (int64_t d = 0; d < wide_; d += L) {
            store(pooled_ + d, load(pooled_ + d) + scores[p] * load(keys + p * wide_ + d));
          }
        }
      }
      if (a_.pooled != nullptr) copy_row(pooled_, static_cast<A*>(a_.pooled) + b * dim_, dim_);
    }
  }

  void backward(A* partial, int64_t begin, int64_t end) {
    A* grad_w_key = partial;
    A* grad_w_product = grad_w_key + hidden_ * wide_;
    A* grad_slope = grad_w_product + hidden_ * wide_;
    A* grad_weight = grad_slope + tall_;
    A* grad_bias = grad_weight + tall_;
    fill(partial, a_.partial());
    for (int64_t b = begin; b < end; ++b) {
      const int64_t pairs = a_.offsets[b + 1] - a_.offsets[b];
      fill(grad_query_, wide_);
      fill(grad_by_query_, tall_);
      if (pairs > 0) {
        take_sample(b);
        take_rows();
        if (a_.grad_pooled != nullptr) wide_row(typed(a_.grad_pooled) + b * dim_, pooled_, dim_, wide_);
        for (int64_t first = 0; first < pairs; first += kPositions) {
          const int64_t n = pairs - first < kPositions ? pairs - first : kPositions;
          backward_tile(a_.starts[b] + first, a_.offsets[b] + first, n, first > 0, grad_slope, grad_weight,
                        grad_bias);
        }
        const A* product = typed(a_.product_rows);
        for (int64_t h = 0; h < hidden_; ++h) {
          for (int64_t d = 0; d < wide_; d += L) {
            const int64_t at = h * wide_ + d;
            const V grad = load(grad_rows_ + at);
            store(grad_w_key + at, load(grad_w_key + at) + grad);
            store(grad_w_product + at, load(grad_w_product + at) + grad * load(query_ + d));
            store(grad_query_ + d, load(grad_query_ + d) + grad * load(product + at));
          }
        }
      }
      copy_row(grad_query_, static_cast<A*>(a_.grad_query) + b * dim_, dim_);
      copy_row(grad_by_query_, static_cast<A*>(a_.grad_by_query) + b * hidden_, hidden_);
    }
  }

 private:
  static const A* typed(const void* p) { return static_cast<const A*>(p); }
  static void fill(A* row, int64_t n) {
    for (int64_t i = 0; i < n; i += L) store(row + i, V{});
  }
  static void copy_row(const A* from, A* to, int64_t n) { std::memcpy(to, from, n * sizeof(A)); }
  static void wide_row(const A* from, A* to, int64_t n, int64_t wide) {
    copy_row(from, to, n);
    for (int64_t i = n; i < wide; ++i) to[i] = 0;
  }

  // A sample's q, c, and M by columns.
  void take_sample(int64_t b) {
    wide_row(typed(a_.query) + b * dim_, query_, dim_, wide_);
    wide_row(typed(a_.by_query) + b * hidden_, by_query_, hidden_, tall_);
    const A *key = typed(a_.key_columns), *product = typed(a_.product_columns);
    for (int64_t d = 0; d < dim_; ++d) {
      for (int64_t h = 0; h < tall_; h += L) {
        const int64_t at = d * tall_ + h;
        store(columns_ + at, load(key + at) + query_[d] * load(product + at));
      }
    }
  }

  // M by rows.
  void take_rows() {
    const A *key = typed(a_.key_rows), *product = typed(a_.product_rows);
    for (int64_t h = 0; h < hidden_; ++h) {
      for (int64_t d = 0; d < wide_; d += L) {
        const int64_t at = h * wide_ + d;
        store(rows_ + at, load(key + at) + load(query_ + d) * load(product + at));
      }
    }
  }

  // n keys as wide rows: where they lie, if they are wide there.
  const A* take_keys(int64_t first, int64_t n) {
    const A* keys = typed(a_.keys) + first * dim_;
    if (dim_ == wide_) return keys;
    for (int64_t p = 0; p < n; ++p) wide_row(keys + p * dim_, key_copies_ + p * wide_, dim_, wide_);
    return key_copies_;
  }

  void first_layer(const A* keys, int64_t n) {
    for (int64_t p = 0; p < n; ++p) copy_row(by_query_, z_ + p * tall_, tall_);
    multiply<A>({keys, wide_, 1}, columns_, tall_, z_, tall_, n, tall_ / L, dim_, true);
  }

  void backward_tile(int64_t key, int64_t pair, int64_t n, bool add, A* grad_slope, A* grad_weight,
                     A* grad_bias) {
    const A* keys = take_keys(key, n);
    first_layer(keys, n);
    for (int64_t p = 0; p < n; ++p) {
      A grad = a_.grad_scores == nullptr ? A{0} : typed(a_.grad_scores)[pair + p];
      if (a_.grad_pooled != nullptr) {
        V dot{};
        for (int64_t d = 0; d < wide_; d += L) dot += load(keys + p * wide_ + d) * load(pooled_ + d);
        grad += sum_lanes(dot);
      }
      grad_scores_[p] = grad;
      *grad_bias += grad;
    }
    const A *slope = typed(a_.wide_slope), *weight = typed(a_.wide_out_weight);
    for (int64_t h = 0; h < tall_; h += L) {
      const V s = load(slope + h), w = load(weight + h);
      V of_slope = load(grad_slope + h), of_weight = load(grad_weight + h),
        of_query = load(grad_by_query_ + h);
      for (int64_t p = 0; p < n; ++p) {
        const V z = load(z_ + p * tall_ + h), leaked = s * z, grad = grad_scores_[p] * w;
        const auto above = z > V{};
        of_weight += grad_scores_[p] * (above ? z : leaked);
        of_slope += above ? V{} : z * grad;
        const V through = above ? grad : s * grad;
        of_query += through;
        store(grad_z_ + p * tall_ + h, through);
      }
      store(grad_slope + h, of_slope);
      store(grad_weight + h, of_weight);
      store(grad_by_query_ + h, of_query);
    }
    A* grad_keys = dim_ == wide_ ? static_cast<A*>(a_.grad_keys) + key * dim_ : grad_keys_;
    if (a_.grad_pooled != nullptr) {
      const A* scores = static_cast<const A*>(a_.scores) + pair;
      for (int64_t p = 0; p < n; ++p) {
        for (int64_t d = 0; d < wide_; d += L)
          store(grad_keys + p * wide_ + d, scores[p] * load(pooled_ + d));
      }
    }
    multiply<A>({grad_z_, tall_, 1}, rows_, wide_, grad_keys, wide_, n, wide_ / L, hidden_,
                a_.grad_pooled != nullptr);
    multiply<A>({grad_z_, 1, tall_}, keys, wide_, grad_rows_, wide_, hidden_, wide_ / L, n, add);
    if (dim_ != wide_) {
      for (int64_t p = 0; p < n; ++p) {
        copy_row(grad_keys_ + p * wide_, static_cast<A*>(a_.grad_keys) + (key + p) * dim_, dim_);
      }
    }
  }

  const ActivationArgs& a_;
  const int64_t dim_, hidden_, wide_, tall_;
  A *rows_, *grad_rows_, *columns_, *key_copies_, *grad_keys_, *z_, *grad_z_, *grad_scores_;
  A *query_, *pooled_, *grad_query_, *by_query_, *grad_by_query_;
};

void activate(const ActivationArgs& args, void* scratch, int64_t begin, int64_t end) {
  if (args.is_double) {
    Activation<double>(args, static_cast<double*>(scratch)).forward(begin, end);
  } else {
    Activation<float>(args, static_cast<float*>(scratch)).forward(begin, end);
  }
}

void activate_backward(const ActivationArgs& args, void* scratch, void* partial, int64_t begin, int64_t end) {
  if (args.is_double) {
    Activation<double>(args, static_cast<double*>(scratch))
        .backward(static_cast<double*>(partial), begin, end);
  } else {
    Activation<float>(args, static_cast<float*>(scratch)).backward(static_cast<float*>(partial), begin, end);
  }
}

}  // namespace RESEMB_ISA
}  // namespace resemb::cpu
