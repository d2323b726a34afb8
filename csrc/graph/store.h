// Events that arrive in batches: kept by user in blocks, spilled to disk past a memory limit.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "graph/builder.h"
#include "graph/memory.h"
#include "graph/ordering.h"
#include "graph/passes.h"
#include "graph/spill.h"

namespace resemb::graph {

// The last `window` events of every user, users ascending.
struct Tails {
  std::vector<int64_t> user, item;
  std::vector<uint64_t> time;  // keys
};

class EventStore {
 public:
  using Word = uint32_t;

  // memory: bytes of events and sequence to hold at most, negative: no limit. expected: events, a guess.
  EventStore(std::string folder, int64_t memory, int64_t expected)
      : folder_(std::move(folder)),
        memory_(memory),
        buckets_(std::clamp<int64_t>(expected >> 16, 16, 1024)),
        block_(std::clamp<int64_t>(
            (memory < 0 ? expected : std::min(expected, memory / kRecordBytes)) / buckets_ / 16, 64, 4096)),
        slab_(std::clamp<int64_t>((memory < 0 ? expected : std::min(expected, memory / kRecordBytes)) / 16,
                                  block_, int64_t{1} << 20)) {}

  int64_t count() const { return count_; }
  int64_t largest_item() const { return largest_item_; }
  bool floating() const { return floating_; }
  int64_t spilled_bytes() const { return spilled_; }

  // Items are checked against [0, num_items) and the padding row; num_items < 0: against 2^31 - 2.
  void add(const Events& events, int64_t num_items, int64_t padding) {
    const int64_t top = num_items < 0 ? (int64_t{1} << 31) - 2 : num_items;
    for (int64_t i = 0; i < events.count; ++i) {
      const int64_t item = events.item[i];
      if (item < 0 || item >= top) throw BadEvent(BadEvent::Kind::item_range, i);
      if (item == padding) throw BadEvent(BadEvent::Kind::padding_item, i);
      if (events.float_time && !std::isfinite(events.float_time[i]))
        throw BadEvent(BadEvent::Kind::time_not_finite, i);
      largest_item_ = std::max(largest_item_, item);
    }
    floating_ = floating_ || events.float_time;
    if (small_ && !fits_small(events)) {
      small_ = false;
      for (Bucket& bucket : buckets_of_user_) close(bucket);
    }
    if (small_)
      scatter<Small>(events);
    else
      scatter<Record>(events);
    count_ += events.count;
  }

  // Uses up the events. Rows: GraphRows<Narrow> or CountRows<Narrow>.
  template <class Rows>
  Csr<int32_t, typename Rows::Value> build(const BuildOptions& options, Workers& workers, Tails* tails,
                                           std::unique_ptr<Word[]>& occurrences) {
    occurrences = std::make_unique<Word[]>(options.num_items);
    const bool reach = options.limits.gap();
    const int64_t sequence_bytes = count_ * int64_t{sizeof(Word)} * (reach ? 2 : 1);
    const bool on_disk = memory_ >= 0 && sequence_bytes + count_ * int64_t{sizeof(Word)} > memory_;
    if (memory_ >= 0 && held_ + (on_disk ? 0 : sequence_bytes) > memory_) {
      spill();
      drop_blocks();
    }
    Collector<int32_t, typename Rows::Value> collector(options.num_items, workers.threads());
    if (on_disk) {
      SequenceFile file(folder_, count_, reach);
      spilled_ += sequence_bytes;
      sort(options, workers, occurrences.get(), tails,
           [&](int64_t at, const Word* entries, const Word* far, int64_t size) {
             file.write(at, entries, far, size);
           });
      drop_blocks();
      Tables<Word> tables(options, occurrences.get());
      if (needs_margins(options.rows.weighting)) file.margins(tables, options, workers);
      file.rows<Rows>(tables, options, workers, memory_, collector);
    } else {
      Sequence<Word> sequence;
      sequence.count = count_;
      sequence.entries = large_array<Word>(count_);
      if (reach) sequence.reach = large_array<Word>(count_);
      sort(options, workers, occurrences.get(), tails,
           [&](int64_t at, const Word* entries, const Word* far, int64_t size) {
             std::copy_n(entries, size, sequence.entries.get() + at);
             if (far) std::copy_n(far, size, sequence.reach.get() + at);
           });
      spare_blocks(options, collector);
      Tables<Word> tables(options, occurrences.get());
      if (needs_margins(options.rows.weighting)) {
        open_margins(tables, options);
        workers.ranges(count_, detail::kEventGrain, [&](int64_t begin, int64_t end) {
          add_margins(sequence, begin, end, options.rows, tables.row_mass.get(), tables.column_mass.get());
        });
        close_margins(tables, options);
      }
      build_rows<Narrow, Rows>(workers, sequence, tables, 0, options.num_items, options, collector);
    }
    return collector.join(workers);
  }

 private:
#pragma pack(push, 4)
  struct Record {
    int64_t user;
    uint64_t time;  // key
    Word item;
  };
#pragma pack(pop)
  // Of a user in [0, 2^32) and a time less than 2^32 above base_.
  struct Small {
    Word user, time, item;
  };
  static constexpr int64_t kRecordBytes = sizeof(Record);

  struct Run {  // of records of one kind
    int64_t size;
    bool small;
    int64_t bytes() const { return size * static_cast<int64_t>(small ? sizeof(Small) : sizeof(Record)); }
  };
  struct Block : Run {  // size: known once it is closed
    std::byte* data;
  };
  struct Extent : Run {
    int64_t at;  // in the file
  };
  struct Bucket {
    std::vector<Extent> extents;  // come before the blocks
    std::vector<Block> blocks;
    std::byte *next = nullptr, *end = nullptr;  // room in the last block, if that is open
  };

  // Whether events can be small records. The first ones place base_ so that times on both sides fit.
  bool fits_small(const Events& events) {
    uint64_t users = 0, low = ~uint64_t{0}, high = 0;
    for (int64_t i = 0; i < events.count; ++i) {
      const uint64_t key = events.time_key(i);
      users |= static_cast<uint64_t>(events.user[i]);
      low = std::min(low, key);
      high = std::max(high, key);
    }
    if (events.count == 0) return true;
    if (count_ == 0) base_ = low - std::min(low, uint64_t{1} << 31);
    return users >> 32 == 0 && low >= base_ && (high - base_) >> 32 == 0;
  }

  template <class R>
  void scatter(const Events& events) {
    for (int64_t i = 0; i < events.count; ++i) {
      Bucket& bucket = buckets_of_user_[bucket_of(events.user[i])];
      if (bucket.next == bucket.end) open<R>(bucket);
      R record;
      if constexpr (std::is_same_v<R, Small>)
        record = {static_cast<Word>(events.user[i]), static_cast<Word>(events.time_key(i) - base_),
                  static_cast<Word>(events.item[i])};
      else
        record = {events.user[i], events.time_key(i), static_cast<Word>(events.item[i])};
      std::memcpy(bucket.next, &record, sizeof(R));
      bucket.next += sizeof(R);
    }
  }

  template <class R>
  void open(Bucket& bucket) {
    close(bucket);
    if (memory_ >= 0 && held_ + block_ * kRecordBytes > memory_) spill();
    std::byte* data = new_block();
    bucket.blocks.push_back({{0, std::is_same_v<R, Small>}, data});
    bucket.next = data;
    bucket.end =
        data + block_ * kRecordBytes / static_cast<int64_t>(sizeof(R)) * static_cast<int64_t>(sizeof(R));
    held_ += block_ * kRecordBytes;
  }

  static void close(Bucket& bucket) {
    if (!bucket.next) return;
    Block& block = bucket.blocks.back();
    block.size =
        (bucket.next - block.data) / static_cast<int64_t>(block.small ? sizeof(Small) : sizeof(Record));
    bucket.next = bucket.end = nullptr;
  }

  int64_t slab_bytes() const { return slab_ / block_ * block_ * kRecordBytes; }

  // Blocks lie in slabs, so that many of them share a page.
  std::byte* new_block() {
    if (next_block_ == static_cast<int64_t>(slabs_.size()) * (slab_ / block_))
      slabs_.push_back(large_array<std::byte>(slab_bytes()));
    const int64_t at = next_block_++;
    return slabs_[at / (slab_ / block_)].get() + at % (slab_ / block_) * block_ * kRecordBytes;
  }

  int64_t bucket_of(int64_t user) const {
    const uint64_t mixed = (static_cast<uint64_t>(user) + 0x632be59bd9b4e019u) * 0x9e3779b97f4a7c15u;
    return static_cast<int64_t>((mixed >> 32) * static_cast<uint64_t>(buckets_) >> 32);
  }

  void spill() {
    if (held_ == 0) return;
    if (!file_) file_ = std::make_unique<SpillFile>(folder_);
    for (Bucket& bucket : buckets_of_user_) {
      close(bucket);
      for (const Block& block : bucket.blocks) {
        const int64_t at = file_->append(block.data, block.bytes());
        spilled_ += block.bytes();
        Extent* last = bucket.extents.empty() ? nullptr : &bucket.extents.back();
        if (last && last->small == block.small && last->at + last->bytes() == at)
          last->size += block.size;
        else
          bucket.extents.push_back({{block.size, block.small}, at});
      }
      bucket.blocks.clear();
    }
    held_ = next_block_ = 0;
  }

  // Writes every bucket's events in order: write(position, entries, reach or null, size).
  template <class Write>
  void sort(const BuildOptions& options, Workers& workers, Word* occurrences, Tails* tails,
            const Write& write) {
    std::vector<int64_t> offsets(buckets_ + 1, 0);
    for (int64_t b = 0; b < buckets_; ++b) {
      Bucket& bucket = buckets_of_user_[b];
      close(bucket);
      int64_t size = 0;
      for (const Extent& extent : bucket.extents) size += extent.size;
      for (const Block& block : bucket.blocks) size += block.size;
      offsets[b + 1] = offsets[b] + size;
    }
    std::vector<Tails> tail_of(tails ? buckets_ : 0);
    struct Scratch {
      std::vector<std::byte> read;
      Ordering<Word> ordering;
      std::vector<Word> entries, reach;
    };
    std::vector<Scratch> scratch(workers.threads());
    workers.run(buckets_, [&](int64_t b, int worker) {
      Scratch& s = scratch[worker];
      const Bucket& bucket = buckets_of_user_[b];
      const int64_t size = offsets[b + 1] - offsets[b];
      int64_t bytes = 0;
      for (const Extent& extent : bucket.extents) bytes += extent.bytes();
      s.read.resize(bytes);
      std::byte* to = s.read.data();
      for (const Extent& extent : bucket.extents) {
        file_->read(to, extent.bytes(), extent.at);
        to += extent.bytes();
      }
      s.ordering.order(
          size,
          [&](const auto& use) {
            const std::byte* from = s.read.data();
            for (const Extent& extent : bucket.extents) {
              use_records(from, extent, use);
              from += extent.bytes();
            }
            for (const Block& block : bucket.blocks) use_records(block.data, block, use);
          },
          TimeOf{base_});
      s.entries.resize(size);
      if (options.limits.gap()) s.reach.resize(size);
      const auto& events = s.ordering.events();
      write_entries(
          int64_t{0}, size, size, options.limits, floating_, options.rows.window,
          [&](int64_t r) { return events[r].user; }, [&](int64_t r) { return events[r].time; },
          [&](int64_t r) { return events[r].item; }, s.entries.data(), s.reach.data());
      for (int64_t r = 0; r < size; ++r)
        std::atomic_ref(occurrences[events[r].item]).fetch_add(1, std::memory_order_relaxed);
      write(offsets[b], s.entries.data(), options.limits.gap() ? s.reach.data() : nullptr, size);
      if (tails) keep_tails(s.ordering, options.rows.window, tail_of[b]);
      workers.advance(size);
    });
    buckets_of_user_.clear();
    file_.reset();
    if (tails) join_tails(tail_of, *tails);
  }

  struct TimeOf {
    uint64_t base;
    uint64_t operator()(const Record& record) const { return record.time; }
    uint64_t operator()(const Small& record) const { return base + record.time; }
  };

  template <class Use>
  static void use_records(const std::byte* data, const Run& run, const Use& use) {
    if (run.small)
      use(reinterpret_cast<const Small*>(data), run.size);
    else
      use(reinterpret_cast<const Record*>(data), run.size);
  }

  void drop_blocks() {
    slabs_.clear();
    held_ = next_block_ = 0;
  }

  // The events' memory for rows of at most top_k + 1 entries; what they cannot need is freed.
  template <class Neighbor, class Value>
  void spare_blocks(const BuildOptions& options, Collector<Neighbor, Value>& collector) {
    const double pairs = 2.0 * static_cast<double>(options.rows.window) * static_cast<double>(count_);
    const double rows = static_cast<double>(options.num_items);
    double bytes = std::min((static_cast<double>(options.rows.top_k) + 1) * rows, pairs + rows) *
                   (sizeof(Neighbor) + sizeof(Value));
    for (auto& slab : slabs_) {
      if (bytes <= 0) break;
      collector.spare.add(std::move(slab), slab_bytes());
      bytes -= static_cast<double>(slab_bytes());
    }
    drop_blocks();
  }

  static void keep_tails(const Ordering<Word>& ordering, int64_t window, Tails& out) {
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
  static void join_tails(const std::vector<Tails>& parts, Tails& out) {
    std::vector<std::tuple<int64_t, int64_t, uint64_t>> rows;
    for (const Tails& part : parts)
      for (size_t r = 0; r < part.user.size(); ++r)
        rows.emplace_back(part.user[r], part.item[r], part.time[r]);
    std::stable_sort(rows.begin(), rows.end(),
                     [](const auto& a, const auto& b) { return std::get<0>(a) < std::get<0>(b); });
    for (const auto& [user, item, time] : rows) {
      out.user.push_back(user);
      out.item.push_back(item);
      out.time.push_back(time);
    }
  }

  const std::string folder_;
  const int64_t memory_, buckets_, block_, slab_;  // block_, slab_: records
  std::vector<Bucket> buckets_of_user_ = std::vector<Bucket>(buckets_);
  std::vector<std::unique_ptr<std::byte[]>> slabs_;
  int64_t next_block_ = 0;
  std::unique_ptr<SpillFile> file_;
  int64_t held_ = 0, count_ = 0, largest_item_ = -1, spilled_ = 0;
  uint64_t base_ = 0;  // of small records' times, a key
  bool floating_ = false, small_ = true;
};

}  // namespace resemb::graph
