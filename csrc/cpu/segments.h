// Segment sums of any length over the row kernels, the same for any number of threads.
#pragma once

#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace resemb {

// args.out[target_s] = sum of segment s, for all of `segments`; args.begin must ascend.
void sum_segments(const SegmentArgs& args, int64_t segments, const Parallel& parallel);

}  // namespace resemb
