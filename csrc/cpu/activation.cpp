// DIN's attention unit on the CPU: blocks of samples, and the weights as the kernels read them.
#include "common/activation.h"

#include <algorithm>

#include "cpu/backend.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"

namespace resemb::cpu {
namespace {

// Samples in blocks whose bounds do not depend on the threads: their partial gradients are summed in order.
constexpr int64_t kSmallestBlock = 16, kMostBlocks = 64;

template <class A>
const A* typed(const void* p) {
  return static_cast<const A*>(p);
}

// The weights as the kernels read them, in one buffer.
template <class A>
class Prepared {
 public:
  explicit Prepared(const ActivationArgs& given)
      : args(given),
        memory_(2 * given.hidden * given.wide_dim() + 2 * given.dim * given.wide_hidden() +
                2 * given.wide_hidden()) {
    const int64_t H = given.hidden, D = given.dim, wide = given.wide_dim(), tall = given.wide_hidden();
    std::fill_n(memory_.data(), memory_.size(), A{0});
    A* at = memory_.data();
    const auto rows = [&](const void* from) {
      A* to = at;
      for (int64_t h = 0; h < H; ++h) std::copy_n(typed<A>(from) + h * D, D, to + h * wide);
      at += H * wide;
      return to;
    };
    const auto columns = [&](const void* from) {
      A* to = at;
      for (int64_t h = 0; h < H; ++h) {
        for (int64_t d = 0; d < D; ++d) to[d * tall + h] = typed<A>(from)[h * D + d];
      }
      at += D * tall;
      return to;
    };
    const auto vector = [&](const void* from) {
      A* to = at;
      std::copy_n(typed<A>(from), H, to);
      at += tall;
      return to;
    };
    args.key_rows = rows(given.w_key);
    args.product_rows = rows(given.w_product);
    args.key_columns = columns(given.w_key);
    args.product_columns = columns(given.w_product);
    args.wide_slope = vector(given.slope);
    args.wide_out_weight = vector(given.out_weight);
  }

  ActivationArgs args;

 private:
  Buffer<A> memory_;
};

struct Blocks {
  int64_t samples, size, count;

  explicit Blocks(int64_t samples)
      : samples(samples),
        size(std::max(kSmallestBlock, (samples + kMostBlocks - 1) / kMostBlocks)),
        count((samples + size - 1) / size) {}
  int64_t begin(int64_t block) const { return block * size; }
  int64_t end(int64_t block) const { return std::min(samples, begin(block) + size); }
};

template <class A>
void run_forward(const ActivationArgs& given, const Parallel& parallel) {
  const Prepared<A> prepared(given);
  const Blocks blocks(given.samples);
  const int workers = static_cast<int>(std::min<int64_t>(parallel.threads(), blocks.count));
  Buffer<A> scratch(workers * given.scratch());
  parallel.by_worker(workers, blocks.count, [&](int worker, int64_t block) {
    kernels().activate(prepared.args, scratch.data() + worker * given.scratch(), blocks.begin(block),
                       blocks.end(block));
  });
}

template <class A>
void run_backward(const ActivationArgs& given, const Parallel& parallel) {
  const Prepared<A> prepared(given);
  const Blocks blocks(given.samples);
  const int workers = static_cast<int>(std::min<int64_t>(parallel.threads(), blocks.count));
  const int64_t each = given.partial();
  Buffer<A> scratch(workers * given.scratch()), partials(blocks.count * each);
  parallel.by_worker(workers, blocks.count, [&](int worker, int64_t block) {
    kernels().activate_backward(prepared.args, scratch.data() + worker * given.scratch(),
                                partials.data() + block * each, blocks.begin(block), blocks.end(block));
  });
  Buffer<A> total(each);
  std::fill_n(total.data(), each, A{0});
  for (int64_t block = 0; block < blocks.count; ++block) {
    for (int64_t i = 0; i < each; ++i) total[i] += partials[block * each + i];
  }
  const int64_t H = given.hidden, D = given.dim, wide = given.wide_dim(), tall = given.wide_hidden();
  for (int64_t h = 0; h < H; ++h) {
    std::copy_n(total.data() + h * wide, D, static_cast<A*>(given.grad_w_key) + h * D);
    std::copy_n(total.data() + (H + h) * wide, D, static_cast<A*>(given.grad_w_product) + h * D);
  }
  const A* tails = total.data() + 2 * H * wide;
  std::copy_n(tails, H, static_cast<A*>(given.grad_slope));
  std::copy_n(tails + tall, H, static_cast<A*>(given.grad_out_weight));
  *static_cast<A*>(given.grad_out_bias) = tails[2 * tall];
}

}  // namespace

void Backend::activate(const ActivationArgs& args) {
  args.is_double ? run_forward<double>(args, parallel_) : run_forward<float>(args, parallel_);
}

void Backend::activate_backward(const ActivationArgs& args) {
  args.is_double ? run_backward<double>(args, parallel_) : run_backward<float>(args, parallel_);
}

}  // namespace resemb::cpu
