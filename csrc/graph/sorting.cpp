#include "graph/sorting.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <tuple>

#include "graph/ordering.h"

namespace resemb::graph {
namespace {

void keep_tails(const Ordering& ordering, int64_t window, Tails& out) {
  const auto& events = ordering.events();
  const int64_t size = static_cast<int64_t>(events.size());
  for (int64_t begin = 0, end; begin < size; begin = end) {
    for (end = begin + 1; end < size && events[end].user == events[begin].user;) ++end;
    for (int64_t r = std::max(begin, end - window); r < end; ++r) {
      out.user.push_back(ordering.users()[events[r].user]);
      out.item.push_back(events[r].item);
      out.time.push_back(events[r].time);
    }
  }
}

// Buckets hold whole users, each in order: a stable sort by user joins them.
void join_tails(const std::vector<Tails>& parts, Tails& out) {
  std::vector<std::tuple<int64_t, int64_t, uint64_t>> rows;
  for (const Tails& part : parts)
    for (size_t r = 0; r < part.user.size(); ++r) rows.emplace_back(part.user[r], part.item[r], part.time[r]);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return std::get<0>(a) < std::get<0>(b); });
  for (const auto& [user, item, time] : rows) {
    out.user.push_back(user);
    out.item.push_back(item);
    out.time.push_back(time);
  }
}

}  // namespace

void sort_events(EventStore& store, const std::vector<int64_t>& offsets, int64_t first, int64_t last,
                 const BuildOptions& options, Workers& workers, Word* occurrences, Tails* tails,
                 const WriteEntries& write) {
  std::vector<Tails> tail_of(tails ? last - first : 0);
  struct Scratch {
    std::vector<std::byte> read;
    Ordering ordering;
    std::vector<Word> entries, reach;
    std::unique_ptr<Word[]> occurrences;
  };
  std::vector<Scratch> scratch(workers.threads());
  // Counters of each thread's own, where they are small beside the events: atomic ones are slower.
  const bool apart = options.num_items <= (offsets[last] - offsets[first]) / workers.threads();
  workers.run(last - first, [&](int64_t task, int worker) {
    Scratch& s = scratch[worker];
    const int64_t b = first + task;
    const int64_t size = offsets[b + 1] - offsets[b];
    store.visit(b, s.read, [&](const auto& spans) { s.ordering.order(size, spans, store.time_of()); });
    s.entries.resize(size);
    if (options.limits.gap()) s.reach.resize(size);
    const auto& events = s.ordering.events();
    write_entries(
        int64_t{0}, size, size, options.limits, store.floating(), options.rows.window,
        [&](int64_t r) { return events[r].user; }, [&](int64_t r) { return events[r].time; },
        [&](int64_t r) { return events[r].item; }, s.entries.data(), s.reach.data());
    if (apart) {
      if (!s.occurrences) s.occurrences = std::make_unique<Word[]>(options.num_items);
      for (int64_t r = 0; r < size; ++r) ++s.occurrences[events[r].item];
    } else {
      for (int64_t r = 0; r < size; ++r)
        std::atomic_ref(occurrences[events[r].item]).fetch_add(1, std::memory_order_relaxed);
    }
    write(offsets[b], s.entries.data(), options.limits.gap() ? s.reach.data() : nullptr, size);
    if (tails) keep_tails(s.ordering, options.rows.window, tail_of[task]);
    workers.advance(size);
  });
  workers.ranges(apart ? options.num_items : 0, 1 << 16, [&](int64_t begin, int64_t end) {
    for (const Scratch& s : scratch)
      for (int64_t i = begin; s.occurrences && i < end; ++i) occurrences[i] += s.occurrences[i];
  });
  if (tails) join_tails(tail_of, *tails);
}

}  // namespace resemb::graph
