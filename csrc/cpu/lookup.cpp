#include "cpu/lookup.h"

#include <atomic>
#include <cstring>

#include "common/profile.h"
#include "cpu/attention.h"
#include "cpu/segments.h"

namespace resemb::cpu {
namespace {

constexpr int64_t kPositionsPerTask = 4096;
using ConstPlan = PlanView<const int32_t>;

// Calls f with a zero of the accumulator's type.
template <class F>
void with_acc(DType acc, const F& f) {
  if (acc == DType::f64) {
    f(double{});
  } else {
    f(float{});
  }
}

// E of the unique ids and, behind them, a row of zeros for padding.
struct UniqueEmbeddings {
  DType type;         // that of the output, or acc where bags are summed from them
  Buffer<char> rows;  // [U + 1, D]
  int64_t bad_row;    // see lookup_forward

  UniqueEmbeddings(const Lookup& x, const ConstPlan& plan, const Parallel& parallel)
      : type(x.is_bag() || x.attention.heads > 0 ? x.acc() : x.out_type) {
    const int64_t row_bytes = x.dim * static_cast<int64_t>(item_size(type));
    const int64_t count = plan.num_unique();
    rows = Buffer<char>((count + 1) * row_bytes);
    const GatherArgs args = gather_of(x, plan.unique_ids(), count, rows.data(), type);
    std::atomic<int64_t> first_bad{count};
    parallel.ranges(count, kIdsPerTask, [&](int64_t begin, int64_t end) {
      const int64_t bad =
          x.attention.heads > 0 ? attend(args, x.attention, begin, end) : kernels().gather(args, begin, end);
      int64_t seen = first_bad.load();
      while (bad >= 0 && bad < seen && !first_bad.compare_exchange_weak(seen, bad)) {
      }
    });
    bad_row = first_bad.load() < count ? first_bad.load() : -1;
    std::memset(rows.data() + count * row_bytes, 0, row_bytes);
  }
};

// The bag of every position and the factor of every bag.
template <class A>
struct Bags {
  Buffer<uint32_t> of_position;  // [P]
  Buffer<A> scale;               // [B] 1 / count for mean, else empty

  Bags(const Lookup& x, const ConstPlan& plan, const Parallel& parallel)
      : of_position(plan.positions_count), scale(x.mean ? x.num_bags : 0) {
    const int32_t padding_rank = plan.num_unique();
    parallel.ranges(x.num_bags, 256, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        int64_t count = 0;
        for (int64_t p = x.offsets[b]; p < x.offsets[b + 1]; ++p) {
          of_position[p] = static_cast<uint32_t>(b);
          count += plan.rank()[p] != padding_rank;
        }
        if (x.mean) scale[b] = count > 0 ? A{1} / static_cast<A>(count) : A{0};
      }
    });
  }

  A weight(const Lookup& x, int64_t p) const {
    A w = x.sample_weights != nullptr ? static_cast<const A*>(x.sample_weights)[p] : A{1};
    return x.mean ? w * scale[of_position[p]] : w;
  }
};

template <class A>
void pool_bags(const Lookup& x, const ConstPlan& plan, const void* embeddings, void* out,
               const Parallel& parallel) {
  const int64_t positions = plan.positions_count;
  const int32_t padding_rank = plan.num_unique();
  const Bags<A> bags(x, plan, parallel);
  Buffer<Term<A>> terms(positions);
  parallel.ranges(positions, kPositionsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int32_t rank = plan.rank()[p];
      terms[p] = {static_cast<uint32_t>(rank), rank == padding_rank ? A{0} : bags.weight(x, p)};
    }
  });
  Buffer<uint32_t> starts(x.num_bags + 1);
  for (int64_t b = 0; b <= x.num_bags; ++b) starts[b] = static_cast<uint32_t>(x.offsets[b]);
  const SegmentArgs args{terms.data(), positions, starts.data(), starts.data() + 1,
                         nullptr,      x.dim,     x.acc(),       x.out_type,
                         embeddings,   out,       false};
  sum_segments(args, x.num_bags, parallel);
}

template <class A>
void sum_positions(const Lookup& x, const ConstPlan& plan, const void* grad, void* out,
                   const Parallel& parallel) {
  const auto group = [&](const auto& term_of) {
    return group_by_rank<Term<A>>(plan.rank(), plan.positions_count, plan.num_unique(), parallel,
                                  [&](int64_t begin, int64_t end, const auto& emit) {
                                    for (int64_t p = begin; p < end; ++p) emit(p, term_of(p));
                                  });
  };
  const auto group_bags = [&] {
    const Bags<A> bags(x, plan, parallel);
    return group([&](int64_t p) { return Term<A>{bags.of_position[p], bags.weight(x, p)}; });
  };
  const Groups<Term<A>> terms =
      x.is_bag() ? group_bags() : group([](int64_t p) { return Term<A>{static_cast<uint32_t>(p), A{1}}; });
  const SegmentArgs args{terms.payloads.data(),
                         terms.size,
                         terms.starts.data(),
                         terms.starts.data() + 1,
                         nullptr,
                         x.dim,
                         x.out_type,
                         x.acc(),
                         grad,
                         out,
                         false};
  sum_segments(args, terms.count, parallel);
}

}  // namespace

int64_t lookup_forward(const Lookup& x, const ConstPlan& plan, void* out, const Parallel& parallel) {
  const StageTimer timer(Stage::forward);
  const UniqueEmbeddings embeddings(x, plan, parallel);
  if (embeddings.bad_row >= 0) return embeddings.bad_row;
  if (x.is_bag()) {
    with_acc(x.acc(), [&]<class A>(A) { pool_bags<A>(x, plan, embeddings.rows.data(), out, parallel); });
    return -1;
  }
  const int64_t bytes = plan.positions_count * x.dim * static_cast<int64_t>(item_size(x.out_type));
  const CopyArgs args{
      plan.rank(),          nullptr, x.dim, embeddings.type, x.out_type, embeddings.rows.data(), out,
      bytes >= kBypassBytes};
  parallel.ranges(plan.positions_count, kPositionsPerTask,
                  [&](int64_t begin, int64_t end) { kernels().copy(args, begin, end); });
  return -1;
}

void unique_gradient(const Lookup& x, const ConstPlan& plan, const void* grad, void* out,
                     const Parallel& parallel) {
  const StageTimer timer(Stage::reduce);
  with_acc(x.acc(), [&]<class A>(A) { sum_positions<A>(x, plan, grad, out, parallel); });
}

void store_gradient(const Lookup& x, const void* g, int64_t num_rows, const int32_t* targets, void* out,
                    const Parallel& parallel) {
  const CopyArgs args{nullptr, targets, x.dim, x.acc(), x.table, g, out, false};
  parallel.ranges(num_rows, kPositionsPerTask,
                  [&](int64_t begin, int64_t end) { kernels().copy(args, begin, end); });
}

void link_weight_gradient(const Lookup& x, const ConstPlan& plan, const TouchedEdges& edges, const void* g,
                          bool dense, void* out, const Parallel& parallel) {
  Buffer<DotPair> pairs(edges.count);
  Buffer<char> dots(edges.count * static_cast<int64_t>(item_size(x.acc())));
  const DotArgs args{pairs.data(), x.dim, x.table, g, x.central, dots.data()};
  parallel.ranges(plan.num_unique(), kIdsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t first = x.graph.indptr[plan.unique_ids()[u]] - edges.offsets[u];
      for (int64_t t = edges.offsets[u]; t < edges.offsets[u + 1]; ++t) {
        pairs[t] = {static_cast<uint32_t>(u), static_cast<uint32_t>(x.graph.neighbor(first + t))};
      }
    }
    kernels().dot(args, edges.offsets[begin], edges.offsets[end]);
    for (int64_t u = begin; u < end; ++u) {
      const int64_t shift = dense ? x.graph.indptr[plan.unique_ids()[u]] - edges.offsets[u] : 0;
      for (int64_t t = edges.offsets[u]; t < edges.offsets[u + 1]; ++t) {
        const double value = x.acc() == DType::f64 ? reinterpret_cast<const double*>(dots.data())[t]
                                                   : reinterpret_cast<const float*>(dots.data())[t];
        if (x.graph.weights_type == DType::f64) {
          static_cast<double*>(out)[t + shift] = value;
        } else {
          static_cast<float*>(out)[t + shift] = static_cast<float>(value);
        }
      }
    }
  });
}

void sample_weight_gradient(const Lookup& x, const ConstPlan& plan, const void* grad, void* out,
                            const Parallel& parallel) {
  const UniqueEmbeddings embeddings(x, plan, parallel);
  const Bags<float> bags(x, plan, parallel);
  const int64_t positions = plan.positions_count;
  Buffer<DotPair> pairs(positions);
  const DotArgs args{pairs.data(), x.dim, x.out_type, embeddings.rows.data(), grad, out};
  parallel.ranges(positions, kPositionsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      pairs[p] = {static_cast<uint32_t>(plan.rank()[p]), bags.of_position[p]};
    }
    kernels().dot(args, begin, end);
    for (int64_t p = begin; p < end; ++p) {
      if (plan.rank()[p] != plan.num_unique()) continue;
      if (x.acc() == DType::f64) {
        static_cast<double*>(out)[p] = 0;
      } else {
        static_cast<float*>(out)[p] = 0;
      }
    }
  });
}

}  // namespace resemb::cpu
