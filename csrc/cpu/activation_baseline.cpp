// DIN's attention unit for any processor.
#include "common/activation.h"
#include "cpu/baseline_begin.h"

#include "cpu/activation_impl.h"
