// Steps of the optimizers on CUDA, apart and in backward.
#include "cuda/update.h"

#include "cuda/backend.h"
#include "cuda/backward.h"

namespace resemb::cuda {

void Backend::update(const UpdateArgs& a, int64_t num_items) {
  if (a.rows != nullptr) check_rows(context_, {a.rows, a.num_rows, num_items}, /*to_fault=*/true, nullptr);
  update_rows(context_, a, num_items);
}

void Backend::advance(const Advance& a) { advance_step(context_, a); }

void Backend::backward_step(const Lookup& x, int32_t* plan, const void* grad, const UpdateArgs& central,
                            const UpdateArgs& residual, void* sample_weights) {
  const BackwardPass b(context_, x, plan, grad);
  // Before anything is written: it reads the tables.
  b.sample_weights(sample_weights);
  if (x.max_unique() == 0) return;
  void* g = b.gradient_memory(x.max_unique());
  b.sum(g);
  const Columns columns = b.transposed(b.edges());
  const StageClock clock(b.c, Stage::update);
  step_residual(b.c, x, b.groups, g, residual);
  step_central(b.c, x, columns, g, central);
}

}  // namespace resemb::cuda
