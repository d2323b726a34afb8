// Events that arrive in batches: kept by user in blocks, spilled to disk past a memory limit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "graph/hash.h"
#include "graph/memory.h"
#include "graph/sequence.h"
#include "graph/spill.h"

namespace resemb::graph {

class EventStore {
 public:
  // memory: bytes of events and sequence to hold at most, negative: no limit. expected: events, a guess.
  // name: of the file in the folder that gets what is spilled, empty: it has none.
  EventStore(std::string folder, int64_t memory, int64_t expected, std::string name = {})
      : folder_(std::move(folder)),
        name_(std::move(name)),
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
  const std::string& folder() const { return folder_; }
  int64_t memory() const { return memory_; }
  int64_t held_bytes() const { return held_; }

  // Items are checked against [0, num_items) and the padding row; num_items < 0: against 2^31 - 2. Where that
  // fails, the store is of no more use.
  void add(const Events& events, int64_t num_items, int64_t padding) {
    constexpr int64_t chunk = 1 << 14;  // is read more than once, so it must fit the cache
    for (int64_t begin = 0; begin < events.count; begin += chunk) {
      const Events part = events.from(begin, std::min(chunk, events.count - begin));
      check(part, begin, num_items < 0 ? (int64_t{1} << 31) - 2 : num_items, padding);
      if (small_ && !fits_small(part)) {
        small_ = false;
        for (Bucket& bucket : buckets_of_user_) close(bucket);
      }
      if (small_)
        scatter<Small>(part);
      else
        scatter<Record>(part);
      any_ = true;
    }
    floating_ = floating_ || events.float_time;
    count_ += events.count;
  }

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

  // What follows reads the events, once all were added. A bucket holds all events of its users.
  int64_t buckets() const { return buckets_; }
  // [buckets + 1]: where each bucket's events begin, were they in one line.
  std::vector<int64_t> close() {
    std::vector<int64_t> offsets(buckets_ + 1, 0);
    for (int64_t b = 0; b < buckets_; ++b) {
      Bucket& bucket = buckets_of_user_[b];
      close(bucket);
      int64_t size = 0;
      for (const Extent& extent : bucket.extents) size += extent.size;
      for (const Block& block : bucket.blocks) size += block.size;
      offsets[b + 1] = offsets[b] + size;
    }
    return offsets;
  }

  struct TimeOf {
    uint64_t base;
    uint64_t operator()(const Record& record) const { return record.time; }
    uint64_t operator()(const Small& record) const { return base + record.time; }
  };

  TimeOf time_of() const { return {base_}; }

  // Calls visit(spans), where spans(use) calls use(records, size) for all records of a bucket in order of
  // arrival, as often as it is called. read: room for what lies on disk.
  template <class Visit>
  void visit(int64_t bucket_number, std::vector<std::byte>& read, const Visit& visit) const {
    const Bucket& bucket = buckets_of_user_[bucket_number];
    int64_t bytes = 0;
    for (const Extent& extent : bucket.extents) bytes += extent.bytes();
    read.resize(bytes);
    std::byte* to = read.data();
    for (const Extent& extent : bucket.extents) {
      file_->read(to, extent.bytes(), extent.at);
      if (!name_.empty() && checksum(to, extent.bytes()) != extent.sum)
        throw DamagedFile(folder_ + "/" + name_);
      to += extent.bytes();
    }
    visit([&](const auto& use) {
      const std::byte* from = read.data();
      for (const Extent& extent : bucket.extents) {
        use_records(from, extent, use);
        from += extent.bytes();
      }
      for (const Block& block : bucket.blocks) use_records(block.data, block, use);
    });
  }

  // The events go to disk, and their memory is freed.
  void spill_all() {
    spill();
    free_blocks();
  }
  void count_spilled(int64_t bytes) { spilled_ += bytes; }

  // All events so far are in the file, and these numbers let another store of the same `expected` go on.
  std::vector<int64_t> checkpoint() {
    spill();
    std::vector<int64_t> state{buckets_,
                               static_cast<int64_t>(base_),
                               (floating_ ? 1 : 0) | (small_ ? 2 : 0) | (any_ ? 4 : 0),
                               count_,
                               largest_item_,
                               spilled_,
                               file_ ? file_->size() : 0};
    for (const Bucket& bucket : buckets_of_user_) {
      state.push_back(static_cast<int64_t>(bucket.extents.size()));
      for (const Extent& extent : bucket.extents)
        state.insert(state.end(),
                     {extent.size, extent.small ? 1 : 0, extent.at, static_cast<int64_t>(extent.sum)});
    }
    return state;
  }
  // Takes up what checkpoint() gave; throws std::out_of_range where that is of another kind.
  void restore(const std::vector<int64_t>& state) {
    size_t at = 0;
    const auto next = [&] { return state.at(at++); };
    if (next() != buckets_) throw std::out_of_range("buckets");
    base_ = static_cast<uint64_t>(next());
    const int64_t flags = next();
    floating_ = flags & 1, small_ = flags & 2, any_ = flags & 4;
    count_ = next(), largest_item_ = next(), spilled_ = next();
    open_file(next());
    for (Bucket& bucket : buckets_of_user_)
      for (int64_t left = next(); left > 0; --left) {
        const int64_t size = next(), small = next(), place = next();
        bucket.extents.push_back({{size, small != 0}, place, static_cast<uint64_t>(next())});
      }
  }
  // The events are not needed again.
  void forget_events() {
    buckets_of_user_.clear();
    file_.reset();
  }
  void free_blocks() {
    slabs_.clear();
    held_ = next_block_ = 0;
  }
  // Moves slabs of the blocks to `spare` while `bytes` are wanted; the rest is freed.
  void give_blocks(double bytes, Spare& spare) {
    for (auto& slab : slabs_) {
      if (bytes <= 0) break;
      spare.add(std::move(slab), slab_bytes());
      bytes -= static_cast<double>(slab_bytes());
    }
    free_blocks();
  }

 private:
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
    int64_t at;    // in the file
    uint64_t sum;  // checksum, of a file with a name
  };
  struct Bucket {
    std::vector<Extent> extents;  // come before the blocks
    std::vector<Block> blocks;
    std::byte *next = nullptr, *end = nullptr;  // room in the last block, if that is open
  };

  // first: index of the first event in messages.
  void check(const Events& events, int64_t first, int64_t top, int64_t padding) {
    int64_t low = 0, high = -1;
    bool padded = false, finite = true;
    for (int64_t i = 0; i < events.count; ++i) {
      low = std::min(low, events.item[i]);
      high = std::max(high, events.item[i]);
      padded |= events.item[i] == padding;
    }
    for (int64_t i = 0; events.float_time && i < events.count; ++i)
      finite &= std::isfinite(events.float_time[i]);
    largest_item_ = std::max(largest_item_, high);
    if (low >= 0 && high < top && (!padded || padding < 0) && finite) return;
    for (int64_t i = 0;; ++i) {
      const int64_t item = events.item[i];
      if (item < 0 || item >= top) throw BadEvent(BadEvent::Kind::item_range, first + i);
      if (item == padding) throw BadEvent(BadEvent::Kind::padding_item, first + i);
      if (events.float_time && !std::isfinite(events.float_time[i]))
        throw BadEvent(BadEvent::Kind::time_not_finite, first + i);
    }
  }

  // Whether events can be small records. The first ones place base_ so that times on both sides fit.
  bool fits_small(const Events& events) {
    uint64_t users = 0, low = ~uint64_t{0}, high = 0;
    for (int64_t i = 0; i < events.count; ++i) users |= static_cast<uint64_t>(events.user[i]);
    with_keys(events, [&](const auto& key_of) {
      for (int64_t i = 0; i < events.count; ++i) {
        const uint64_t key = key_of(i);
        low = std::min(low, key);
        high = std::max(high, key);
      }
    });
    if (!any_) base_ = low - std::min(low, uint64_t{1} << 31);
    return users >> 32 == 0 && low >= base_ && (high - base_) >> 32 == 0;
  }

  // use(key_of), where key_of(i) is events.time_key(i) without a branch.
  template <class Use>
  static void with_keys(const Events& events, const Use& use) {
    if (events.int_time)
      use([time = events.int_time](int64_t i) { return key_of_time(time[i]); });
    else if (events.float_time)
      use([time = events.float_time](int64_t i) { return key_of_time(time[i]); });
    else
      use([](int64_t) { return uint64_t{0}; });
  }

  template <class R>
  void scatter(const Events& events) {
    with_keys(events, [&](const auto& key_of) {
      // Copies, as the compiler must take it that a record could be written over the members.
      const int64_t *user = events.user, *item = events.item, count = events.count;
      const uint64_t base = base_, buckets = static_cast<uint64_t>(buckets_);
      Bucket* const bucket_at = buckets_of_user_.data();
      for (int64_t i = 0; i < count; ++i) {
        const uint64_t who = static_cast<uint64_t>(user[i]), key = key_of(i);
        const Word what = static_cast<Word>(item[i]);
        Bucket& bucket = bucket_at[bucket_of(who, buckets)];
        if (bucket.next == bucket.end) [[unlikely]]
          open<R>(bucket);
        std::byte* to = bucket.next;
        bucket.next = to + sizeof(R);
        if constexpr (std::is_same_v<R, Small>) {
          const uint64_t both = who | (key - base) << 32;  // little-endian: user, then time
          std::memcpy(to, &both, sizeof(both));
        } else {
          std::memcpy(to, &who, sizeof(who));
          std::memcpy(to + offsetof(Record, time), &key, sizeof(key));
        }
        std::memcpy(to + offsetof(R, item), &what, sizeof(what));
      }
    });
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

  // Blocks that begin in different sets of the innermost cache, since all fill at about one speed.
  int64_t block_bytes() const { return block_ * kRecordBytes + (block_ < 256 ? 0 : 448); }
  int64_t slab_bytes() const { return slab_ / block_ * block_bytes(); }

  // Blocks lie in slabs, so that many of them share a page.
  std::byte* new_block() {
    if (next_block_ == static_cast<int64_t>(slabs_.size()) * (slab_ / block_))
      slabs_.push_back(large_array<std::byte>(slab_bytes()));
    const int64_t at = next_block_++;
    return slabs_[at / (slab_ / block_)].get() + at % (slab_ / block_) * block_bytes();
  }

  static uint64_t bucket_of(uint64_t user, uint64_t buckets) {
    const uint64_t mixed = (user + 0x632be59bd9b4e019u) * 0x9e3779b97f4a7c15u;
    return (mixed >> 32) * buckets >> 32;
  }

  void open_file(int64_t size) {
    file_ = name_.empty() ? std::make_unique<SpillFile>(folder_)
                          : std::make_unique<SpillFile>(folder_, name_, size);
  }

  void spill() {
    if (held_ == 0) return;
    if (!file_) open_file(0);
    for (Bucket& bucket : buckets_of_user_) {
      close(bucket);
      for (const Block& block : bucket.blocks) {
        const int64_t at = file_->append(block.data, block.bytes());
        spilled_ += block.bytes();
        Extent* last = bucket.extents.empty() ? nullptr : &bucket.extents.back();
        if (!last || last->small != block.small || last->at + last->bytes() != at) {
          bucket.extents.push_back({{0, block.small}, at, 0});
          last = &bucket.extents.back();
        }
        if (!name_.empty()) last->sum += checksum(block.data, block.bytes(), last->bytes() / 4);
        last->size += block.size;
      }
      bucket.blocks.clear();
    }
    held_ = next_block_ = 0;
  }

  template <class Use>
  static void use_records(const std::byte* data, const Run& run, const Use& use) {
    if (run.small)
      use(reinterpret_cast<const Small*>(data), run.size);
    else
      use(reinterpret_cast<const Record*>(data), run.size);
  }

  const std::string folder_, name_;
  const int64_t memory_, buckets_, block_, slab_;  // block_, slab_: records
  std::vector<Bucket> buckets_of_user_ = std::vector<Bucket>(buckets_);
  std::vector<std::unique_ptr<std::byte[]>> slabs_;
  int64_t next_block_ = 0;
  std::unique_ptr<SpillFile> file_;
  int64_t held_ = 0, count_ = 0, largest_item_ = -1, spilled_ = 0;
  uint64_t base_ = 0;  // of small records' times, a key
  bool floating_ = false, small_ = true, any_ = false;
};

}  // namespace resemb::graph
