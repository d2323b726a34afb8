// The optimizers' row kernels for any processor.
#include "cpu/baseline_begin.h"

#include "cpu/update_impl.h"
