#include "ops/call.h"

#ifdef RESEMB_ON_CPU
#include "cpu/backend.h"
#include "cpu/buffer.h"
#endif
#ifdef RESEMB_ON_CUDA
#include "cuda/backend.h"
#ifndef RESEMB_EMULATE
#include <torch/csrc/stable/accelerator.h>

// Of torch's CUDA half; weak, since torch may have none.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device,
                                                                                   void** stream);
#endif
#endif

namespace resemb {
namespace {

#ifdef RESEMB_ON_CPU
cpu::Parallel torch_pool() {
  return cpu::Parallel(static_cast<int>(torch::stable::get_num_threads()),
                       [](int threads, void (*body)(void*), void* context) {
                         torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { body(context); });
                       });
}
#endif

#ifdef RESEMB_ON_CUDA
// Scratch of torch's allocator: freed in the order of the stream.
class TensorMemory final : public cuda::Memory {
 public:
  explicit TensorMemory(const Tensor& like) : like_(like) {}
  void* bytes(size_t n) override {
    kept_.push_back(allocated(
        [&] { return torch::stable::new_empty(like_, {static_cast<int64_t>(n)}, ScalarType::Byte); }));
    return kept_.back().mutable_data_ptr();
  }

 private:
  Tensor like_;
  std::vector<Tensor> kept_;
};

void* current_stream([[maybe_unused]] int device) {
  void* stream = nullptr;
#ifndef RESEMB_EMULATE
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("resemb_ext: this torch has no CUDA streams");
  }
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
#endif
  return stream;
}

// What torch lends to a call on a device.
struct Lent {
#ifndef RESEMB_EMULATE
  torch::stable::accelerator::DeviceGuard guard;
#endif
  TensorMemory memory;

  explicit Lent(const Tensor& like)
      :
#ifndef RESEMB_EMULATE
        guard(like.get_device()),
#endif
        memory(like) {
  }
};

class OnCuda final : private Lent, public cuda::Backend {
 public:
  explicit OnCuda(const Tensor& like)
      : Lent(like), cuda::Backend(like.get_device(), current_stream(like.get_device()), memory) {}
};
#endif

bool on_cuda([[maybe_unused]] const Tensor& t) {
#ifdef RESEMB_EMULATE
  return t.is_cpu();
#else
  return t.is_cuda();
#endif
}

std::unique_ptr<Backend> backend_of(const Tensor& like, const char* name) {
#ifdef RESEMB_ON_CUDA
  if (on_cuda(like)) return std::make_unique<OnCuda>(like);
#endif
#ifdef RESEMB_ON_CPU
  if (like.is_cpu()) return std::make_unique<cpu::Backend>(torch_pool());
#endif
  fail_value(std::string(name) + ": no kernels for its device");
}

}  // namespace

Call::Call(const Tensor& like, const char* name)
    : like_(like),
      name_(name),
      on_cpu_(like.is_cpu()),
      device_(on_cpu_ ? -1 : like.get_device()),
      backend_(backend_of(like, name)) {}

bool Call::holds(const Tensor& t) const {
  return on_cpu_ ? t.is_cpu() : t.is_cuda() && t.get_device() == device_;
}

void Call::check_device(const Tensor& t, const char* name) const {
  if (holds(t)) return;
  if (on_cpu_ && t.is_cuda()) {
    fail_value(std::string(name_) + ": is not on a CUDA device, while other tensors are");
  }
  fail_value(std::string(name) + ": is not on the device of the other tensors");
}

Tensor Call::dense(const Tensor& t, const char* name) const {
  check_device(t, name);
  return t.is_contiguous() ? t : allocated([&] { return torch::stable::contiguous(t); });
}

Tensor Call::dense_or_pinned(const Tensor& t, const char* name) const {
  if (holds(t) || !t.is_cpu()) return dense(t, name);
  if (!backend_->reads_host(t.const_data_ptr())) {
    fail_value(std::string(name) + ": is in host memory that is not pinned; expected it on the device, or " +
               "pinned (Tensor.pin_memory)");
  }
  if (!t.is_contiguous()) fail_value(std::string(name) + ": in pinned memory it must be contiguous");
  return t;
}

Tensor Call::output(const std::vector<int64_t>& size, ScalarType type) const {
#ifdef RESEMB_ON_CPU
  size_t bytes = item_size(table_type(type, "output"));
  for (const int64_t n : size) bytes *= static_cast<size_t>(n);
  if (on_cpu_ && bytes >= cpu::kSmallestPooled) {
    std::vector<int64_t> strides(size.size(), 1);
    for (size_t i = size.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * size[i];
    void* data = cpu::take_block(bytes);
    return torch::stable::from_blob(data, size, strides, like_.device(), type,
                                    [bytes](void* block) { cpu::give_block(block, bytes); });
  }
#endif
  return empty(size, type);
}

}  // namespace resemb
