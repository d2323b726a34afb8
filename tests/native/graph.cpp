// Builds random graphs with the Python-free core, for the sanitizers.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "graph/builder.h"

namespace rg = resemb::graph;

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

template <class Width>
rg::Graph<typename Width::Neighbor> built(const rg::Events& events, const rg::BuildOptions& options,
                                          int threads) {
  rg::Workers workers(threads, 2 * events.count, [](int64_t, int64_t) {});
  return rg::build<Width>(events, options, workers);
}

template <class A, class B>
void require_same(const A& a, const B& b, int64_t num_items) {
  require(a.num_edges == b.num_edges, "edges");
  require(std::equal(a.indptr.get(), a.indptr.get() + num_items + 1, b.indptr.get()), "indptr");
  require(std::equal(a.neighbors.get(), a.neighbors.get() + a.num_edges, b.neighbors.get()), "neighbors");
  require(std::equal(a.weights.get(), a.weights.get() + a.num_edges, b.weights.get()), "weights");
  require(std::equal(a.degree.get(), a.degree.get() + num_items, b.degree.get()), "degree");
}

void random_graphs(int rounds) {
  std::mt19937_64 random(7);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  for (int round = 0; round < rounds; ++round) {
    const int64_t sizes[] = {0, 1, 3, 100, 5000, 150000};
    const int64_t n = sizes[round % 6], num_items = 1 + below(round % 2 ? 20 : 20000);
    std::vector<int64_t> user(n), item(n), time(n);
    std::vector<double> seconds(n);
    for (int64_t i = 0; i < n; ++i) {
      user[i] = below(round % 3 ? 50 : 5000) - 7;
      item[i] = std::min(below(num_items), below(num_items));
      time[i] = below(100) - 50;
      seconds[i] = static_cast<double>(time[i]) / 3;
    }
    if (round % 4 == 0) std::sort(user.begin(), user.end());
    rg::Events events{user.data(), item.data(), nullptr, nullptr, n};
    if (round % 3 == 1) events.int_time = time.data();
    if (round % 3 == 2) events.float_time = seconds.data();
    const rg::RowOptions rows{1 + below(6),
                              below(8),
                              1 + below(3),
                              round % 5 < 2 ? rg::Weighting::cosine : rg::Weighting::count,
                              round % 7 == 0,
                              round % 2 == 0,
                              0.5};
    const rg::BuildOptions options{num_items, -1, rows, false};
    const auto one = built<rg::Narrow>(events, options, 1);
    require_same(one, built<rg::Narrow>(events, options, 4), num_items);
    require_same(one, built<rg::Wide>(events, options, 3), num_items);
  }
}

// A poll that throws and events that are wrong must end every worker and free everything.
void interrupted() {
  const int64_t n = 200000;
  std::vector<int64_t> user(n), item(n);
  for (int64_t i = 0; i < n; ++i) {
    user[i] = i % 11;
    item[i] = i * 31 % 997;
  }
  const rg::Events events{user.data(), item.data(), nullptr, nullptr, n};
  const rg::BuildOptions options{997, -1, {20000, 5, 1, rg::Weighting::count, false, true, 0}, false};
  bool stopped = false;
  try {
    rg::Workers workers(3, 2 * n, [](int64_t, int64_t) { throw 42; });
    rg::build<rg::Narrow>(events, options, workers);
  } catch (int) {
    stopped = true;
  }
  require(stopped, "the poll's exception arrives");
  item[777] = 997;
  item[150000] = -1;
  int64_t bad = -1;
  try {
    built<rg::Narrow>(events, options, 4);
  } catch (const rg::BadEvent& error) {
    bad = error.index;
  }
  require(bad == 777, "the first bad event is named");
}

}  // namespace

int main(int, char** arguments) {
  random_graphs(std::atoi(arguments[1]));
  interrupted();
  std::puts("ok");
}
