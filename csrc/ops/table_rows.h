// Rows of a table as the operators are given them: a tensor of their indices.
#pragma once

#include "ops/call.h"

namespace resemb {

// Row indices, int64 [N], contiguous on the call's device; expected: N, where known.
Tensor row_indices(const Call& call, const Tensor& rows, int64_t expected = -1);

// The same as backends take them; kept alive by the caller.
TableRows rows_of(const Tensor& rows, int64_t num_items);

}  // namespace resemb
