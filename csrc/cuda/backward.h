// What every backward on CUDA is made of.
#pragma once

#include "common/backend.h"
#include "cuda/device.h"
#include "cuda/lookup.h"

namespace resemb::cuda {

struct BackwardPass {
  const Context& c;
  const Lookup& x;
  const void* grad;
  Groups groups;

  // The plan's number of unique ids is written anew, as it stands there.
  BackwardPass(const Context& context, const Lookup& lookup, int32_t* plan, const void* gradient);

  // Scratch for G of `rows` rows, [rows, D] acc.
  void* gradient_memory(int64_t rows) const {
    return c.memory->bytes(static_cast<size_t>(rows * x.dim) * item_size(x.acc()));
  }
  void sum(void* g) const;  // G, unless the batch is empty
  void sample_weights(void* to) const {
    if (to != nullptr) sample_weight_gradient(c, x, groups, grad, to);
  }
  TouchedEdges edges() const {
    const StageClock clock(c, Stage::transpose);
    return touched_edges(c, x, groups);
  }
  Columns transposed(const TouchedEdges& edges) const {
    const StageClock clock(c, Stage::transpose);
    return transpose(c, x, edges);
  }
};

}  // namespace resemb::cuda
