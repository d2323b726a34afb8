// Row kernels for any processor: portable vectors, x86-64 baseline on x86.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/philox.h"
#include "cpu/rows.h"

#define RESEMB_ISA isa_baseline
#define RESEMB_LAMBDA_INLINE __attribute__((always_inline))
#include "cpu/rows_impl.h"
#include "cpu/scores_impl.h"
#include "cpu/update_impl.h"

namespace resemb {

const RowKernels kBaselineRows = {"baseline",
                                  isa_baseline::gather_any,
                                  isa_baseline::segment_sum_any,
                                  isa_baseline::attend_any,
                                  isa_baseline::attend_backward_any,
                                  isa_baseline::attention_segment_sum_any,
                                  isa_baseline::copy_any,
                                  isa_baseline::dot_any,
                                  isa_baseline::rank_any,
                                  isa_baseline::update_any};

}  // namespace resemb
