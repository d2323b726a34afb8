// Builds random graphs with the Python-free core, for the sanitizers.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>

#include "graph/builder.h"
#include "graph/store_builder.h"

namespace rg = resemb::graph;

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

rg::Csr<rg::Neighbor, float> built(const rg::Events& events, const rg::BuildOptions& options, int threads) {
  rg::Workers workers(threads, 2 * events.count, [](int64_t, int64_t) {});
  return rg::build(events, options, workers);
}

template <class A, class B>
void require_same(const A& a, const B& b, int64_t num_items) {
  require(a.num_edges == b.num_edges, "edges");
  require(std::equal(a.indptr.get(), a.indptr.get() + num_items + 1, b.indptr.get()), "indptr");
  require(std::equal(a.neighbors.get(), a.neighbors.get() + a.num_edges, b.neighbors.get()), "neighbors");
  require(std::equal(a.values.get(), a.values.get() + a.num_edges, b.values.get()), "weights");
  require(std::equal(a.degree.get(), a.degree.get() + num_items, b.degree.get()), "degree");
}

// The same options with masses in units 2^30 times as fine, which are counted in 64 bits.
rg::BuildOptions in_finer_units(rg::BuildOptions options) {
  constexpr uint64_t finer = uint64_t{1} << 30;
  rg::RowOptions& rows = options.rows;
  if (rows.mass.empty()) rows.mass.assign(rows.window, 1);
  for (uint64_t& mass : rows.mass) mass *= finer;
  rows.unit *= finer;
  rows.min_mass *= finer;
  return options;
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
    rg::BuildOptions options;
    options.num_items = num_items;
    options.rows.window = 1 + below(6);
    if (round % 3 == 0) {
      options.rows.unit = 65536;
      for (int64_t g = 1; g <= options.rows.window; ++g) options.rows.mass.push_back(65536 / g);
    }
    options.rows.top_k = below(8);
    options.rows.min_mass = options.rows.unit * (1 + below(3)) / 2;
    options.rows.weighting = static_cast<rg::Weighting>(round % 4);
    options.rows.damping = round % 3 ? 0 : 0.5;
    options.rows.directed = round % 7 == 0;
    options.rows.largest_self_weight = round % 2 == 0;
    options.rows.self_weight = 0.5;
    if (round % 3) {
      options.limits.int_gap = 1 + below(40);
      options.limits.float_gap = static_cast<double>(options.limits.int_gap);
      options.limits.int_session = 20;
      options.limits.float_session = 7;
    }
    std::vector<int64_t> category(num_items);
    for (int64_t& c : category) c = below(12) - 1;
    options.category = category.data();
    options.rows.category_edges = round % 5 ? 0 : 2;
    options.rows.category_weight = 0.25;
    const auto one = built(events, options, 1);
    require_same(one, built(events, options, 4), num_items);
    require_same(one, built(events, in_finer_units(options), 3), num_items);
    for (const int64_t memory : {int64_t{-1}, 8 * n, n / 3 + 1}) {  // in memory, events or all on disk
      rg::EventStore store(std::filesystem::temp_directory_path().string(), memory, n);
      store.add(events, num_items, -1);
      rg::Workers workers(3, 2 * n, [](int64_t, int64_t) {});
      std::unique_ptr<uint32_t[]> occurrences;
      require_same(one, rg::build<rg::GraphRows>(store, options, workers, nullptr, occurrences), num_items);
      require((store.spilled_bytes() > 0) == (memory >= 0 && n > 0), "spilling");
    }
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
  rg::BuildOptions options;
  options.num_items = 997;
  options.rows.window = 20000;
  options.rows.top_k = 5;
  bool stopped = false;
  try {
    rg::Workers workers(3, 2 * n, [](int64_t, int64_t) { throw 42; });
    rg::build(events, options, workers);
  } catch (int) {
    stopped = true;
  }
  require(stopped, "the poll's exception arrives");
  item[777] = 997;
  item[150000] = -1;
  int64_t bad = -1;
  try {
    built(events, options, 4);
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
