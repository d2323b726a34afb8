// The attention link's row kernels for any processor.
#include "cpu/baseline_begin.h"

#include "cpu/attention_impl.h"
#include "cpu/attention_sums_impl.h"
