// Row kernels for x86-64-v3 (AVX2, FMA, F16C). Only what lies between the pragmas is compiled for it.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/philox.h"
#include "cpu/rows.h"

#define RESEMB_ISA isa_avx2
#define RESEMB_LAMBDA_INLINE __attribute__((always_inline))
#define RESEMB_F16C 1
#define RESEMB_STREAM 1

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#endif

#include "cpu/rows_impl.h"
#include "cpu/scores_impl.h"
#include "cpu/update_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace resemb {

const RowKernels kAvx2Rows = {"avx2",
                              isa_avx2::gather_any,
                              isa_avx2::segment_sum_any,
                              isa_avx2::attend_any,
                              isa_avx2::attend_backward_any,
                              isa_avx2::attention_segment_sum_any,
                              isa_avx2::copy_any,
                              isa_avx2::dot_any,
                              isa_avx2::rank_any,
                              isa_avx2::update_any};

}  // namespace resemb

#endif
