#include "cpu/attention.h"

#include <algorithm>

#include "common/profile.h"

namespace resemb::cpu {
namespace {

// Memory for the kernels on rows [begin, end); malformed rows need none.
Buffer<char> scratch_for(const GatherArgs& args, int64_t heads, int64_t begin, int64_t end) {
  int64_t widest = 0;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = args.graph.indptr[args.ids[i]], past = args.graph.indptr[args.ids[i] + 1];
    if (first >= 0 && past <= args.num_edges) widest = std::max(widest, past - first);
  }
  return Buffer<char>(attention_scratch(widest, args.dim, heads) *
                      static_cast<int64_t>(item_size(accumulator(args.table))));
}

// out[c] = the sum of column c of `sums`, row by row.
template <class A>
void add_rows(const Buffer<char>& sums, int64_t rows, int64_t columns, int64_t first, int64_t past,
              void* out) {
  const A* in = reinterpret_cast<const A*>(sums.data());
  for (int64_t c = first; c < past; ++c) {
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) total += in[r * columns + c];
    static_cast<A*>(out)[c - first] = static_cast<A>(total);
  }
}

}  // namespace

int64_t attend(const GatherArgs& gather, const Attention& link, int64_t begin, int64_t end) {
  Buffer<char> scratch = scratch_for(gather, link.heads, begin, end);
  AttentionArgs args{};
  args.gather = gather;
  args.link = link;
  args.scratch = scratch.data();
  return kernels().attend(args, begin, end);
}

AttendedEdges attention_backward(const Lookup& x, const PlanView<const int32_t>& plan,
                                 const TouchedEdges& edges, const void* g, void* a_src, void* a_dst, void* b,
                                 const Parallel& parallel) {
  const StageTimer timer(Stage::edges);
  const int64_t item = static_cast<int64_t>(item_size(x.acc())), heads = x.attention.heads;
  const int64_t unique = plan.num_unique(), columns = 2 * x.dim + heads;
  const int64_t tasks = (unique + kIdsPerTask - 1) / kIdsPerTask;
  AttendedEdges out{Buffer<char>(edges.count * heads * 2 * item), Buffer<char>(unique * heads * item)};
  Buffer<char> sums(tasks * columns * item);
  AttentionArgs args{};
  args.gather = gather_of(x, plan.unique_ids(), unique, nullptr, x.acc());
  args.gather.residual = nullptr;
  args.link = x.attention;
  args.grad = g;
  args.offsets = edges.offsets.data();
  args.edges = out.edges.data();
  args.row_scores = out.row_scores.data();
  parallel.ranges(unique, kIdsPerTask, [&](int64_t begin, int64_t end) {
    Buffer<char> scratch = scratch_for(args.gather, heads, begin, end);
    AttentionArgs own = args;
    own.scratch = scratch.data();
    char* row = sums.data() + begin / kIdsPerTask * columns * item;
    std::fill_n(row, columns * item, 0);
    own.sums = row;
    kernels().attend_backward(own, begin, end);
  });
  const auto add = [&](int64_t first, int64_t past, void* to) {
    if (x.acc() == DType::f64) {
      add_rows<double>(sums, tasks, columns, first, past, to);
    } else {
      add_rows<float>(sums, tasks, columns, first, past, to);
    }
  };
  add(0, x.dim, a_src);
  add(x.dim, 2 * x.dim, a_dst);
  add(2 * x.dim, columns, b);
  return out;
}

}  // namespace resemb::cpu
