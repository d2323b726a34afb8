// Registers the operators for every device that has kernels.
#include "ops/call.h"
#include "ops/operators.h"

namespace {

void implement(resemb::Library& m) {
  resemb::implement_lookups(m);
  resemb::implement_attention(m);
  resemb::implement_table_rows(m);
  resemb::implement_updates(m);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CPU, m) {
  implement(m);
  resemb::implement_activation(m);
  resemb::implement_quantized(m);
}

#if defined(RESEMB_ON_CUDA) && !defined(RESEMB_EMULATE)
STABLE_TORCH_LIBRARY_IMPL(resemb_ext, CUDA, m) { implement(m); }
#endif
