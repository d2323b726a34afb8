// Gradient of C and the optimizers' steps.
#include "cuda/update.cuh"

#include "cuda/lookup.h"
#include "cuda/update.h"

namespace resemb::cuda {
namespace {

// Edges of the touched neighbours, over G.
template <class A>
struct ColumnTerms {
  Count count;
  const uint32_t *starts, *order;
  const Edge<A>* edges;

  __device__ __forceinline__ Range range(int64_t v) const { return {starts[v], starts[v + 1]}; }
  __device__ __forceinline__ Edge<A> term(int64_t i, int64_t) const { return edges[order[i]]; }
};

template <class A>
ColumnTerms<A> terms_of(const Lookup& x, const Columns& columns) {
  return {{columns.count, x.max_columns()},
          columns.starts,
          columns.order,
          static_cast<const Edge<A>*>(columns.edges)};
}

// Gradients are of type G: the table's or its accumulator's.
template <class T, class G, int N>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    step_kernel(StepRows<T> step, Count count, int64_t num_items, int lane_count) {
  using A = Acc<T>;
  const Lanes lanes(lane_count);
  const UpdateArgs& a = step.a;
  const int64_t n = count.get();
  const auto all = step.common();
  for (int64_t i = first_group(lane_count); i < n; i += all_groups(lane_count)) {
    const int64_t number = step.number_of(i);
    if (static_cast<uint64_t>(number) >= static_cast<uint64_t>(num_items)) continue;  // check_rows tells
    typename StepRows<T>::Row row = step.begin_row(number, lanes, all);
    if (a.rule == Rule::decay) {
      if (row.scale == 1) continue;
      for (int64_t col = lanes.lane * N; col < a.dim; col += lane_count * N) {
        step.template decay<N>(row, col);
      }
      continue;
    }
    const G* grad = static_cast<const G*>(a.grad) + (i - a.grad_first) * a.dim;
    finish_row<A, N>(step, row, a.dim, lanes, true, [&](int64_t col, A(&g)[N]) {
      if (col < a.dim) load_upcast<N>(grad + col, g);
    });
  }
}

__global__ void advance_kernel(Advance a) {
  if (first_thread() == 0) a.run();
}

bool state_allows_vectors(const UpdateArgs& a, DType type) {
  return allows_vectors(a.dim, type, {a.param, a.first, a.second_form == Moment::row ? nullptr : a.second});
}

template <class T, class G>
void step(const Context& c, const StepRows<T>& rows, const Count& count, int64_t num_items) {
  if (count.limit == 0) return;
  const UpdateArgs& a = rows.a;
  const auto run = [&](auto kernel, int columns) {
    const int lanes = lanes_for(a.dim, columns);
    launch(c, blocks_for(c, count.limit, kThreads / lanes), kernel, rows, count, num_items, lanes);
  };
  // As many columns a lane as step_central takes, so that a row's squares add up in the same order.
  constexpr int kColumns = kVectorWidth<Acc<T>>;
  if (state_allows_vectors(a, accumulator(a.table)) &&
      allows_vectors(a.dim, accumulator(a.table), {a.grad})) {
    run(&step_kernel<T, G, kColumns>, kColumns);
  } else {
    run(&step_kernel<T, G, 1>, 1);
  }
}

}  // namespace

void central_gradient(const Context& c, const Lookup& x, const Columns& columns, const void* g, bool in_line,
                      void* out) {
  const bool vectorized = allows_vectors(x.dim, x.acc(), {g, out});
  const auto sum = [&]<class A>(A) {
    const StoreRows<A> finish{out,     x.table, x.dim,  in_line ? nullptr : columns.items,
                              nullptr, nullptr, nullptr};
    sum_segments_of<A>(c, vectorized, terms_of<A>(x, columns), x.max_edges(), x.max_edges(), g, x.dim,
                       finish);
  };
  if (x.acc() == DType::f64) {
    sum(double{});
  } else {
    sum(float{});
  }
}

void step_central(const Context& c, const Lookup& x, const Columns& columns, const void* g,
                  const UpdateArgs& step) {
  const bool vectorized = allows_vectors(x.dim, x.acc(), {g}) && state_allows_vectors(step, x.acc());
  with_type(x.table, [&]<class T>() {
    using A = Acc<T>;
    sum_segments_of<A>(c, vectorized, terms_of<A>(x, columns), x.max_edges(), x.max_edges(), g, x.dim,
                       StepRows<T>{step, columns.items});
  });
}

void advance_step(const Context& c, const Advance& a) { launch(c, 1, &advance_kernel, a); }

void update_rows(const Context& c, const UpdateArgs& a, int64_t num_items) {
  with_type(a.table, [&]<class T>() { step<T, T>(c, {a, nullptr}, {nullptr, a.num_rows}, num_items); });
}

void step_residual(const Context& c, const Lookup& x, const Groups& groups, const void* g,
                   const UpdateArgs& args) {
  UpdateArgs a = args;
  a.grad = g;
  with_type(x.table, [&]<class T>() {
    step<T, Acc<T>>(c, {a, groups.ids}, {groups.num_unique, x.max_unique()}, x.num_items);
  });
}

}  // namespace resemb::cuda
