// The operators on CUDA. Nothing waits for the device but the operators whose outputs are as long as what
// the batch touches: those once.
#pragma once

#include "common/backend.h"
#include "cuda/context.h"
#include "cuda/device.h"

namespace resemb::cuda {

class Backend : public resemb::Backend {
 public:
  // A call on a stream of a device, with its scratch. Throws what earlier calls have found wrong.
  Backend(int device, void* stream, Memory& memory);

  bool reads_host(const void* data) const override { return device_reads_host(data); }
  void inspect(Lookup& x) override;
  void forward(const Lookup& x, const Ids& ids, int64_t padding_idx, int32_t* plan, void* out) override;
  void backward(const Lookup& x, int32_t* plan, const void* grad, const DenseGradients& to) override;
  void backward(const Lookup& x, int32_t* plan, const void* grad, const SparseGradients& to) override;
  void backward_step(const Lookup& x, int32_t* plan, const void* grad, const UpdateArgs& central,
                     const UpdateArgs& residual, void* sample_weights) override;
  bool ascend(const TableRows& rows) override;
  void coalesce(const TableRows& rows, DType type, int64_t dim, const void* values,
                SparseOutput& to) override;
  void distinct_items(const Ids& ids, int64_t num_items, SparseOutput& to) override;
  void distinct_neighbors(const TableRows& rows, const GraphView& graph, int64_t num_edges,
                          SparseOutput& to) override;
  void update(const UpdateArgs& a, int64_t num_items) override;
  void advance(const Advance& a) override;

 private:
  // Sets the largest degree of the graph; throws where the rows of the argument `name` may touch too many
  // edges.
  void bound_edges(Lookup& x, const char* name);

  int device_;
  DeviceScope scope_;
  Context context_;
};

}  // namespace resemb::cuda
