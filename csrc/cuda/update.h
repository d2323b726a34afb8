// The optimizers' steps on the device, see common/update.h.
#pragma once

#include "common/update.h"
#include "cuda/plan.h"

namespace resemb::cuda {

// One step of the rows of C, without their gradient in memory. Rows and
// gradient of `step` are not read.
void step_central(const Context& c, const Lookup& x, const Columns& columns, const void* g,
                  const UpdateArgs& step);
// One step of the rows of R, whose gradient is G. Rows and gradient of `step`
// are not read.
void step_residual(const Context& c, const Lookup& x, const Groups& groups, const void* g,
                   const UpdateArgs& step);
// One step on the rows of a.rows (null: 0 .. N-1); those outside [0, num_items)
// are passed over.
void update_rows(const Context& c, const UpdateArgs& a, int64_t num_items);

void advance_step(const Context& c, const Advance& a);

}  // namespace resemb::cuda
