// Steps of the optimizers on the CPU, apart and in backward.
#include <stdexcept>

#include "cpu/backend.h"
#include "cpu/backward.h"

namespace resemb::cpu {
namespace {

constexpr int64_t kTableRowsPerTask = 256;

Buffer<int64_t> to_int64(const int32_t* items, int64_t n) {
  Buffer<int64_t> out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = items[i];
  return out;
}

// lr, shrink and step where `advance` has put them.
UpdateArgs with_live(UpdateArgs a) {
  if (a.live == nullptr) return a;
  a.lr = a.live[0];
  a.shrink = a.live[1];
  a.step = static_cast<int64_t>(a.live[2]);
  a.live = nullptr;
  return a;
}

void run(const UpdateArgs& a, const Parallel& parallel) {
  parallel.ranges(a.num_rows, kTableRowsPerTask,
                  [&](int64_t begin, int64_t end) { kernels().update(a, begin, end); });
}

// The step of the rows of R, whose gradient is G.
void step_residual(const BackwardPass& b, UpdateArgs a, const void* g) {
  const Lookup& x = b.x;
  const int64_t unique = b.unique();
  Buffer<char> rounded;  // what the separate optimizer would be given
  if (x.table != x.acc()) {
    rounded = Buffer<char>(unique * x.dim * static_cast<int64_t>(item_size(x.table)));
    store_gradient(x, g, unique, nullptr, rounded.data(), b.parallel);
  }
  const StageTimer timer(Stage::update);
  const Buffer<int64_t> rows = to_int64(b.plan.unique_ids(), unique);
  a.rows = rows.data();
  a.num_rows = unique;
  a.grad = x.table != x.acc() ? rounded.data() : g;
  run(a, b.parallel);
}

// The step of the rows of C: a few rows of its gradient at a time.
void step_central(const BackwardPass& b, const UpdateArgs& a, const void* g) {
  const TouchedEdges edges = b.edges();
  b.with_transpose(edges, [&](const auto& columns) {
    const Buffer<int64_t> rows = to_int64(columns.items.data(), columns.items.size());
    const StageTimer timer(Stage::update);  // sums included: they are made as they are used
    sum_segments_to(b.columns(columns.terms, g), columns.terms.count, b.parallel,
                    [&](int64_t begin, int64_t end, const void* sums) {
                      UpdateArgs part = a;
                      part.rows = rows.data();
                      part.num_rows = rows.size();
                      part.grad = sums;
                      part.grad_first = begin;
                      kernels().update(part, begin, end);
                    });
  });
}

}  // namespace

void Backend::update(const UpdateArgs& a, int64_t num_items) {
  const StageTimer timer(Stage::update);
  if (a.rows != nullptr && !ascend({a.rows, a.num_rows, num_items})) {
    throw std::invalid_argument("rows: do not ascend within [0, H)");
  }
  run(a, parallel_);
}

void Backend::backward_step(const Lookup& x, int32_t* plan, const void* grad, const UpdateArgs& central,
                            const UpdateArgs& residual, void* sample_weights) {
  const BackwardPass b{x, {plan, x.positions}, grad, parallel_};
  // Before anything is written: it reads the tables.
  b.sample_weights(sample_weights);
  if (b.unique() == 0) return;
  Buffer<char> g(b.gradient_bytes());
  b.sum(g.data());
  step_residual(b, with_live(residual), g.data());
  step_central(b, with_live(central), g.data());
}

}  // namespace resemb::cpu
