// The lookup's row kernels for any processor.
#include "cpu/baseline_begin.h"

#include "cpu/lookup_impl.h"
