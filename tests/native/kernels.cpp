// Runs the CPU kernels, free of torch, on random problems and compares them with plain loops in double:
// for the sanitizers.
//
//   kernels problems N   N problems, on every instruction set, with one thread and with four
//   kernels threads N    four threads at a time, N problems each, while a fifth changes the path
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "attention.h"

using namespace driver;

namespace {

void check_plan(const Problem& p, const PlanView& plan) {
  const int64_t unique = plan.num_unique();
  require(unique >= 0 && unique <= p.positions, "not a number of unique ids");
  for (int64_t u = 0; u < p.positions; ++u) {
    if (u >= unique) require(plan.unique_ids()[u] == 0, "ids not used are not zero");
    if (u > 0 && u < unique) require(plan.unique_ids()[u] > plan.unique_ids()[u - 1], "ids do not ascend");
  }
  std::vector<bool> asked(unique);
  for (int64_t i = 0; i < p.positions; ++i) {
    const int64_t rank = plan.rank()[i];
    if (p.ids[i] == p.padding) {
      require(rank == unique, "padding has a rank");
    } else {
      require(rank >= 0 && rank < unique && plan.unique_ids()[rank] == p.ids[i],
              "a rank leads to another id");
      asked[rank] = true;
    }
  }
  for (const bool is : asked) require(is, "an id that no position asked for");
}

Results run(const Problem& p, int threads) {
  const resemb::cpu::Parallel parallel(threads, launch);
  const Inputs in(p);
  const Plan plan(p, in, parallel);
  require(plan.bad_position == -1, "a good id is called bad");
  check_plan(p, plan.view());
  return run_steps(p, in, plan.view(), parallel);
}

void compare(const Problem& p, const Results& r, const Expected& expected) {
  const DType acc = p.acc(), link = p.weights_gradient();
  require_close("output", r.out, expected.out, acc, p.out_type);
  require_close("gradient of central", r.central, expected.grad_central, acc, p.table);
  require_close("its rows", r.central_by_rows, expected.grad_central, acc, p.table);
  require_close("gradient of residual", r.residual, expected.grad_residual, acc, p.table);
  require_close("its rows", r.residual_by_rows, expected.grad_residual, acc, p.table);
  require_close("gradient of link weights", r.weights, expected.grad_weights, acc, link);
  require_close("its touched edges", r.weights_by_rows, expected.grad_weights, acc, link);
  require_close("gradient of sample weights", r.samples, expected.grad_samples, acc, acc);
}

void require_same_bits(const Results& a, const Results& b) {
  const bool same = a.out.same_bits(b.out) && a.central.same_bits(b.central) &&
                    a.residual.same_bits(b.residual) && a.weights.same_bits(b.weights) &&
                    a.samples.same_bits(b.samples);
  require(same, "the bits depend on the number of threads");
  require(a.central.same_bits(a.central_by_rows) && a.residual.same_bits(a.residual_by_rows) &&
              a.weights.same_bits(a.weights_by_rows),
          "rows differ from the whole table");
}

std::vector<std::string> paths() {
  std::vector<std::string> names;
  std::string rest = resemb::cpu::available_isas();
  for (size_t comma; (comma = rest.find(',')) != std::string::npos; rest = rest.substr(comma + 1)) {
    names.push_back(rest.substr(0, comma));
  }
  names.push_back(rest);
  return names;
}

// A bad id is found, the first one, before anything is written.
void check_bad_id(Problem& p, Random& random) {
  if (p.positions == 0) return;
  const int64_t at = random.below(p.positions), good = p.ids[at];
  const int64_t bad[] = {-1, p.items, INT32_MIN, p.int64_ids ? int64_t{1} << 32 : INT32_MAX};
  p.ids[at] = bad[random.below(4)];
  const int64_t later = at + random.below(p.positions - at), other = p.ids[later];
  p.ids[later] = p.ids[at];
  const Inputs in(p);
  require(Plan(p, in, {3, launch}).bad_position == at, "a bad id goes unseen");
  p.ids[later] = other;
  p.ids[at] = good;
}

// A malformed row of the graph is found, the first one, with nothing read beyond the arrays and nothing
// written.
void check_bad_graph(Problem& p, Random& random) {
  if (p.positions == 0) return;
  const int64_t row = p.ids[random.below(p.positions)];
  if (row == p.padding) return;
  const int64_t first = p.indptr[row], past = p.indptr[row + 1];
  const int64_t far = 1 + (random.one_in(2) ? 0 : random.below(1'000'000)), kind = random.below(6);
  if (kind < 2) {
    if (first == past) return;
    const int64_t beyond = p.int64_neighbors && far > 1 ? int64_t{1} << 32 : p.items;
    p.neighbors[first + random.below(past - first)] = kind == 0 ? -far : beyond;
  } else if (kind == 2) {
    p.indptr[row + 1] = p.edges() + far;
  } else if (kind == 3) {
    p.indptr[row + 1] = -far;
  } else if (kind == 4) {
    if (first == 0) return;
    p.indptr[row + 1] = random.below(first);
  } else {
    if (row != *std::min_element(p.ids.begin(), p.ids.end())) return;  // the row before ends there too
    p.indptr[row] = -far;
  }
  for (const int threads : {1, 4}) {
    const resemb::cpu::Parallel parallel(threads, launch);
    const Inputs in(p);
    const Plan plan(p, in, parallel);
    Array out(p.out_type, p.out_rows() * p.dim, p.aligned);
    const Array untouched(p.out_type, p.out_rows() * p.dim, p.aligned);
    const int64_t found = resemb::cpu::lookup_forward(in.lookup, plan.view(), out.data(), parallel);
    require(found >= 0 && plan.view().unique_ids()[found] == row, "a malformed row goes unseen");
    require(out.same_bits(untouched), "written despite a malformed row");
  }
}

template <class F>
bool attempt(uint64_t seed, const F& body) {
  try {
    body();
    return true;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "seed %llu (%s): %s\n", static_cast<unsigned long long>(seed),
                 make_attention_problem(seed).text().c_str(), e.what());
    return false;
  }
}

void check_attention(uint64_t seed) {
  const AttentionProblem a = make_attention_problem(seed);
  const ExpectedAttention expected(a);
  for (const std::string& path : paths()) {
    resemb::cpu::select_isa(path.c_str());
    const AttentionResults alone = run_attention(a, {1, launch}), together = run_attention(a, {4, launch});
    compare_attention(a, alone, expected);
    require(alone.same_bits(together), "the bits depend on the number of threads");
    Random random(seed);
    AttentionProblem bad = make_attention_problem(seed);
    check_bad_attention(bad, random);
  }
}

bool run_problems(uint64_t count) {
  for (uint64_t seed = 0; seed < count; ++seed) {
    const bool ok = attempt(seed, [&] {
      const Problem p = make_problem(seed);
      const Expected expected(p);
      for (const std::string& path : paths()) {
        resemb::cpu::select_isa(path.c_str());
        const Results alone = run(p, 1), together = run(p, 4);
        compare(p, alone, expected);
        require_same_bits(alone, together);
        Random random(seed);
        Problem bad = make_problem(seed);
        check_bad_id(bad, random);
        check_bad_graph(bad, random);
      }
      check_attention(seed);
    });
    if (!ok) return false;
  }
  return true;
}

bool run_threads(uint64_t count) {
  std::atomic<bool> ok{true}, done{false};
  std::vector<std::thread> callers;
  for (uint64_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (uint64_t seed = caller * count; seed < (caller + 1) * count && ok; ++seed) {
        const bool good = attempt(seed, [&] {
          const Problem p = make_problem(seed);
          compare(p, run(p, 2), Expected(p));
        });
        if (!good) ok = false;
      }
    });
  }
  std::thread chooser([&] {
    while (!done) {
      for (const std::string& path : paths()) resemb::cpu::select_isa(path.c_str());
      resemb::cpu::release_blocks();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (auto& t : callers) t.join();
  done = true;
  chooser.join();
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const uint64_t count = std::strtoull(argv[2], nullptr, 10);
  const bool ok = std::strcmp(argv[1], "threads") == 0 ? run_threads(count) : run_problems(count);
  if (ok) std::puts("ok");
  return ok ? 0 : 1;
}
