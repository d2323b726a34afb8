// Before the kernels of a file for any processor: portable vectors, x86-64 baseline on x86.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels.h"

#define RESEMB_ISA isa_baseline
#define RESEMB_LAMBDA_INLINE __attribute__((always_inline))

// Processors without AVX2 are the exception on x86-64: there the kernels are kept quick to compile.
#if defined(__x86_64__)
#define RESEMB_FEW_WIDTHS 1
#endif
