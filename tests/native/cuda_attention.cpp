// Runs the attention link's CUDA kernels under emulation, free of torch, on random problems and compares them
// with plain loops in double: for the sanitizers, and for mutants that must be caught.
//
//   cuda_attention FIRST PAST   problems of the seeds FIRST .. PAST - 1, each on two devices
#include <cstdio>
#include <cstdlib>
#include <set>

#include "attention_expected.h"
#include "cuda/attention.h"
#include "cuda_steps.h"

using namespace driver;

namespace {

AttentionResults run_steps(const AttentionProblem& a, Call& call) {
  using namespace resemb::cuda;
  using resemb::Lookup;
  const Problem& p = a.p;
  Inputs in(p);
  in.lookup.attention = a.link();
  const Lookup& x = in.lookup;
  const Context& c = call.context;
  std::vector<int32_t> plan_data(2 * p.positions + 1, -1);
  const Plan plan(plan_data.data(), p.positions);
  make_plan(c, x, {in.ids.data(), p.int64_ids, p.positions}, p.padding, plan);
  const Groups groups = make_groups(c, x, plan);
  AttentionResults r;
  r.out = Array(p.out_type, p.out_rows() * p.dim, p.aligned);
  lookup_forward(c, x, groups, r.out.data());

  Array g(p.acc(), *groups.num_unique * p.dim, p.aligned);
  unique_gradient(c, x, groups, p.grad.data(), g.data());
  r.residual = Array(p.table, p.items * p.dim, p.aligned);
  store_gradient(c, x, groups, g.data(), false, r.residual.zero().data());
  r.a_src = Array(p.acc(), p.dim, p.aligned);
  r.a_dst = Array(p.acc(), p.dim, p.aligned);
  r.b = Array(p.acc(), a.heads, p.aligned);
  const AttentionGradient gradient =
      attention_backward(c, x, groups, g.data(), r.a_src.data(), r.a_dst.data(), r.b.data());
  r.central = Array(p.table, p.items * p.dim, p.aligned);
  attention_central_gradient(c, x, gradient, g.data(), false, r.central.zero().data());
  const int64_t touched = *gradient.columns.count;
  Array values(p.table, touched * p.dim, p.aligned);
  attention_central_gradient(c, x, gradient, g.data(), true, values.data());
  std::vector<int64_t> numbers(touched);
  to_int64(c, gradient.columns.items, touched, numbers.data());
  r.central_by_rows = values.spread(numbers, p.dim, p.items * p.dim);
  if (!p.samples.empty()) {
    r.samples = Array(p.acc(), p.positions, p.aligned);
    sample_weight_gradient(c, x, groups, p.grad.data(), r.samples.data());
  }
  return r;
}

// Rows that the link cannot use, and malformed ones, are reported; nothing is read beyond the arrays.
void check_bad_rows(AttentionProblem& a, Random& random) {
  using resemb::cuda::Wrong;
  Problem& p = a.p;
  if (p.positions == 0) return;
  const int64_t row = p.ids[random.below(p.positions)];
  const int64_t first = p.indptr[row], past = p.indptr[row + 1];
  if (row == p.padding || first == past) return;
  const int64_t e = first + random.below(past - first);
  Wrong expected = Wrong::log_weights;
  bool overlap = false;
  switch (random.below(4)) {
    case 0:
      p.weights[e] = random.one_in(2) ? NAN : -INFINITY;
      break;
    case 1:
      if (p.items == 1) return;
      *std::find(p.neighbors.begin() + first, p.neighbors.begin() + past, row) = row == 0 ? 1 : 0;
      expected = Wrong::no_self;
      break;
    case 2:
      p.neighbors[e] = random.one_in(2) ? -1 : p.items;
      expected = Wrong::graph;
      break;
    default: {  // every other row is the whole graph: more edges are touched than there are
      const int64_t edges = p.edges();
      for (int64_t i = 0; i <= p.items; ++i) p.indptr[i] = i % 2 == 0 ? 0 : edges;
      std::set<int64_t> touched;
      for (int64_t& id : p.ids) {
        id -= id % 2;
        if (id != p.padding) touched.insert(id);
      }
      if (touched.size() < 2) return;
      overlap = true;
    }
  }
  Call call(2);
  run_steps(a, call);
  require(call.fault.state == 2, "a row that cannot be used goes unseen");
  if (overlap) return;  // rows without their own item may be told first
  require(call.fault.wrong == expected, "another fault is told");
  require(expected == Wrong::graph || call.fault.value == row, "another row is named");
}

bool run_problems(uint64_t first, uint64_t past) {
  for (uint64_t seed = first; seed < past; ++seed) {
    try {
      AttentionProblem a = make_attention_problem(seed);
      Random random(seed);
      Call one(1 + static_cast<int>(random.below(5))), other(1 + static_cast<int>(random.below(5)));
      const AttentionResults r = run_steps(a, one), again = run_steps(a, other);
      one.require_no_fault();
      other.require_no_fault();
      compare_attention(a, r, ExpectedAttention(a));
      require(r.same_bits(again), "the bits depend on the grid or on the order of threads");
      check_bad_rows(a, random);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "seed %llu (%s): %s\n", static_cast<unsigned long long>(seed),
                   make_attention_problem(seed).text().c_str(), e.what());
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const bool ok = run_problems(std::strtoull(argv[1], nullptr, 10), std::strtoull(argv[2], nullptr, 10));
  if (ok) std::puts("ok");
  return ok ? 0 : 1;
}
