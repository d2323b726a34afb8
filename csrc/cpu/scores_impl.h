// The attention link's row kernels, for the instruction set of the including file; after rows_impl.h.

namespace resemb {
namespace RESEMB_ISA {

typedef float f4 __attribute__((vector_size(16)));

// Sums of the lanes of four vectors.
RESEMB_INLINE void sum_four(const f8* v, float* out) {
  const auto pairs = [](f8 a, f8 b) RESEMB_LAMBDA_INLINE {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  };
  const f8 sums = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
  const f4 whole =
      __builtin_shufflevector(sums, sums, 0, 1, 2, 3) + __builtin_shufflevector(sums, sums, 4, 5, 6, 7);
  write(out, whole);
}
RESEMB_INLINE void sum_four(const d4* v, double* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum_lanes(v[i]);
}

// exp(x) for x <= 0, to two units of the last place; 0 below e^-87.
RESEMB_INLINE f8 exponential(f8 x) {
  const f8 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
  const f8 n = shifted - 12582912.0f;
  const f8 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f8 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const f8 y = p * (r * r) + r + 1.0f;
  const f8 power = (f8)(((u8)shifted + 127u) << 23);
  const u8 tiny = (u8)(x < -87.0f);
  return (f8)((u8)(y * power) & ~tiny);
}
RESEMB_INLINE d4 exponential(d4 x) {
  for (int i = 0; i < 4; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

template <class V>
RESEMB_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

// Calls body.template operator()<N>(): N vectors make a row of dim, or 0 where no whole number up to
// kMaxBlock does.
template <class A, class F>
RESEMB_INLINE void for_width(int64_t dim, const F& body) {
  switch (dim % kLanes<A> == 0 ? dim / kLanes<A> : 0) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 4:
      return body.template operator()<4>();
    case 8:
      return body.template operator()<8>();
    default:
      return body.template operator()<0>();
  }
}

// Products of one row with M others, each summed to one vector.
template <int N, int M, class A, class T>
RESEMB_INLINE void multiply(const A* const* left, const T* row, int64_t dim, Vec<A>* const* sums) {
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> sum[M][2] = {};
  if constexpr (N > 0) {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      const Vec<A> v = load(row + i * lanes);
      for (int m = 0; m < M; ++m) sum[m][i % 2] += load(left[m] + i * lanes) * v;
    }
  } else {
    int64_t col = 0;
    for (; col + lanes <= dim; col += lanes) {
      const Vec<A> v = load(row + col);
      for (int m = 0; m < M; ++m) sum[m][0] += load(left[m] + col) * v;
    }
    if (col < dim) {
      const Vec<A> v = load_part(row + col, dim - col);
      for (int m = 0; m < M; ++m) sum[m][1] += load_part(left[m] + col, dim - col) * v;
    }
  }
  for (int m = 0; m < M; ++m) *sums[m] = sum[m][0] + sum[m][1];
}

// to += w * row
template <class A, class T>
RESEMB_INLINE void add_to(A* to, A w, const T* row, int64_t dim) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t col = 0;
  for (; col + lanes <= dim; col += lanes) store(to + col, load(to + col) + w * load(row + col));
  if (col < dim) {
    store_part(to + col, load_part(to + col, dim - col) + w * load_part(row + col, dim - col), dim - col);
  }
}

template <class T, class I>
class AttentionRows {
  using A = Acc<T>;
  using V = Vec<A>;
  using Edges = EdgeChunk<I, float>;  // for its neighbours alone: weights are read as what they are
  static constexpr int64_t kLanesHere = kLanes<A>;

  struct Row {
    int64_t i, item, first, count;  // number, item, first edge, edges
    const I* neighbors;
  };

 public:
  RESEMB_INLINE explicit AttentionRows(const AttentionArgs& args)
      : a(args),
        dim(args.rows.dim),
        heads(args.link.heads),
        width(dim / heads),
        central(static_cast<const T*>(args.rows.central)),
        residual(static_cast<const T*>(args.rows.residual)),
        a_src(static_cast<const A*>(args.link.a_src)),
        a_dst(static_cast<const A*>(args.link.a_dst)),
        b(static_cast<const A*>(args.link.b)),
        grad(static_cast<const A*>(args.grad)),
        scratch(static_cast<A*>(args.scratch)),
        dropout(args.link) {}

  RESEMB_INLINE int64_t forward(int64_t begin, int64_t end) {
    A* out = static_cast<A*>(a.rows.out);
    return for_rows(begin, end, [&](const Row& row) RESEMB_LAMBDA_INLINE {
      if (!take_log_weights(row) || !has_own(row)) return false;
      for (int64_t h = 0; h < heads; ++h) {
        A* to = out + row.i * dim + h * width;
        if (row.count > 0) {
          attend<false>(row, h);
          drop(row, h, [&](int64_t k, A factor) RESEMB_LAMBDA_INLINE { alpha[k] *= factor; });
        }
        for_columns<A>(width, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
          B total = weighted<B>(row, alpha, h * width + col, last);
          if (residual != nullptr) total.add_row(residual + row.item * dim + h * width + col, last);
          total.save(to + col, last);
        });
      }
      return true;
    });
  }

  RESEMB_INLINE void backward(int64_t begin, int64_t end) {
    EdgeGradient<A>* edges = static_cast<EdgeGradient<A>*>(a.edges);
    A* row_scores = static_cast<A*>(a.row_scores);
    A* sum_src = static_cast<A*>(a.sums);
    A *sum_dst = sum_src + dim, *sum_b = sum_dst + dim;
    for_rows(begin, end, [&](const Row& row) RESEMB_LAMBDA_INLINE {
      take_log_weights(row);
      for (int64_t h = 0; h < heads; ++h) {
        if (row.count == 0) {
          row_scores[row.i * heads + h] = 0;
          continue;
        }
        attend<true>(row, h);
        // From here on dots holds the gradient of alpha before dropout.
        drop(row, h, [&](int64_t k, A factor) RESEMB_LAMBDA_INLINE { dots[k] *= factor; });
        const A mean = sum_products(alpha, dots);
        EdgeGradient<A>* kept = edges + a.offsets[row.i] * heads + h;
        V of_row = {}, of_b = {};
        for (int64_t k = 0; k < stride; k += kLanesHere) {
          const V d = load(alpha + k) * (load(dots + k) - mean);
          of_b += d * load(logs + k);
          const V score = load(pre + k) > 0 ? d : d * static_cast<A>(kLeak);
          of_row += score;
          store(dots + k, score);
        }
        // Behind the row's edges alpha is 0, and so are these.
        const A row_score = sum_lanes(of_row);
        row_scores[row.i * heads + h] = row_score;
        sum_b[h] += sum_lanes(of_b);
        add_to(sum_src + h * width, row_score, central + row.item * dim + h * width, width);
        for_columns<A>(width, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
          weighted<B>(row, dots, h * width + col, last).save(sum + col, last);
        });
        add_to(sum_dst + h * width, A{1}, sum, width);
        drop(row, h, [&](int64_t k, A factor) RESEMB_LAMBDA_INLINE { alpha[k] *= factor; });
        for (int64_t k = 0; k < row.count; ++k) kept[k * heads] = {alpha[k], dots[k]};
      }
      return true;
    });
  }

 private:
  // f(row) until it returns false or the graph is malformed; the row it stopped at, or -1. Meanwhile f
  // fetches the central rows of `next`, piece by piece, so that they are on their way while it computes.
  template <class F>
  RESEMB_INLINE int64_t for_rows(int64_t begin, int64_t end, const F& f) {
    const GatherArgs& g = a.rows;
    const I* neighbors = static_cast<const I*>(g.graph.neighbors);
    const char* weights = static_cast<const char*>(g.graph.weights);
    const int64_t weight_bytes = g.graph.weights_are_double ? 8 : 4;
    next = Edges();
    if (begin < end) next = Edges(g, RowEdges(g, g.rows[begin]));
    for (int64_t i = begin; i < end; ++i) {
      const RowEdges edges(g, g.rows[i]);
      const Edges now = next;
      const int64_t rest = edges.first + now.count;
      if (edges.bad || now.bad || !Edges::all_items(g, neighbors + rest, neighbors + edges.past)) return i;
      if (i + 16 < g.num_rows) prefetch(&g.graph.indptr[g.rows[i + 16]]);
      if (i + 8 < g.num_rows) {
        const RowEdges far(g, g.rows[i + 8]);
        prefetch_bytes(neighbors + far.first, (far.past - far.first) * static_cast<int64_t>(sizeof(I)));
        prefetch_bytes(weights + far.first * weight_bytes, (far.past - far.first) * weight_bytes);
      }
      next = Edges();
      fetched = 0;
      if (i + 1 < end) {
        next = Edges(g, RowEdges(g, g.rows[i + 1]));
        if (residual != nullptr) fetch(residual + static_cast<int64_t>(g.rows[i + 1]) * dim);
      }
      const Row row{i, g.rows[i], edges.first, edges.past - edges.first, neighbors + edges.first};
      stride = attention_stride(row.count);
      logs = scratch;
      pre = logs + stride;
      alpha = pre + stride;
      dots = alpha + stride;
      sum = dots + stride;
      if (!f(row)) return i;
      fetch_next(next.count);
    }
    return -1;
  }

  RESEMB_INLINE void fetch(const T* row) const {
    const char* bytes = reinterpret_cast<const char*>(row);
    for (int64_t at = 0; at < dim * static_cast<int64_t>(sizeof(T)); at += 64) prefetch(bytes + at);
  }

  // Into logs, 0 behind them; whether all are finite.
  RESEMB_INLINE bool take_log_weights(const Row& row) {
    const auto copy_from = [&](const auto* weights) RESEMB_LAMBDA_INLINE {
      A zero = 0;
      for (int64_t k = 0; k < row.count; ++k) {
        logs[k] = static_cast<A>(weights[row.first + k]);
        zero += logs[k] - logs[k];
      }
      return zero == 0;
    };
    const GraphView& graph = a.rows.graph;
    const bool finite = graph.weights_are_double ? copy_from(static_cast<const double*>(graph.weights))
                                                 : copy_from(static_cast<const float*>(graph.weights));
    for (int64_t k = row.count; k < stride; ++k) logs[k] = 0;
    return finite;
  }

  RESEMB_INLINE bool has_own(const Row& row) const {
    bool found = row.count == 0;
    for (int64_t k = 0; k < row.count; ++k) found |= row.neighbors[k] == row.item;
    return found;
  }

  // alpha of a head before dropout; pre: LeakyReLU's argument; dots: G . C of every edge where wanted. All
  // have zeros behind the row's edges.
  template <bool WithDots>
  RESEMB_INLINE void attend(const Row& row, int64_t h) {
    for_width<A>(width, [&]<int N>() RESEMB_LAMBDA_INLINE { multiply_edges<N, WithDots>(row, h); });
    V own = {};
    V* const owns[] = {&own};
    const A* const left[] = {a_src + h * width};
    multiply<0, 1>(left, central + row.item * dim + h * width, width, owns);
    const A source = sum_lanes(own), prior = b[h];
    V most = V{} - static_cast<A>(INFINITY);
    for (int64_t k = row.count; k < stride; ++k) pre[k] = -INFINITY;
    for (int64_t k = 0; k < stride; k += kLanesHere) {
      const V argument = load(pre + k) + source;
      const V score = larger(argument, argument * static_cast<A>(kLeak)) + prior * load(logs + k);
      store(pre + k, argument);
      store(alpha + k, score);
      most = larger(most, score);
    }
    A top = most[0];
    for (int64_t lane = 1; lane < kLanesHere; ++lane) top = most[lane] > top ? most[lane] : top;
    V total = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) {
      const V e = exponential(load(alpha + k) - top);
      store(alpha + k, e);
      total += e;
    }
    const A share = 1 / sum_lanes(total);
    for (int64_t k = 0; k < stride; k += kLanesHere) store(alpha + k, load(alpha + k) * share);
    if constexpr (WithDots) {
      for (int64_t k = row.count; k < stride; ++k) dots[k] = 0;
    }
  }

  template <int N, bool WithDots>
  RESEMB_INLINE void multiply_edges(const Row& row, int64_t h) {
    const T* columns = central + h * width;
    const A* const left[] = {a_dst + h * width, WithDots ? grad + row.i * dim + h * width : nullptr};
    const auto four = [&](int64_t k, int64_t count) RESEMB_LAMBDA_INLINE {
      V scores[4] = {}, products[4] = {};
#pragma GCC unroll 4
      for (int64_t j = 0; j < 4; ++j) {
        if (j >= count) break;
        V* const sums[] = {scores + j, products + j};
        multiply<N, WithDots ? 2 : 1>(left, columns + static_cast<int64_t>(row.neighbors[k + j]) * dim, width,
                                      sums);
      }
      sum_four(scores, pre + k);
      if constexpr (WithDots) sum_four(products, dots + k);
    };
    int64_t k = 0;
    for (; k + 4 <= row.count; k += 4) {
      fetch_next(2);
      four(k, 4);
    }
    if (k < row.count) four(k, row.count - k);
  }

  // Fetches some of the next row's central rows that are not yet on their way.
  RESEMB_INLINE void fetch_next(int64_t count) {
    const int64_t past = fetched + count < next.count ? fetched + count : next.count;
    for (; fetched < past; ++fetched) fetch(central + static_cast<int64_t>(next.neighbor[fetched]) * dim);
  }

  // Sum over the row's edges of weights[k] * their central rows, in chunks of kChunk.
  template <class B>
  RESEMB_INLINE B weighted(const Row& row, const A* weights, int64_t col, int64_t last) {
    B total;
    for (int64_t chunk = 0; chunk < row.count; chunk += kChunk) {
      B part;
      const int64_t past = chunk + kChunk < row.count ? chunk + kChunk : row.count;
      for (int64_t k = chunk; k < past; ++k) {
        if (k % 2 == 0) fetch_next(1);
        part.add_scaled(weights[k], central + static_cast<int64_t>(row.neighbors[k]) * dim + col, last);
      }
      total.add(part);
    }
    return total;
  }

  RESEMB_INLINE A sum_products(const A* x, const A* y) const {
    V sum = {};
    for (int64_t k = 0; k < stride; k += kLanesHere) sum += load(x + k) * load(y + k);
    return sum_lanes(sum);
  }

  // f(k, dropout's factor) over the row's edges, where there is dropout.
  template <class F>
  RESEMB_INLINE void drop(const Row& row, int64_t h, const F& f) const {
    if (!dropout.on()) return;
    for (int64_t k = 0; k < row.count; ++k) {
      f(k, static_cast<A>(dropout.factor(row.item, row.first + k, h)));
    }
  }

  const AttentionArgs& a;
  const int64_t dim, heads, width;
  const T *central, *residual;
  const A *a_src, *a_dst, *b, *grad;
  A* scratch;
  const EdgeDropout dropout;
  Edges next;           // checked first edges of the next row
  int64_t fetched = 0;  // of them
  int64_t stride = 0;
  A *logs = nullptr, *pre = nullptr, *alpha = nullptr, *dots = nullptr, *sum = nullptr;
};

template <class A>
RESEMB_INLINE EdgeGradient<A> edge_of(const AttendedTerm<A>& term, const EdgeGradient<A>*, int64_t, int64_t) {
  return term.edge;
}
template <class A>
RESEMB_INLINE EdgeGradient<A> edge_of(const PlacedTerm& term, const EdgeGradient<A>* edges, int64_t heads,
                                      int64_t h) {
  return edges[term.edge * heads + h];
}

// The columns of one head, for segments [begin, end).
template <class A, class O, class Term, class B>
RESEMB_INLINE bool attention_columns(const AttentionSegmentArgs& a, int64_t begin, int64_t end, int64_t h,
                                     int64_t col, int64_t last) {
  const Term* terms = static_cast<const Term*>(a.terms);
  const EdgeGradient<A>* edges = static_cast<const EdgeGradient<A>*>(a.edges);
  const A* source = static_cast<const A*>(a.source) + col;
  const int64_t dim = a.dim, heads = a.link.heads, last_term = a.num_terms - 1;
  const bool stream = a.bypass_cache && can_stream<O>(a.out, dim) && (dim / heads) % kLanes<A> == 0;
  bool any_long = false;
  int64_t own = 0;  // the first of the batch's rows that is not below the segment's item
  if (!a.parts && begin < end) {
    for (int64_t count = a.num_rows; count > 0;) {
      const int64_t half = count / 2;
      const bool below = a.rows[own + half] < a.items[begin];
      own = below ? own + half + 1 : own;
      count = below ? count - half - 1 : half;
    }
  }
  for (int64_t s = begin; s < end; ++s) {
    const int64_t first = a.begin[s], past = a.end[s];
    if (past - first > kChunk) {
      any_long = true;
      continue;
    }
    B sum;
    A score = 0;
    for (int64_t t = first; t < past; ++t) {
      const int64_t ahead = t + kAhead < last_term ? t + kAhead : last_term;
      B::fetch(source + static_cast<int64_t>(terms[ahead].source) * dim);
      if constexpr (std::is_same_v<Term, PlacedTerm>) prefetch(edges + terms[ahead].edge * heads);
      const EdgeGradient<A> edge = edge_of<A>(terms[t], edges, heads, h);
      sum.add_scaled(edge.alpha, source + static_cast<int64_t>(terms[t].source) * dim, last);
      score += edge.score;
    }
    if (a.parts) {
      A* out = static_cast<A*>(a.out) + s * (dim + heads);
      sum.save(out + col, last);
      out[dim + h] = score;
      continue;
    }
    sum.add_scaled(score, static_cast<const A*>(a.link.a_dst) + col, last);
    while (own < a.num_rows && a.rows[own] < a.items[s]) ++own;
    if (own < a.num_rows && a.rows[own] == a.items[s]) {
      const A row_score = static_cast<const A*>(a.row_scores)[own * heads + h];
      sum.add_scaled(row_score, static_cast<const A*>(a.link.a_src) + col, last);
    }
    O* out = static_cast<O*>(a.out) + (a.targets != nullptr ? a.targets[s] : s - a.out_first) * dim + col;
    if (stream) {
      sum.stream(out, last);
    } else {
      sum.save(out, last);
    }
  }
  if (stream) finish_stream();
  return any_long;
}

template <class A, class O>
bool attention_segment_sum(const AttentionSegmentArgs& a, int64_t begin, int64_t end) {
  const int64_t heads = a.link.heads, width = a.dim / heads;
  bool any_long = false;
  for (int64_t h = 0; h < heads; ++h) {
    for_columns<A>(width, [&]<class B>(int64_t col, int64_t last) RESEMB_LAMBDA_INLINE {
      const int64_t at = h * width + col;
      any_long |= heads == 1 ? attention_columns<A, O, AttendedTerm<A>, B>(a, begin, end, h, at, last)
                             : attention_columns<A, O, PlacedTerm, B>(a, begin, end, h, at, last);
    });
  }
  return any_long;
}

bool attention_segment_sum_any(const AttentionSegmentArgs& a, int64_t begin, int64_t end) {
  if (a.source_type == DType::f64) return attention_segment_sum<double, double>(a, begin, end);
  if (a.out_type == DType::f16) return attention_segment_sum<float, Half>(a, begin, end);
  if (a.out_type == DType::bf16) return attention_segment_sum<float, BFloat>(a, begin, end);
  return attention_segment_sum<float, float>(a, begin, end);
}

template <class T, class I>
int64_t attend_rows(const AttentionArgs& a, int64_t begin, int64_t end) {
  return AttentionRows<T, I>(a).forward(begin, end);
}
template <class T, class I>
int64_t attend_rows_backward(const AttentionArgs& a, int64_t begin, int64_t end) {
  AttentionRows<T, I>(a).backward(begin, end);
  return -1;
}

// Calls f.template operator()<T, I>() with the types of a table and its neighbours.
template <class F>
RESEMB_INLINE int64_t with_types(const GatherArgs& a, const F& f) {
  const auto with_graph = [&]<class T>(T*) RESEMB_LAMBDA_INLINE {
    return a.graph.neighbors_are_int64 ? f.template operator()<T, int64_t>()
                                       : f.template operator()<T, int32_t>();
  };
  switch (a.table) {
    case DType::f32:
      return with_graph(static_cast<float*>(nullptr));
    case DType::f64:
      return with_graph(static_cast<double*>(nullptr));
    case DType::f16:
      return with_graph(static_cast<Half*>(nullptr));
    case DType::bf16:
      return with_graph(static_cast<BFloat*>(nullptr));
  }
  return -1;
}

int64_t attend_any(const AttentionArgs& a, int64_t begin, int64_t end) {
  return with_types(
      a.rows, [&]<class T, class I>() RESEMB_LAMBDA_INLINE { return attend_rows<T, I>(a, begin, end); });
}

void attend_backward_any(const AttentionArgs& a, int64_t begin, int64_t end) {
  with_types(a.rows, [&]<class T, class I>()
                         RESEMB_LAMBDA_INLINE { return attend_rows_backward<T, I>(a, begin, end); });
}

}  // namespace RESEMB_ISA
}  // namespace resemb
