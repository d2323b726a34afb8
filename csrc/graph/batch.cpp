#include "graph/batch.h"

#include <cstring>

namespace resemb::graph {
namespace {

constexpr int64_t kAhead = 16;
// What a slot holds while numbers are given.
constexpr int32_t kNew = -1, kSeen = -2, kId = -3, kReadId = -4;

// item % ranks, without a division where ranks is a power of two.
class Owner {
 public:
  explicit Owner(int64_t ranks) : ranks_(ranks), mask_((ranks & (ranks - 1)) == 0 ? ranks - 1 : -1) {}
  int64_t operator()(int64_t item) const {
    return mask_ >= 0 ? item & mask_ : static_cast<uint32_t>(item) % static_cast<uint32_t>(ranks_);
  }

 private:
  int64_t ranks_, mask_;
};

// The first place of each owner's items, from their counts.
std::vector<int64_t> starts(const std::vector<int64_t>& counts) {
  std::vector<int64_t> first(counts.size());
  for (size_t i = 1; i < counts.size(); ++i) first[i] = first[i - 1] + counts[i - 1];
  return first;
}

}  // namespace

void group_by_owner(const int64_t* items, int64_t count, int64_t ranks, int64_t* out, int64_t* counts) {
  const Owner owner(ranks);
  std::vector<int64_t> found(ranks);
  for (int64_t i = 0; i < count; ++i) ++found[owner(items[i])];
  std::vector<int64_t> next = starts(found);
  for (int64_t i = 0; i < count; ++i) out[next[owner(items[i])]++] = items[i];
  std::memcpy(counts, found.data(), found.size() * sizeof(int64_t));
}

int64_t row_lengths(const BatchGraph& graph, const int64_t* rows, int64_t count, int64_t* lengths) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) __builtin_prefetch(&graph.indptr[rows[i + kAhead]]);
    if (rows[i] < 0 || rows[i] >= graph.num_rows) return -1;
    const int64_t first = graph.indptr[rows[i]], past = graph.indptr[rows[i] + 1];
    if (first < 0 || past < first || past > graph.num_edges) return -1;
    total += lengths[i] = past - first;
  }
  return total;
}

void copy_lists(const BatchGraph& graph, const int64_t* rows, int64_t count, int32_t* neighbors,
                char* weights) {
  const auto fetch = [](const char* data, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(data + at);
  };
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) {
      const int64_t first = graph.indptr[rows[i + kAhead]],
                    length = graph.indptr[rows[i + kAhead] + 1] - first;
      fetch(graph.neighbors + first * graph.neighbor_bytes, length * graph.neighbor_bytes);
      fetch(graph.weights + first * graph.weight_bytes, length * graph.weight_bytes);
    }
    const int64_t first = graph.indptr[rows[i]], length = graph.indptr[rows[i] + 1] - first;
    const char* from = graph.neighbors + first * graph.neighbor_bytes;
    if (graph.neighbor_bytes == 4) {
      std::memcpy(neighbors, from, length * 4);
    } else {
      for (int64_t k = 0; k < length; ++k)
        neighbors[k] = static_cast<int32_t>(reinterpret_cast<const int64_t*>(from)[k]);
    }
    std::memcpy(weights, graph.weights + first * graph.weight_bytes, length * graph.weight_bytes);
    neighbors += length;
    weights += length * graph.weight_bytes;
  }
}

bool number_items(int32_t* slots, int64_t num_items, int64_t ranks, const int64_t* ids, int64_t num_ids,
                  int32_t* neighbors, int64_t count, bool apart, Numbers& numbers) {
  for (int64_t e = 0; e < count; ++e)
    if (static_cast<uint32_t>(neighbors[e]) >= static_cast<uint64_t>(num_items)) return false;
  for (int64_t i = 0; i < num_ids; ++i)
    if (static_cast<uint64_t>(ids[i]) >= static_cast<uint64_t>(num_items)) return false;
  const Owner owner(ranks);
  for (int64_t e = 0; e < count; ++e) slots[neighbors[e]] = kNew;
  const int64_t among = apart ? 0 : num_ids;  // ids that are numbered with the neighbours
  for (int64_t i = 0; i < among; ++i) slots[ids[i]] = kId;
  std::vector<int32_t> others;
  std::vector<int64_t> ids_of(ranks), others_of(ranks);
  int64_t read_ids = 0;
  for (int64_t e = 0; e < count; ++e) {
    int32_t& slot = slots[neighbors[e]];
    if (slot == kNew) {
      slot = kSeen;
      others.push_back(neighbors[e]);
      ++others_of[owner(neighbors[e])];
    } else if (slot == kId) {
      slot = kReadId;
      ++read_ids;
    }
  }
  for (int64_t i = 0; i < among; ++i) ++ids_of[owner(ids[i])];
  std::vector<int64_t> sizes(2 * ranks);
  for (int64_t r = 0; r < ranks; ++r) {
    sizes[2 * r] = ids_of[r];
    sizes[2 * r + 1] = others_of[r];
  }
  std::vector<int64_t> next = starts(sizes);
  const int64_t total = among + static_cast<int64_t>(others.size());
  numbers.items.resize(total);
  numbers.looked_up.resize(num_ids);
  numbers.all_read = read_ids == among;
  std::vector<char> unread(numbers.all_read ? 0 : total);
  for (int64_t i = 0; i < among; ++i) {
    const int64_t number = next[2 * owner(ids[i])]++;
    if (slots[ids[i]] == kId && !numbers.all_read) unread[number] = 1;
    numbers.items[number] = ids[i];
    numbers.looked_up[i] = number;
    slots[ids[i]] = static_cast<int32_t>(number);
  }
  for (const int32_t item : others) {
    const int64_t number = next[2 * owner(item) + 1]++;
    numbers.items[number] = item;
    slots[item] = static_cast<int32_t>(number);
  }
  if (!numbers.all_read) {
    for (int64_t n = 0; n < total; ++n)
      if (unread[n] == 0) numbers.read.push_back(n);
  }
  for (int64_t e = 0; e < count; ++e) neighbors[e] = slots[neighbors[e]];
  for (int64_t i = among; i < num_ids; ++i) {
    slots[ids[i]] = static_cast<int32_t>(i);
    numbers.looked_up[i] = i;
  }
  return true;
}

}  // namespace resemb::graph
