// Backward on the CPU: gradients of whole tables, and of what the batch touches.
#include "cpu/backward.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/attention.h"
#include "cpu/backend.h"

namespace resemb::cpu {

void BackwardPass::check_count(const TouchedEdges& edges) {
  if (edges.count >= std::numeric_limits<uint32_t>::max()) {
    throw std::invalid_argument("ids: the batch touches " + std::to_string(edges.count) +
                                " edges; at most 2^32 - 2 in one call");
  }
}

namespace {

// What the attention link's backward keeps, and memory for the gradients of its parameters that nobody
// wants: where only C's is asked for, their sums still cost next to nothing.
struct AttentionPass {
  Buffer<char> unwanted;
  AttendedEdges attended;

  AttentionPass(const BackwardPass& b, const TouchedEdges& edges, const void* g, const FixedGradients& to) {
    BackwardPass::check_count(edges);
    const Lookup& x = b.x;
    const int64_t item = static_cast<int64_t>(item_size(x.acc()));
    void *a_src = to.a_src, *a_dst = to.a_dst, *prior = to.b;
    if (!to.attention()) {
      unwanted = Buffer<char>((2 * x.dim + x.attention.heads) * item);
      a_src = unwanted.data();
      a_dst = unwanted.data() + x.dim * item;
      prior = unwanted.data() + 2 * x.dim * item;
    }
    attended = attention_backward(x, b.plan, edges, g, a_src, a_dst, prior, b.parallel);
  }

  // f(touched neighbours, AttentionSegmentArgs) for the gradient of C.
  template <class F>
  void with_columns(const BackwardPass& b, const TouchedEdges& edges, const void* g, const F& f) const {
    with_attention_columns(b.x, b.plan, edges, attended, g, b.parallel, f);
  }
};

template <class Args>
void sum_columns(const BackwardPass& b, const Args& args, int64_t count) {
  const StageTimer timer(Stage::columns);
  sum_segments(args, count, b.parallel);
}

// Takes memory of an output for items, and sets its indices to them.
SparseOutput::Memory take_for(SparseOutput& to, const int32_t* items, int64_t count) {
  const SparseOutput::Memory memory = to.take(count);
  std::copy_n(items, count, memory.indices);
  return memory;
}

// The touched edges' numbers in the graph.
void list_edges(const BackwardPass& b, const TouchedEdges& edges, int64_t* to) {
  for (int64_t u = 0; u < b.unique(); ++u) {
    const int64_t shift = b.x.graph.indptr[b.plan.unique_ids()[u]] - edges.offsets[u];
    for (int64_t t = edges.offsets[u]; t < edges.offsets[u + 1]; ++t) to[t] = t + shift;
  }
}

}  // namespace

void Backend::backward(const Lookup& x, int32_t* plan, const void* grad, const DenseGradients& to) {
  const BackwardPass b{x, {plan, x.positions}, grad, parallel_};
  const bool attends = x.attention.heads > 0;
  const bool reads_edges = to.central != nullptr || to.weights != nullptr || to.attention();
  if ((reads_edges || to.residual != nullptr) && x.dim > 0 && (attends || b.unique() > 0)) {
    Buffer<char> g(b.gradient_bytes());
    b.sum(g.data());
    if (to.residual != nullptr) {
      store_gradient(x, g.data(), b.unique(), b.plan.unique_ids(), to.residual, parallel_);
    }
    if (reads_edges && attends) {
      const TouchedEdges edges = b.edges();
      const AttentionPass attention(b, edges, g.data(), to);
      if (to.central != nullptr) {
        attention.with_columns(b, edges, g.data(),
                               [&](const Buffer<int32_t>& items, AttentionSegmentArgs args) {
                                 args.targets = items.data();
                                 args.out = to.central;
                                 args.bypass_cache = false;
                                 sum_columns(b, args, items.size());
                               });
      }
    } else if (reads_edges) {
      const TouchedEdges edges = b.edges();
      if (to.central != nullptr) {
        b.with_transpose(edges, [&](const auto& columns) {
          SegmentArgs args = b.columns(columns.terms, g.data());
          args.targets = columns.items.data();
          args.out = to.central;
          sum_columns(b, args, columns.terms.count);
        });
      }
      if (to.weights != nullptr) {
        link_weight_gradient(x, b.plan, edges, g.data(), /*dense=*/true, to.weights, parallel_);
      }
    }
  }
  b.sample_weights(to.sample_weights);
}

void Backend::backward(const Lookup& x, int32_t* plan, const void* grad, const SparseGradients& to) {
  const BackwardPass b{x, {plan, x.positions}, grad, parallel_};
  const bool reads_edges = to.central != nullptr || to.weights != nullptr || to.attention();
  SparseOutput::Memory rows{};
  if (to.residual != nullptr) rows = take_for(*to.residual, b.plan.unique_ids(), b.unique());
  // G is the residual's gradient where the tables' type is the accumulator's.
  const bool g_is_gradient = to.residual != nullptr && x.table == x.acc();
  Buffer<char> own(g_is_gradient ? 0 : b.gradient_bytes());
  void* g = g_is_gradient ? rows.values : own.data();
  if (reads_edges || to.residual != nullptr) b.sum(g);
  if (to.residual != nullptr && !g_is_gradient) {
    store_gradient(x, g, b.unique(), nullptr, rows.values, parallel_);
  }
  if (reads_edges && x.attention.heads > 0) {
    const TouchedEdges edges = b.edges();
    const AttentionPass attention(b, edges, g, to);
    if (to.central != nullptr) {
      attention.with_columns(b, edges, g, [&](const Buffer<int32_t>& items, AttentionSegmentArgs args) {
        args.out = take_for(*to.central, items.data(), items.size()).values;
        sum_columns(b, args, items.size());
      });
    }
  } else if (reads_edges) {
    const TouchedEdges edges = b.edges();
    if (to.central != nullptr) {
      b.with_transpose(edges, [&](const auto& columns) {
        SegmentArgs args = b.columns(columns.terms, g);
        args.out = take_for(*to.central, columns.items.data(), columns.items.size()).values;
        if (x.dim > 0) sum_columns(b, args, columns.terms.count);
      });
    }
    if (to.weights != nullptr) {
      const SparseOutput::Memory memory = to.weights->take(edges.count);
      list_edges(b, edges, memory.indices);
      link_weight_gradient(x, b.plan, edges, g, /*dense=*/false, memory.values, parallel_);
    }
  }
  b.sample_weights(to.sample_weights);
}

}  // namespace resemb::cpu
