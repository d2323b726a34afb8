#include "graph/hops.h"

#include <algorithm>
#include <vector>

namespace resemb::graph {

template <class Id>
Csr<Id, float> multiply(const CsrView<Id>& p, const CsrView<Id>& w, int64_t num_items, int64_t top_k,
                        Workers& workers, double* kept, double* whole) {
  struct Entry {
    float weight;
    Id id;
    bool operator<(const Entry& other) const {  // better first
      return weight != other.weight ? weight > other.weight : id < other.id;
    }
  };
  struct Scratch {
    std::vector<double> sums;
    std::vector<char> seen;
    std::vector<Id> touched;
    std::vector<Entry> entries;
    std::vector<Id> neighbors;
    std::vector<float> weights;
  };
  Collector<Id, float> collector(num_items, workers.threads());
  constexpr int64_t grain = 2048;
  const int64_t ranges = (num_items + grain - 1) / grain;
  collector.open(ranges);
  std::vector<Scratch> scratch(workers.threads());
  workers.run(ranges, [&](int64_t range, int worker) {
    Scratch& s = scratch[worker];
    s.sums.resize(num_items);
    s.seen.resize(num_items);
    s.neighbors.clear();
    s.weights.clear();
    const int64_t begin = range * grain, end = std::min(num_items, begin + grain);
    for (int64_t i = begin; i < end && !workers.stopped(); ++i) {
      s.touched.clear();
      for (int64_t a = p.indptr[i]; a < p.indptr[i + 1]; ++a) {
        const Id k = p.neighbors[a];
        for (int64_t b = w.indptr[k]; b < w.indptr[k + 1]; ++b) {
          const Id j = w.neighbors[b];
          if (!s.seen[j]) {
            s.seen[j] = 1;
            s.sums[j] = 0;
            s.touched.push_back(j);
          }
          s.sums[j] += static_cast<double>(p.weights[a]) * static_cast<double>(w.weights[b]);
        }
      }
      std::sort(s.touched.begin(), s.touched.end());  // the row's mass is summed in this order
      s.entries.clear();
      double sum = 0, after = 0;
      const int64_t before = static_cast<int64_t>(s.neighbors.size());
      bool own = false;
      Entry self{0, static_cast<Id>(i)};
      for (const Id j : s.touched) {
        s.seen[j] = 0;
        const float weight = static_cast<float>(s.sums[j]);
        sum += weight;
        if (j == i) {
          own = true;
          self.weight = weight;
        } else {
          s.entries.push_back({weight, j});
        }
      }
      if (static_cast<int64_t>(s.entries.size()) > top_k) {
        std::nth_element(s.entries.begin(), s.entries.begin() + top_k, s.entries.end());
        s.entries.resize(top_k);
      }
      if (own) s.entries.push_back(self);
      std::sort(s.entries.begin(), s.entries.end(),
                [](const Entry& a, const Entry& b) { return a.id < b.id; });
      for (const Entry& entry : s.entries) {
        after += entry.weight;
        s.neighbors.push_back(entry.id);
        s.weights.push_back(entry.weight);
      }
      kept[i] = after;
      whole[i] = sum;
      collector.row(i, static_cast<int64_t>(s.neighbors.size()) - before, 0);
    }
    collector.part(range, worker, begin, s.neighbors, s.weights);
    workers.advance(end - begin);
  });
  return collector.join(workers);
}

template Csr<int32_t, float> multiply(const CsrView<int32_t>&, const CsrView<int32_t>&, int64_t, int64_t,
                                      Workers&, double*, double*);
template Csr<int64_t, float> multiply(const CsrView<int64_t>&, const CsrView<int64_t>&, int64_t, int64_t,
                                      Workers&, double*, double*);

}  // namespace resemb::graph
