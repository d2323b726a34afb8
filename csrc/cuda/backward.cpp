// Backward on CUDA: gradients of whole tables, and of what the batch touches.
#include "cuda/backward.h"

#include "cuda/attention.h"
#include "cuda/backend.h"

namespace resemb::cuda {

BackwardPass::BackwardPass(const Context& context, const Lookup& lookup, int32_t* plan, const void* gradient)
    : c(context), x(lookup), grad(gradient) {
  const StageClock clock(c, Stage::dedupe);
  groups = make_groups(c, x, Plan(plan, x.positions));
}

void BackwardPass::sum(void* g) const {
  const StageClock clock(c, Stage::reduce);
  if (x.max_unique() > 0 && x.dim > 0) unique_gradient(c, x, groups, grad, g);
}

namespace {

// What the attention link makes of G; gradients of its parameters that nobody wants go to scratch, as they
// are made along with the gradient of C.
AttentionGradient attention_gradient(const BackwardPass& b, const void* g, const FixedGradients& to) {
  const Lookup& x = b.x;
  const StageClock clock(b.c, Stage::edges);
  const auto place = [&](void* wanted, int64_t n) {
    return to.attention() ? wanted : b.c.memory->bytes(static_cast<size_t>(n) * item_size(x.acc()));
  };
  return attention_backward(b.c, x, b.groups, g, place(to.a_src, x.dim), place(to.a_dst, x.dim),
                            place(to.b, x.attention.heads));
}

}  // namespace

void Backend::backward(const Lookup& x, int32_t* plan, const void* grad, const DenseGradients& to) {
  const BackwardPass b(context_, x, plan, grad);
  const bool attends = x.attention.heads > 0;
  const bool reads_edges = to.central != nullptr || to.weights != nullptr || to.attention();
  if ((reads_edges || to.residual != nullptr) && x.dim > 0 && (attends || x.max_unique() > 0)) {
    void* g = b.gradient_memory(x.max_unique());
    b.sum(g);
    if (to.residual != nullptr) store_gradient(b.c, x, b.groups, g, /*in_line=*/false, to.residual);
    if (reads_edges && attends) {
      const AttentionGradient gradient = attention_gradient(b, g, to);
      const StageClock clock(b.c, Stage::columns);
      if (to.central != nullptr) {
        attention_central_gradient(b.c, x, gradient, g, /*in_line=*/false, to.central);
      }
    } else if (reads_edges) {
      const TouchedEdges edges = b.edges();
      if (to.central != nullptr) {
        const Columns columns = b.transposed(edges);
        const StageClock clock(b.c, Stage::columns);
        central_gradient(b.c, x, columns, g, /*in_line=*/false, to.central);
      }
      if (to.weights != nullptr) {
        link_weight_gradient(b.c, x, edges, g, /*dense=*/true, nullptr, to.weights);
      }
    }
  }
  b.sample_weights(to.sample_weights);
}

void Backend::backward(const Lookup& x, int32_t* plan, const void* grad, const SparseGradients& to) {
  const BackwardPass b(context_, x, plan, grad);
  const bool attends = x.attention.heads > 0;
  const bool reads_edges = to.central != nullptr || to.weights != nullptr || to.attention();
  const bool reads_g = reads_edges || to.residual != nullptr;
  TouchedEdges edges{};
  Columns columns{};
  AttentionGradient gradient{};
  void* g = nullptr;
  if (attends && reads_g) {
    g = b.gradient_memory(x.max_unique());
    b.sum(g);
    if (reads_edges) gradient = attention_gradient(b, g, to);
    columns = gradient.columns;
  } else if (reads_edges) {
    edges = b.edges();
    if (to.central != nullptr) columns = b.transposed(edges);
  }
  int64_t sizes[4];
  read_numbers(b.c, device_,
               {b.groups.num_unique, to.central != nullptr ? columns.count : nullptr,
                to.weights != nullptr ? edges.count : nullptr, nullptr},
               sizes);
  const auto [unique, touched, touched_edge_count, unused] = sizes;

  SparseOutput::Memory rows{};
  if (to.residual != nullptr) {
    rows = to.residual->take(unique);
    to_int64(b.c, b.groups.ids, unique, rows.indices);
  }
  // G is the residual's gradient where the tables' type is the accumulator's.
  const bool g_is_gradient = !attends && to.residual != nullptr && x.table == x.acc();
  if (!attends) {
    g = g_is_gradient ? rows.values : b.gradient_memory(unique);
    if (reads_g) b.sum(g);
  }
  if (to.residual != nullptr && !g_is_gradient && unique > 0) {
    store_gradient(b.c, x, b.groups, g, /*in_line=*/true, rows.values);
  }
  if (to.central != nullptr) {
    const SparseOutput::Memory memory = to.central->take(touched);
    if (touched > 0) {
      to_int64(b.c, columns.items, touched, memory.indices);
      const StageClock clock(b.c, Stage::columns);
      if (attends) {
        attention_central_gradient(b.c, x, gradient, g, /*in_line=*/true, memory.values);
      } else {
        central_gradient(b.c, x, columns, g, /*in_line=*/true, memory.values);
      }
    }
  }
  if (to.weights != nullptr) {
    const SparseOutput::Memory memory = to.weights->take(touched_edge_count);
    if (touched_edge_count > 0) {
      link_weight_gradient(b.c, x, edges, g, /*dense=*/false, memory.indices, memory.values);
    }
  }
  b.sample_weights(to.sample_weights);
}

}  // namespace resemb::cuda
