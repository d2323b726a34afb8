#include "cpu/segments.h"

#include <algorithm>
#include <vector>

#include "cpu/buffer.h"

namespace resemb::cpu {
namespace {

constexpr int64_t kTermsPerTask = 8192;

DType acc_of(const SegmentArgs& args) {
  return accumulator(args.source_type == DType::f64 ? DType::f64 : DType::f32);
}

bool sum_pieces(const SegmentArgs& args, int64_t begin, int64_t end) {
  return kernels().segment_sum(args, begin, end);
}
bool sum_pieces(const AttentionSegmentArgs& args, int64_t begin, int64_t end) {
  return kernels().attention_segment_sum(args, begin, end);
}

// Long segments by chunks: the chunks' bounds, and the number of the first one of each segment.
struct Chunks {
  std::vector<uint32_t> begins, ends, starts;

  Chunks(const SegmentArgs& args, const std::vector<int64_t>& segments) {
    for (const int64_t s : segments) {
      starts.push_back(static_cast<uint32_t>(begins.size()));
      for (int64_t t = args.begin[s]; t < args.end[s]; t += kChunk) {
        begins.push_back(static_cast<uint32_t>(t));
        ends.push_back(static_cast<uint32_t>(std::min<int64_t>(t + kChunk, args.end[s])));
      }
    }
    starts.push_back(static_cast<uint32_t>(begins.size()));
  }
  int64_t count() const { return static_cast<int64_t>(begins.size()); }
};

// The sums of all chunks, [chunks, width] acc.
template <class Args>
Buffer<char> sum_chunks(Args args, const Chunks& chunks, int64_t width, const Parallel& parallel) {
  const DType acc = acc_of(args);
  Buffer<char> partial(chunks.count() * width * static_cast<int64_t>(item_size(acc)));
  args.begin = chunks.begins.data();
  args.end = chunks.ends.data();
  args.targets = nullptr;
  args.out_type = acc;
  args.out = partial.data();
  args.out_first = 0;
  args.bypass_cache = false;
  parallel.ranges(chunks.count(), 8, [&](int64_t begin, int64_t end) { sum_pieces(args, begin, end); });
  return partial;
}

// Adds up each long segment's chunks: a segment sum with unit weights, again in chunks where it is long.
void combine_chunks(const Chunks& chunks, const Buffer<char>& partial, SegmentArgs whole,
                    const Parallel& parallel) {
  const auto combine = [&]<class A>(A) {
    Buffer<Term<A>> terms(chunks.count());
    for (int64_t c = 0; c < chunks.count(); ++c) terms[c] = {static_cast<uint32_t>(c), A{1}};
    whole.terms = terms.data();
    whole.num_terms = chunks.count();
    whole.begin = chunks.starts.data();
    whole.end = chunks.starts.data() + 1;
    whole.source = partial.data();
    sum_segments(whole, static_cast<int64_t>(chunks.starts.size()) - 1, parallel);
  };
  if (whole.source_type == DType::f64) {
    combine(double{});
  } else {
    combine(float{});
  }
}

// The rows of args.out of long segments: where they belong, or with `in_line` row i for the i-th of them.
Buffer<int32_t> targets_of(const SegmentArgs& args, const std::vector<int64_t>& segments, bool in_line) {
  Buffer<int32_t> targets(static_cast<int64_t>(segments.size()));
  for (size_t i = 0; i < segments.size(); ++i) {
    targets[i] = in_line                   ? static_cast<int32_t>(i)
                 : args.targets != nullptr ? args.targets[segments[i]]
                                           : static_cast<int32_t>(segments[i]);
  }
  return targets;
}

// Sums long segments chunk by chunk into accumulator rows, then each segment's chunks in order.
void sum_long_segments(const SegmentArgs& args, const std::vector<int64_t>& segments, bool in_line,
                       const Parallel& parallel) {
  const Chunks chunks(args, segments);
  const Buffer<char> partial = sum_chunks(args, chunks, args.dim, parallel);
  const Buffer<int32_t> targets = targets_of(args, segments, in_line);
  SegmentArgs whole = args;
  whole.targets = targets.data();
  whole.source_type = acc_of(args);
  combine_chunks(chunks, partial, whole, parallel);
}

void sum_long_segments(const SegmentArgs& args, const std::vector<int64_t>& segments,
                       const Parallel& parallel) {
  sum_long_segments(args, segments, /*in_line=*/false, parallel);
}

// What the kernel adds to a segment's sums once they are whole: see AttentionSegmentArgs.
template <class A>
void finish_rows(const AttentionSegmentArgs& args, const std::vector<int64_t>& segments, const A* parts,
                 A* rows) {
  const int64_t dim = args.dim, heads = args.link.heads, width = dim / heads;
  const A *a_src = static_cast<const A*>(args.link.a_src), *a_dst = static_cast<const A*>(args.link.a_dst);
  for (size_t i = 0; i < segments.size(); ++i) {
    const A* sums = parts + static_cast<int64_t>(i) * (dim + heads);
    A* row = rows + static_cast<int64_t>(i) * dim;
    for (int64_t c = 0; c < dim; ++c) row[c] = sums[c] + sums[dim + c / width] * a_dst[c];
    const int32_t item = args.items[segments[i]];
    const int64_t own =
        std::lower_bound(args.unique_ids, args.unique_ids + args.num_unique, item) - args.unique_ids;
    if (own == args.num_unique || args.unique_ids[own] != item) continue;
    const A* scores = static_cast<const A*>(args.row_scores) + own * heads;
    for (int64_t c = 0; c < dim; ++c) row[c] += scores[c / width] * a_src[c];
  }
}

void sum_long_segments(const AttentionSegmentArgs& args, const std::vector<int64_t>& segments,
                       const Parallel& parallel) {
  const int64_t width = args.dim + args.link.heads, count = static_cast<int64_t>(segments.size());
  const DType acc = acc_of(args);
  const int64_t item = static_cast<int64_t>(item_size(acc));
  AttentionSegmentArgs by_parts = args;
  by_parts.parts = true;
  const Chunks chunks(args, segments);
  const Buffer<char> partial = sum_chunks(by_parts, chunks, width, parallel);
  Buffer<char> parts(count * width * item), rows(count * args.dim * item);
  SegmentArgs whole{};
  whole.dim = width;
  whole.source_type = whole.out_type = acc;
  whole.out = parts.data();
  combine_chunks(chunks, partial, whole, parallel);
  if (acc == DType::f64) {
    finish_rows(args, segments, reinterpret_cast<const double*>(parts.data()),
                reinterpret_cast<double*>(rows.data()));
  } else {
    finish_rows(args, segments, reinterpret_cast<const float*>(parts.data()),
                reinterpret_cast<float*>(rows.data()));
  }
  const Buffer<int32_t> targets = targets_of(args, segments, /*in_line=*/false);
  const CopyArgs copy{nullptr,       targets.data(), args.dim, accumulator(args.out_type),
                      args.out_type, rows.data(),    args.out, false};
  kernels().copy(copy, 0, count);
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

template <class Args>
void sum_all(const Args& args, int64_t segments, const Parallel& parallel) {
  if (segments == 0) return;
  const std::vector<int64_t> longs = sum_short(
      args, segments, parallel, [&](int64_t begin, int64_t end) { return sum_pieces(args, begin, end); });
  if (!longs.empty()) sum_long_segments(args, longs, parallel);
}

}  // namespace

void sum_segments(const SegmentArgs& args, int64_t segments, const Parallel& parallel) {
  sum_all(args, segments, parallel);
}
void sum_segments(const AttentionSegmentArgs& args, int64_t segments, const Parallel& parallel) {
  sum_all(args, segments, parallel);
}

void sum_segments_to(const SegmentArgs& args, int64_t segments, const Parallel& parallel,
                     const TakeRows& take) {
  if (segments == 0) return;
  constexpr int64_t kTile = 64;  // segments whose sums stay in the first-level cache
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
      const bool some_long = sum_pieces(tile, first, past);
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

}  // namespace resemb::cpu
