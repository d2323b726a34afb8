// The operators on the CPU.
#pragma once

#include "common/backend.h"
#include "cpu/parallel.h"

namespace resemb::cpu {

class Backend final : public resemb::Backend {
 public:
  explicit Backend(const Parallel& parallel) : parallel_(parallel) {}

  bool reads_host(const void*) const override { return true; }
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
  void activate(const ActivationArgs& a) override;
  void activate_backward(const ActivationArgs& a) override;
  void advance(const Advance& a) override { a.run(); }
  void read_rows(const ServedRows& x) override;
  void pool_rows(const ServedBags& x) override;

 private:
  Parallel parallel_;
};

// Throws std::out_of_range for an id outside [0, num_items).
[[noreturn]] void fail_id(const char* name, int64_t id, int64_t position, int64_t num_items);

}  // namespace resemb::cpu
