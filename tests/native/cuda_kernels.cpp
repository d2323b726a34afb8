// Runs the CUDA kernels under emulation, free of torch, on random problems and compares them with plain
// loops in double: for the sanitizers, and for mutants that must be caught.
//
//   cuda_kernels problems FIRST PAST   problems of the seeds FIRST .. PAST - 1, each on two devices
//   cuda_kernels primitives N          N scans and sorts
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>

#include "cuda/scan.cuh"
#include "cuda/sort.h"
#include "cuda_steps.h"

using namespace driver;

namespace {

void compare(const Problem& p, const Results& r, const Expected& expected) {
  const DType acc = p.acc(), link = p.weights_gradient();
  require_close("output", r.out, expected.out, acc, p.out_type);
  require_close("gradient of central", r.central, expected.grad_central, acc, p.table);
  require_close("gradient of residual", r.residual, expected.grad_residual, acc, p.table);
  require_close("gradient of link weights", r.weights, expected.grad_weights, acc, link);
  require_close("gradient of sample weights", r.samples, expected.grad_samples, acc, acc);
  require(r.central.same_bits(r.central_by_rows) && r.residual.same_bits(r.residual_by_rows) &&
              r.weights.same_bits(r.weights_by_rows),
          "rows differ from the whole table");
}

void require_same_bits(const Results& a, const Results& b) {
  const bool same = a.out.same_bits(b.out) && a.central.same_bits(b.central) &&
                    a.residual.same_bits(b.residual) && a.weights.same_bits(b.weights) &&
                    a.samples.same_bits(b.samples);
  require(same, "the bits depend on the grid or on the order of threads");
}

// A bad id is reported and read as padding.
void check_bad_id(Problem& p, const Results& good, Random& random) {
  if (p.positions == 0) return;
  const int64_t at = random.below(p.positions);
  const int64_t bad[] = {-1, p.items, INT32_MIN, p.int64_ids ? int64_t{1} << 32 : INT32_MAX};
  p.ids[at] = bad[random.below(4)];
  const Inputs in(p);
  Call call(2);
  const Results r = run_steps(p, in, call, Stepped::none);
  require(call.fault.state == 2 && call.fault.wrong == resemb::cuda::Wrong::id &&
              call.fault.value == p.ids[at] && call.fault.position == at && call.fault.bound == p.items,
          "a bad id goes unseen");
  for (int64_t i = 0; p.bags < 0 && i < r.out.size(); ++i) {
    const bool same = i / p.dim == at ? r.out[i] == 0 : r.out[i] == good.out[i];
    require(same, "a bad id is not read as padding");
  }
}

// A malformed row of the graph is reported, with nothing read beyond the arrays.
void check_bad_graph(Problem& p, Random& random) {
  if (p.positions == 0) return;
  const int64_t row = p.ids[random.below(p.positions)];
  if (row == p.padding) return;
  const int64_t first = p.indptr[row], past = p.indptr[row + 1];
  const int64_t far = 1 + (random.one_in(2) ? 0 : random.below(1'000'000));
  if (random.one_in(2)) {
    if (first == past) return;
    p.neighbors[first + random.below(past - first)] = random.one_in(2) ? -far : p.items;
  } else {
    p.indptr[row + 1] = random.one_in(2) ? p.edges() + far : -far;
  }
  const Inputs in(p);
  Call call(3);
  std::vector<int32_t> plan_data(2 * p.positions + 1, -1);
  const resemb::cuda::Plan plan(plan_data.data(), p.positions);
  make_plan(call.context, in.lookup, {in.ids.data(), p.int64_ids, p.positions}, p.padding, plan);
  const auto groups = make_groups(call.context, in.lookup, plan);
  Array out(p.out_type, p.out_rows() * p.dim, p.aligned);
  lookup_forward(call.context, in.lookup, groups, out.data());
  require(call.fault.state == 2 && call.fault.wrong == resemb::cuda::Wrong::graph,
          "a malformed row goes unseen");
  transpose(call.context, in.lookup, touched_edges(call.context, in.lookup, groups));
}

bool run_problems(uint64_t first, uint64_t past) {
  for (uint64_t seed = first; seed < past; ++seed) {
    try {
      Problem p = make_problem(seed);
      const Expected expected(p);
      const Inputs in(p);
      Random random(seed);
      Call one(1 + static_cast<int>(random.below(5))), other(1 + static_cast<int>(random.below(5)));
      const Results a = run_steps(p, in, one, Stepped::central),
                    b = run_steps(p, in, other, Stepped::residual);
      one.require_no_fault();
      other.require_no_fault();
      compare(p, a, expected);
      require_same_bits(a, b);
      Problem bad = make_problem(seed);
      check_bad_id(bad, a, random);
      bad = make_problem(seed);
      check_bad_graph(bad, random);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "seed %llu (%s): %s\n", static_cast<unsigned long long>(seed),
                   make_problem(seed).text().c_str(), e.what());
      return false;
    }
  }
  return true;
}

struct Sums32 {
  const uint32_t* numbers;
  uint32_t* sums;
  uint32_t in(int64_t i) const { return numbers[i]; }
  void out(int64_t i, uint32_t before, uint32_t) const { sums[i] = before; }
};

void check_primitives(uint64_t seed) {
  using namespace resemb::cuda;
  Random random(seed);
  Call call(1 + static_cast<int>(random.below(4)));
  const int64_t most = random.below(random.one_in(4) ? 20'000 : 700), n = random.below(most + 1);
  const int bits = static_cast<int>(random.below(33));
  uint32_t* device_n = call.memory.take<uint32_t>(1);
  *device_n = static_cast<uint32_t>(n);
  const Count count{device_n, most};

  const SortBuffers buffers{call.memory.take<uint32_t>(most), call.memory.take<uint32_t>(most),
                            call.memory.take<uint32_t>(most), call.memory.take<uint32_t>(most)};
  std::vector<uint32_t> keys(n), order(n);
  for (uint32_t& key : keys) {
    key = static_cast<uint32_t>(random.below(random.one_in(2) ? 5 : INT64_MAX));
    if (bits < 32) key &= (uint32_t{1} << bits) - 1;
  }
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return keys[a] < keys[b]; });
  std::copy(keys.begin(), keys.end(), buffers.unsorted(bits));
  sort_keys(call.context, buffers, count, bits);
  for (int64_t i = 0; i < n; ++i) {
    require(buffers.values[i] == order[i] && buffers.keys[i] == keys[order[i]], "not the stable order");
  }

  uint32_t* sums = call.memory.take<uint32_t>(n);
  uint32_t* total = call.memory.take<uint32_t>(1);
  exclusive_scan(call.context, Sums32{keys.data(), sums}, count, total);
  uint32_t sum = 0;
  for (int64_t i = 0; i < n; sum += keys[i++]) require(sums[i] == sum, "not the sum of those before");
  require(*total == sum, "not the sum of all");
}

bool run_primitives(uint64_t count) {
  for (uint64_t seed = 0; seed < count; ++seed) {
    try {
      check_primitives(seed);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "primitives, seed %llu: %s\n", static_cast<unsigned long long>(seed), e.what());
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  const bool primitives = std::strcmp(argv[1], "primitives") == 0;
  if (!primitives && argc != 4) return 2;
  const bool ok = primitives ? run_primitives(number(2)) : run_problems(number(2), number(3));
  if (ok) std::puts("ok");
  return ok ? 0 : 1;
}
