// Before the kernels of a file for any processor: portable vectors, x86-64 baseline on x86.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels.h"

#define RESEMB_ISA isa_baseline
#define RESEMB_LAMBDA_INLINE __attribute__((always_inline))
