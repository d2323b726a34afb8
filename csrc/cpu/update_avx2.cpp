// The optimizers' row kernels for x86-64-v3.
#if defined(__x86_64__)
#include "cpu/avx2_begin.h"

#include "cpu/update_impl.h"

#include "cpu/avx2_end.h"
#endif
