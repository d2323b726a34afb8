// The attention link's row kernels for x86-64-v3.
#if defined(__x86_64__)
#include "cpu/avx2_begin.h"

#include "cpu/attention_impl.h"
#include "cpu/attention_sums_impl.h"

#include "cpu/avx2_end.h"
#endif
