// Lookups and bags of served rows for x86-64-v3.
#if defined(__x86_64__)
#include "cpu/avx2_begin.h"

#include "cpu/quantized_impl.h"

#include "cpu/avx2_end.h"
#endif
