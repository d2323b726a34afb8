// Tensors of the lookup's operators as its kernels take them.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "common/profile.h"
#include "cpu/lookup.h"
#include "cpu/segments.h"
#include "ops/attention_inputs.h"
#include "ops/tensors.h"

namespace resemb::cpu {

// The tensors behind a Lookup, checked and contiguous.
struct Inputs {
  Tensor indptr, neighbors, weights;
  OptionalTensor central, residual, offsets, sample_weights;
  AttentionInputs link;  // of the attention link
  Lookup lookup{};

  Inputs(const OptionalTensor& central_in, const OptionalTensor& residual_in, const Tensor& indptr_in,
         const Tensor& neighbors_in, const Tensor& weights_in, const OptionalTensor& offsets_in,
         const OptionalTensor& sample_weights_in, ScalarType table, int64_t dim, int64_t positions, bool mean)
      : indptr(dense_cpu(indptr_in, "indptr")),
        neighbors(dense_cpu(neighbors_in, "neighbors")),
        weights(dense_cpu(weights_in, "weights")) {
    Lookup& x = lookup;
    check_shape(indptr.dim() == 1 && indptr.size(0) >= 1, "indptr", indptr, "[H + 1]");
    if (indptr.scalar_type() != ScalarType::Long) fail_value("indptr: expected dtype int64");
    x.num_items = indptr.size(0) - 1;
    if (x.num_items >= std::numeric_limits<int32_t>::max()) {
      fail_value("indptr: " + std::to_string(x.num_items) + " items; at most 2^31 - 2 are supported");
    }
    check_shape(neighbors.dim() == 1, "neighbors", neighbors, "[E]");
    x.num_edges = neighbors.size(0);
    check_shape(weights.dim() == 1 && weights.size(0) == x.num_edges, "weights", weights,
                "[" + std::to_string(x.num_edges) + "], one for each of neighbors");
    x.table = table_type(table, "central");
    x.dim = dim;
    x.out_type = x.table;
    x.graph = {static_cast<const int64_t*>(indptr.const_data_ptr()), neighbors.const_data_ptr(),
               weights.const_data_ptr(), is_int64(neighbors, "neighbors"),
               weights.scalar_type() == ScalarType::Double};
    if (weights.scalar_type() != ScalarType::Float && weights.scalar_type() != ScalarType::Double) {
      fail_value("weights: expected dtype float32 or float64");
    }
    x.central = take_table(central_in, central, "central");
    x.residual = take_table(residual_in, residual, "residual");
    x.mean = mean;
    if (offsets_in.has_value()) take_offsets(*offsets_in, positions);
    if (sample_weights_in.has_value()) take_sample_weights(*sample_weights_in, positions);
    if (mean && (!offsets.has_value() || sample_weights.has_value())) {
      fail_value("mean: needs offsets and no sample_weights");
    }
  }

  ScalarType acc_type() const { return scalar_type(lookup.acc()); }

  // Makes the link attention, with weights log z.
  void attend(const Tensor& a_src_in, const Tensor& a_dst_in, const Tensor& b_in, double dropout,
              const OptionalTensor& seed_in) {
    lookup.attention =
        link.take(dense_cpu, a_src_in, a_dst_in, b_in, dropout, seed_in, lookup.dim, acc_type());
  }

 private:
  const void* take_table(const OptionalTensor& in, OptionalTensor& kept, const char* name) {
    if (!in.has_value()) return nullptr;
    kept = dense_cpu(*in, name);
    if (table_type(kept->scalar_type(), name) != lookup.table) {
      fail_value(std::string(name) + ": dtype differs from the other table's");
    }
    check_shape(kept->dim() == 2 && kept->size(0) == lookup.num_items && kept->size(1) == lookup.dim, name,
                *kept, "[" + std::to_string(lookup.num_items) + ", " + std::to_string(lookup.dim) + "]");
    return kept->const_data_ptr();
  }

  void take_offsets(const Tensor& in, int64_t positions) {
    offsets = dense_cpu(in, "offsets");
    check_shape(offsets->dim() == 1 && offsets->size(0) >= 1, "offsets", *offsets, "[B + 1]");
    if (offsets->scalar_type() != ScalarType::Long) fail_value("offsets: expected dtype int64");
    lookup.offsets = static_cast<const int64_t*>(offsets->const_data_ptr());
    lookup.num_bags = offsets->size(0) - 1;
    const int64_t* at = lookup.offsets;
    if (at[0] != 0 || at[lookup.num_bags] != positions) {
      fail_value("offsets: run from " + std::to_string(at[0]) + " to " + std::to_string(at[lookup.num_bags]) +
                 "; expected 0 to " + std::to_string(positions) + ", the number of ids");
    }
    for (int64_t b = 0; b < lookup.num_bags; ++b) {
      if (at[b] > at[b + 1]) {
        fail_value("offsets: fall from " + std::to_string(at[b]) + " to " + std::to_string(at[b + 1]) +
                   " at " + std::to_string(b + 1) + "; expected ascending values");
      }
    }
  }

  void take_sample_weights(const Tensor& in, int64_t positions) {
    if (!offsets.has_value()) fail_value("sample_weights: need offsets");
    sample_weights = dense_cpu(in, "sample_weights");
    check_shape(sample_weights->dim() == 1 && sample_weights->size(0) == positions, "sample_weights",
                *sample_weights, "[" + std::to_string(positions) + "], one for each id");
    if (sample_weights->scalar_type() != acc_type()) {
      fail_value(std::string("sample_weights: expected dtype ") + torch::headeronly::toString(acc_type()));
    }
    lookup.sample_weights = sample_weights->const_data_ptr();
  }
};

// Ids of a lookup in that table, checked and contiguous.
Tensor flat_ids(const Tensor& ids, const Tensor& central);

// Output and plan of a lookup. Throws std::out_of_range for a bad id or graph.
std::tuple<Tensor, Tensor> run_forward(const Tensor& ids, Inputs& in, int64_t padding_idx,
                                       std::optional<ScalarType> out_dtype);

// What the backward operators need before they differ: inputs, plan, contiguous gradient.
struct Backward {
  Tensor grad, plan_tensor;
  int64_t positions;
  Inputs in;
  PlanView<const int32_t> plan;
  Parallel parallel = torch_pool();

  Backward(const Tensor& grad_in, const Tensor& plan_in, const OptionalTensor& central,
           const OptionalTensor& residual, const Tensor& indptr, const Tensor& neighbors,
           const Tensor& weights, const OptionalTensor& offsets, const OptionalTensor& sample_weights,
           bool mean, ScalarType table)
      : grad(dense_cpu(grad_in, "grad")),
        plan_tensor(dense_cpu(plan_in, "plan")),
        positions((plan_tensor.numel() - 1) / 2),
        in(central, residual, indptr, neighbors, weights, offsets, sample_weights, table,
           grad.dim() == 2 ? grad.size(1) : -1, positions, mean),
        plan{static_cast<const int32_t*>(plan_tensor.const_data_ptr()), positions} {
    if (plan_tensor.scalar_type() != ScalarType::Int || plan_tensor.numel() != plan.size(positions)) {
      fail_value("plan: is not one that res_embedding returned");
    }
    const int64_t rows = x().is_bag() ? x().num_bags : positions;
    check_shape(grad.dim() == 2 && grad.size(0) == rows, "grad", grad, "[" + std::to_string(rows) + ", D]");
    in.lookup.out_type = table_type(grad.scalar_type(), "grad");
    if (accumulator(x().out_type) != x().acc()) fail_value("grad: dtype does not go with the tables'");
  }

  const Lookup& x() const { return in.lookup; }
  int64_t unique() const { return plan.num_unique(); }

  void need_tables(bool both, const char* what) const {
    if (x().central == nullptr || (both && x().residual == nullptr)) {
      fail_value(std::string(what) + ": its gradient needs the tables");
    }
  }

  Tensor sample_weights_gradient(bool needed) const {
    if (!needed) return torch::stable::new_empty(grad, {0}, in.acc_type());
    need_tables(true, "sample_weights");
    if (!in.sample_weights.has_value()) fail_value("sample_weights: no gradient without them");
    Tensor out = torch::stable::new_empty(grad, {positions}, in.acc_type());
    sample_weight_gradient(x(), plan, grad.const_data_ptr(), out.mutable_data_ptr(), parallel);
    return out;
  }

  // grad C, one row for each touched neighbour, as sums still to be made.
  template <class A>
  SegmentArgs columns(const Groups<Term<A>>& t, const void* g) const {
    SegmentArgs args{};
    args.terms = t.payloads.data();
    args.num_terms = t.size;
    args.begin = t.starts.data();
    args.end = t.starts.data() + 1;
    args.dim = x().dim;
    args.source_type = x().acc();
    args.out_type = x().table;
    args.source = g;
    args.bypass_cache = t.count * x().dim * static_cast<int64_t>(item_size(x().table)) >= kBypassBytes;
    return args;
  }

  // The same, made: at targets (null: the neighbour's number among them).
  template <class A>
  void sum_columns(const Groups<Term<A>>& t, const void* g, const int32_t* targets, Tensor& out) const {
    SegmentArgs args = columns(t, g);
    args.targets = targets;
    args.out = out.mutable_data_ptr();
    const StageTimer timer(Stage::columns);
    sum_segments(args, t.count, parallel);
  }

  // Row numbers as the operators return them.
  template <class Int>
  Tensor numbers(const Int* of, int64_t n) const {
    Tensor out = torch::stable::new_empty(grad, {n}, ScalarType::Long);
    std::copy_n(of, n, static_cast<int64_t*>(out.mutable_data_ptr()));
    return out;
  }

  void check_count(const TouchedEdges& edges) const {
    if (edges.count >= std::numeric_limits<uint32_t>::max()) {
      fail_value("ids: the batch touches " + std::to_string(edges.count) +
                 " edges; at most 2^32 - 2 in one call");
    }
  }

  // Calls f(transpose of the touched edges).
  template <class F>
  void with_transpose(const TouchedEdges& edges, const F& f) const {
    check_count(edges);
    if (x().acc() == DType::f64) {
      f(transpose<double>(x().graph, plan.unique_ids(), edges, unique(), x().num_items, parallel));
    } else {
      f(transpose<float>(x().graph, plan.unique_ids(), edges, unique(), x().num_items, parallel));
    }
  }

  void write_link_weights(const TouchedEdges& edges, const void* g, bool dense, Tensor& out) const {
    link_weight_gradient(x(), plan, edges, g, dense, x().graph.weights_are_double, out.mutable_data_ptr(),
                         parallel);
  }
};

}  // namespace resemb::cpu
