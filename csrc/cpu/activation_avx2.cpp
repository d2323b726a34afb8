// DIN's attention unit for x86-64-v3.
#if defined(__x86_64__)
#include "common/activation.h"
#include "cpu/avx2_begin.h"

#include "cpu/activation_impl.h"

#include "cpu/avx2_end.h"
#endif
