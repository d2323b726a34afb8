// Before the kernels of a file for x86-64-v3 (AVX2, FMA, F16C), avx2_end.h behind them: only what lies
// between is compiled for it, so all other headers come first.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels.h"

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
