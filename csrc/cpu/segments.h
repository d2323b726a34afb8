// Segment sums of any length over the row kernels, the same for any number of threads.
#pragma once

#include <functional>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace resemb::cpu {

// args.out[target_s] = sum of segment s, for all of `segments`; args.begin must ascend.
void sum_segments(const SegmentArgs& args, int64_t segments, const Parallel& parallel);
void sum_segments(const AttentionSegmentArgs& args, int64_t segments, const Parallel& parallel);

// The same sums, handed out instead of stored: take(begin, end, rows) gets segments begin .. end - 1 as
// rows [end - begin, D] of args.out_type, every segment once, from any thread.
using TakeRows = std::function<void(int64_t begin, int64_t end, const void* rows)>;
void sum_segments_to(const SegmentArgs& args, int64_t segments, const Parallel& parallel,
                     const TakeRows& take);

}  // namespace resemb::cpu
