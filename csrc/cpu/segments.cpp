#include "cpu/segments.h"

#include <algorithm>
#include <vector>

#include "cpu/buffer.h"

namespace resemb {
namespace {

constexpr int64_t kTermsPerTask = 8192;

struct LongSegment {
  int64_t segment;
  int64_t first_chunk, past_chunk;
};

// Sums long segments chunk by chunk into accumulator rows, then each segment's chunks in order. With
// `in_line` the i-th of them goes to row i of args.out.
void sum_long_segments(const SegmentArgs& args, const std::vector<int64_t>& segments, bool in_line,
                       const Parallel& parallel) {
  std::vector<LongSegment> longs;
  std::vector<uint32_t> begins, ends;
  for (const int64_t s : segments) {
    const int64_t first = static_cast<int64_t>(begins.size());
    for (int64_t t = args.begin[s]; t < args.end[s]; t += kChunk) {
      begins.push_back(static_cast<uint32_t>(t));
      ends.push_back(static_cast<uint32_t>(std::min<int64_t>(t + kChunk, args.end[s])));
    }
    longs.push_back({s, first, static_cast<int64_t>(begins.size())});
  }
  const DType acc = accumulator(args.source_type == DType::f64 ? DType::f64 : DType::f32);
  const int64_t chunks = static_cast<int64_t>(begins.size());
  Buffer<char> partial(chunks * args.dim * static_cast<int64_t>(item_size(acc)));

  SegmentArgs by_chunk = args;
  by_chunk.begin = begins.data();
  by_chunk.end = ends.data();
  by_chunk.targets = nullptr;
  by_chunk.out_type = acc;
  by_chunk.out = partial.data();
  by_chunk.bypass_cache = false;
  parallel.ranges(chunks, 8,
                  [&](int64_t begin, int64_t end) { row_kernels().segment_sum(by_chunk, begin, end); });

  // The sum over chunks is a segment sum with unit weights, again in chunks where it is long.
  const auto combine = [&]<class A>(A) {
    Buffer<Term<A>> terms(chunks);
    for (int64_t c = 0; c < chunks; ++c) terms[c] = {static_cast<uint32_t>(c), A{1}};
    Buffer<uint32_t> starts(static_cast<int64_t>(longs.size()) + 1);
    Buffer<int32_t> targets(static_cast<int64_t>(longs.size()));
    for (size_t i = 0; i < longs.size(); ++i) {
      starts[i] = static_cast<uint32_t>(longs[i].first_chunk);
      const int64_t segment = longs[i].segment;
      targets[i] = in_line                   ? static_cast<int32_t>(i)
                   : args.targets != nullptr ? args.targets[segment]
                                             : static_cast<int32_t>(segment);
    }
    starts[static_cast<int64_t>(longs.size())] = static_cast<uint32_t>(chunks);
    SegmentArgs whole = args;
    whole.terms = terms.data();
    whole.num_terms = chunks;
    whole.begin = starts.data();
    whole.end = starts.data() + 1;
    whole.targets = targets.data();
    whole.source_type = acc;
    whole.source = partial.data();
    sum_segments(whole, static_cast<int64_t>(longs.size()), parallel);
  };
  if (acc == DType::f64) {
    combine(double{});
  } else {
    combine(float{});
  }
}

// Segments in tasks of about equal work: a task takes those that start within its share of the terms.
// Empty segments count too, so the share is of segment starts once they outnumber the terms.
struct Shares {
  const SegmentArgs& args;
  int64_t segments, by_terms, by_segments, tasks;

  Shares(const SegmentArgs& a, int64_t n)
      : args(a),
        segments(n),
        by_terms(a.num_terms / kTermsPerTask + 1),
        by_segments(n / kTermsPerTask + 1),
        tasks(std::max(by_terms, by_segments)) {}

  int64_t first_of(int64_t task) const {
    if (task == tasks) return segments;
    if (by_segments > by_terms) return segments * task / tasks;
    const uint32_t at = static_cast<uint32_t>(args.num_terms * task / tasks);
    return std::lower_bound(args.begin, args.begin + segments, at) - args.begin;
  }
};

bool is_long(const SegmentArgs& args, int64_t s) { return args.end[s] - args.begin[s] > kChunk; }

// Runs sum(begin, end) over all segments, a task at a time; it tells whether some were long. Returns the
// long ones, ascending.
template <class Sum>
std::vector<int64_t> sum_short(const SegmentArgs& args, int64_t segments, const Parallel& parallel,
                               const Sum& sum) {
  const Shares shares(args, segments);
  const bool may_be_long = args.num_terms > kChunk;
  Buffer<char> has_long(may_be_long ? shares.tasks : 0);
  parallel.tasks(shares.tasks, [&](int64_t task) {
    const bool any_long = sum(shares.first_of(task), shares.first_of(task + 1));
    if (may_be_long) has_long[task] = any_long;
  });
  std::vector<int64_t> longs;
  for (int64_t task = 0; may_be_long && task < shares.tasks; ++task) {
    if (!has_long[task]) continue;
    for (int64_t s = shares.first_of(task); s < shares.first_of(task + 1); ++s) {
      if (is_long(args, s)) longs.push_back(s);
    }
  }
  return longs;
}

}  // namespace

void sum_segments(const SegmentArgs& args, int64_t segments, const Parallel& parallel) {
  if (segments == 0) return;
  const RowKernels& kernels = row_kernels();
  const std::vector<int64_t> longs = sum_short(args, segments, parallel, [&](int64_t begin, int64_t end) {
    return kernels.segment_sum(args, begin, end);
  });
  if (!longs.empty()) sum_long_segments(args, longs, /*in_line=*/false, parallel);
}

void sum_segments_to(const SegmentArgs& args, int64_t segments, const Parallel& parallel,
                     const TakeRows& take) {
  if (segments == 0) return;
  constexpr int64_t kTile = 64;  // segments whose sums stay in the first-level cache
  const RowKernels& kernels = row_kernels();
  const int64_t row_bytes = args.dim * static_cast<int64_t>(item_size(args.out_type));
  SegmentArgs plain = args;
  plain.targets = nullptr;
  plain.bypass_cache = false;
  const std::vector<int64_t> longs = sum_short(args, segments, parallel, [&](int64_t begin, int64_t end) {
    Buffer<char> rows(kTile * row_bytes);
    bool any_long = false;
    for (int64_t first = begin; first < end; first += kTile) {
      const int64_t past = std::min(end, first + kTile);
      SegmentArgs tile = plain;
      tile.out = rows.data();
      tile.out_first = first;
      const bool some_long = kernels.segment_sum(tile, first, past);
      any_long |= some_long;
      for (int64_t s = first, run = first; s <= past; ++s) {
        if (s < past && !(some_long && is_long(args, s))) continue;
        if (run < s) take(run, s, rows.data() + (run - first) * row_bytes);
        run = s + 1;
      }
    }
    return any_long;
  });
  if (longs.empty()) return;
  Buffer<char> rows(static_cast<int64_t>(longs.size()) * row_bytes);
  plain.out = rows.data();
  sum_long_segments(plain, longs, /*in_line=*/true, parallel);
  parallel.tasks(static_cast<int64_t>(longs.size()),
                 [&](int64_t i) { take(longs[i], longs[i] + 1, rows.data() + i * row_bytes); });
}

}  // namespace resemb
