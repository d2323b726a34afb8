// The lookup's row kernels for any processor.
#include "cpu/baseline_begin.h"

#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#pragma GCC optimize("O2")  // as fast as -O3 here, in half of its compile time
#endif

#include "cpu/lookup_impl.h"
