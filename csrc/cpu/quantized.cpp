// Lookups and bags of a served table on the CPU.
#include "common/quantized.h"

#include <atomic>
#include <stdexcept>
#include <string>

#include "cpu/backend.h"
#include "cpu/kernels.h"

namespace resemb::cpu {
namespace {

constexpr int64_t kPositionsPerTask = 2048;

// The smallest of the positions that tasks find bad.
class FirstBad {
 public:
  void add(int64_t position) {
    int64_t seen = first_.load();
    while (position >= 0 && (seen < 0 || position < seen) && !first_.compare_exchange_weak(seen, position)) {
    }
  }
  int64_t position() const { return first_.load(); }

 private:
  std::atomic<int64_t> first_{-1};
};

// Says why the row at a position is nowhere.
[[noreturn]] void fail_position(const ServedRows& x, int64_t position) {
  const int64_t id = x.ids[position];
  if (id < 0 || id >= x.rows) {
    throw std::out_of_range("ids: " + std::to_string(id) + " at position " + std::to_string(position) +
                            "; the table has " + std::to_string(x.rows) +
                            " rows and no out-of-vocabulary row");
  }
  throw std::invalid_argument("bits: row " + std::to_string(id) + " lies neither in the base's " +
                              std::to_string(x.base_rows) + " rows nor in the overlay's " +
                              std::to_string(x.overlay_rows));
}

void check_offsets(const ServedBags& x) {
  if (x.offsets == nullptr || x.num_bags == 0) return;
  if (x.offsets[0] != 0) {
    throw std::invalid_argument("offsets: start at " + std::to_string(x.offsets[0]) + "; expected 0");
  }
  for (int64_t b = 0; b < x.num_bags; ++b) {
    if (x.end(b) < x.begin(b)) {
      throw std::invalid_argument("offsets: fall from " + std::to_string(x.begin(b)) + " to " +
                                  std::to_string(x.end(b)) + " at " + std::to_string(b + 1) +
                                  "; expected ascending values, at most " + std::to_string(x.ids.count) +
                                  ", the number of ids");
    }
  }
  const int64_t past = x.end(x.num_bags - 1);
  if (past > x.ids.count) {
    throw std::invalid_argument("offsets: end at " + std::to_string(past) + "; expected at most " +
                                std::to_string(x.ids.count) + ", the number of ids");
  }
}

}  // namespace

void Backend::read_rows(const ServedRows& x) {
  FirstBad bad;
  parallel_.ranges(x.ids.count, kPositionsPerTask,
                   [&](int64_t begin, int64_t end) { bad.add(kernels().read_rows(x, begin, end)); });
  if (bad.position() >= 0) fail_position(x, bad.position());
}

void Backend::pool_rows(const ServedBags& x) {
  check_offsets(x);
  FirstBad bad;
  const int64_t each = x.num_bags > 0 ? x.ids.count / x.num_bags + 1 : 1;
  const int64_t bags = each < kPositionsPerTask ? kPositionsPerTask / each : 1;
  parallel_.ranges(x.num_bags, bags,
                   [&](int64_t begin, int64_t end) { bad.add(kernels().pool_rows(x, begin, end)); });
  if (bad.position() >= 0) fail_position(x, bad.position());
}

}  // namespace resemb::cpu
