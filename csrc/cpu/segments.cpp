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

// Sums long segments chunk by chunk into accumulator rows, then each segment's chunks in order.
void sum_long_segments(const SegmentArgs& args, const std::vector<int64_t>& segments,
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
      targets[i] =
          args.targets != nullptr ? args.targets[longs[i].segment] : static_cast<int32_t>(longs[i].segment);
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

}  // namespace

void sum_segments(const SegmentArgs& args, int64_t segments, const Parallel& parallel) {
  if (segments == 0) return;
  // Segments are dealt out by terms, a task taking those that start within its share. Empty segments
  // count too, so the share is of segment starts once they outnumber the terms.
  const int64_t by_terms = args.num_terms / kTermsPerTask + 1;
  const int64_t by_segments = segments / kTermsPerTask + 1;
  const int64_t tasks = std::max(by_terms, by_segments);
  const auto first_of = [&](int64_t task) -> int64_t {
    if (task == tasks) return segments;
    if (by_segments > by_terms) return segments * task / tasks;
    const uint32_t at = static_cast<uint32_t>(args.num_terms * task / tasks);
    return std::lower_bound(args.begin, args.begin + segments, at) - args.begin;
  };
  const int64_t longest_list = args.num_terms / kChunk;
  Buffer<char> has_long(longest_list > 0 ? tasks : 0);
  const RowKernels& kernels = row_kernels();
  parallel.tasks(tasks, [&](int64_t task) {
    const int64_t begin = first_of(task), end = first_of(task + 1);
    const bool any_long = kernels.segment_sum(args, begin, end);
    if (longest_list > 0) has_long[task] = any_long;
  });
  if (longest_list == 0) return;
  std::vector<int64_t> longs;
  for (int64_t task = 0; task < tasks; ++task) {
    if (!has_long[task]) continue;
    for (int64_t s = first_of(task); s < first_of(task + 1); ++s) {
      if (args.end[s] - args.begin[s] > kChunk) longs.push_back(s);
    }
  }
  if (!longs.empty()) sum_long_segments(args, longs, parallel);
}

}  // namespace resemb
