// What an operator asks of a device: the one way from csrc/ops to csrc/cpu and csrc/cuda. No torch.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "common/activation.h"
#include "common/lookup.h"
#include "common/quantized.h"
#include "common/update.h"

namespace resemb {

// Gradients whose size is known before a device has seen the batch. Null: not wanted.
struct FixedGradients {
  void* sample_weights;  // [P] acc
  void* a_src;           // [D] acc, with the two below: of the attention link
  void* a_dst;           // [D] acc
  void* b;               // [heads] acc

  bool attention() const { return a_src != nullptr; }
};

// Gradients of whole tables, zero beforehand.
struct DenseGradients : FixedGradients {
  void* central;   // [H, D] table
  void* residual;  // [H, D] table
  void* weights;   // [E], of the link weights' own type
};

// An output as long as what a batch touches: ascending indices, each with its values.
class SparseOutput {
 public:
  struct Memory {
    int64_t* indices;  // [n]
    void* values;      // [n] or [n, D]; null where indices alone are wanted
  };
  virtual Memory take(int64_t n) = 0;  // once

 protected:
  ~SparseOutput() = default;
};

// Gradients of the touched rows and edges. Null: not wanted.
struct SparseGradients : FixedGradients {
  SparseOutput* central;   // at the touched neighbours
  SparseOutput* residual;  // at the unique ids
  SparseOutput* weights;   // at the touched edges
};

// Rows of a table, [H, D], that an optimizer names.
struct TableRows {
  const int64_t* rows;  // [N]
  int64_t count;        // N
  int64_t num_items;    // H
};

// One call of an operator on one device. What a device finds wrong it throws: std::out_of_range for ids,
// rows and neighbours, std::invalid_argument for all else; CUDA throws what it finds in a later call.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  virtual ~Backend() = default;

  // Whether kernels can read host memory at this address.
  virtual bool reads_host(const void* data) const = 0;
  // Checks of a lookup what is not known by its tensors' shapes, and completes it.
  virtual void inspect(Lookup& x) = 0;
  // The plan, [plan_size(P)], and out, [P or B, D] of x.out_type. padding_idx < 0: none.
  virtual void forward(const Lookup& x, const Ids& ids, int64_t padding_idx, int32_t* plan, void* out) = 0;
  // From grad, [P or B, D] of x.out_type.
  virtual void backward(const Lookup& x, int32_t* plan, const void* grad, const DenseGradients& to) = 0;
  virtual void backward(const Lookup& x, int32_t* plan, const void* grad, const SparseGradients& to) = 0;
  // Steps C and R by their gradients. Rows and gradient of the two updates are not read.
  virtual void backward_step(const Lookup& x, int32_t* plan, const void* grad, const UpdateArgs& central,
                             const UpdateArgs& residual, void* sample_weights) = 0;

  // Whether rows ascend strictly and lie in [0, H).
  virtual bool ascend(const TableRows& rows) = 0;
  // Values [N, D] summed per row, in order of their appearance.
  virtual void coalesce(const TableRows& rows, DType type, int64_t dim, const void* values,
                        SparseOutput& to) = 0;
  // The items among ids, and the neighbours of ascending rows.
  virtual void distinct_items(const Ids& ids, int64_t num_items, SparseOutput& to) = 0;
  virtual void distinct_neighbors(const TableRows& rows, const GraphView& graph, int64_t num_edges,
                                  SparseOutput& to) = 0;
  // One step, or the decay alone, on the rows of a table of H items.
  virtual void update(const UpdateArgs& a, int64_t num_items) = 0;
  virtual void advance(const Advance& a) = 0;

  // DIN's attention unit; of the CPU alone.
  virtual void activate(const ActivationArgs&) {
    throw std::invalid_argument("keys: no kernels for their device");
  }
  virtual void activate_backward(const ActivationArgs& args) { activate(args); }

  // Lookups and bags of a served table; of the CPU alone.
  virtual void read_rows(const ServedRows&) {
    throw std::invalid_argument("ids: no kernels for their device");
  }
  virtual void pool_rows(const ServedBags& x) { read_rows(x); }
};

}  // namespace resemb
