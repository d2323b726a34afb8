#include "cuda/device.h"

#include <atomic>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "cuda/plan.h"
#include "cuda/runtime.cuh"

// Edges up to which a graph's largest degree is not looked for.
#ifndef RESEMB_SMALL_GRAPH
#define RESEMB_SMALL_GRAPH (int64_t{1} << 22)
#endif

namespace resemb::cuda {
namespace {

std::mutex mutex;
// Largest degrees of graphs: by device, address, items and edges.
std::map<std::tuple<int, const void*, int64_t, int64_t>, int64_t> max_degrees;

#ifndef RESEMB_EMULATE
void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("resemb_ext: ") + what + ": " + cudaGetErrorString(error));
}
#endif

std::atomic<int64_t> waits{0};

#ifndef RESEMB_EMULATE
struct TimedStage {
  Stage stage;
  cudaEvent_t start, stop;
};
std::vector<TimedStage> stages;  // that `count_stages` has not seen yet
#endif

struct Shared {
  Fault fault;
  uint32_t numbers[4];
};

DeviceState make_state([[maybe_unused]] int device) {
#ifdef RESEMB_EMULATE
  static Shared shared{};
  return {&shared.fault, shared.numbers, 3};
#else
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "no such device");
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, sizeof(Shared), cudaHostAllocPortable | cudaHostAllocMapped),
        "no memory that host and device share");
  Shared* shared = new (memory) Shared{};
  return {&shared->fault, shared->numbers, processors * 32};
#endif
}

__global__ void put_numbers(const uint32_t* a, const uint32_t* b, const uint32_t* d, const uint32_t* e,
                            volatile uint32_t* to) {
  if (first_thread() != 0) return;
  to[0] = a != nullptr ? *a : 0;
  to[1] = b != nullptr ? *b : 0;
  to[2] = d != nullptr ? *d : 0;
  to[3] = e != nullptr ? *e : 0;
  __threadfence_system();
}

}  // namespace

// How often the host has waited for numbers of a device: for tests, which load it by its name.
extern "C" __attribute__((visibility("default"))) int64_t resemb_cuda_waits() { return waits.load(); }

const DeviceState& device_state(int device) {
  static std::map<int, DeviceState> states;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = states.find(device);
  return found != states.end() ? found->second : states.emplace(device, make_state(device)).first->second;
}

DeviceScope::DeviceScope([[maybe_unused]] int device) {
#ifndef RESEMB_EMULATE
  check(cudaGetDevice(&before_), "no current device");
  check(cudaSetDevice(device), "no such device");
#endif
}

DeviceScope::~DeviceScope() {
#ifndef RESEMB_EMULATE
  cudaSetDevice(before_);
#endif
}

bool device_reads_host([[maybe_unused]] const void* data) {
#ifdef RESEMB_EMULATE
  return true;
#else
  if (data == nullptr) return true;  // an empty array
  cudaPointerAttributes found{};
  if (cudaPointerGetAttributes(&found, data) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return found.type == cudaMemoryTypeHost && found.devicePointer == data;
#endif
}

void read_numbers(const Context& c, int device, const uint32_t* const (&from)[4], int64_t (&to)[4]) {
  static std::mutex reading;
  const std::lock_guard<std::mutex> lock(reading);
#ifndef RESEMB_EMULATE
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(c.stream), &capturing), "a kernel failed");
  if (capturing != cudaStreamCaptureStatusNone) {
    throw std::runtime_error(
        "resemb_ext: inside the capture of a CUDA graph, but this call has the size of what a batch touches "
        "on the host. Sparse gradients as tensors cannot be captured: capture steps made in backward "
        "(optimizer.step_in_backward) or sparse=False; a graph over 4 million edges must have been looked up "
        "once before");
  }
#endif
  ++waits;
  uint32_t* numbers = device_state(device).numbers;
  launch(c, 1, &put_numbers, from[0], from[1], from[2], from[3], static_cast<volatile uint32_t*>(numbers));
#ifndef RESEMB_EMULATE
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(c.stream)), "a kernel failed");
#endif
  for (int i = 0; i < 4; ++i) to[i] = static_cast<volatile uint32_t*>(numbers)[i];
}

StageClock::StageClock(const Context& c, Stage stage) : stage_(stage), stream_(c.stream) {
#ifndef RESEMB_EMULATE
  if (!profile.on.load(std::memory_order_relaxed)) return;
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start), "no event");
  check(cudaEventCreate(&stop), "no event");
  check(cudaEventRecord(start, static_cast<cudaStream_t>(stream_)), "an event failed");
  start_ = start;
  stop_ = stop;
#endif
}

StageClock::~StageClock() {
#ifndef RESEMB_EMULATE
  if (start_ == nullptr) return;
  const auto start = static_cast<cudaEvent_t>(start_), stop = static_cast<cudaEvent_t>(stop_);
  if (cudaEventRecord(stop, static_cast<cudaStream_t>(stream_)) == cudaSuccess) {
    const std::lock_guard<std::mutex> lock(mutex);
    stages.push_back({stage_, start, stop});
    return;
  }
  cudaGetLastError();
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
#endif
}

void count_stages() {
#ifndef RESEMB_EMULATE
  const std::lock_guard<std::mutex> lock(mutex);
  for (const TimedStage& timed : stages) {
    float milliseconds = 0;
    if (cudaEventSynchronize(timed.stop) == cudaSuccess &&
        cudaEventElapsedTime(&milliseconds, timed.start, timed.stop) == cudaSuccess) {
      profile.nanoseconds[static_cast<int>(timed.stage)] += static_cast<int64_t>(1e6 * milliseconds);
    }
    cudaGetLastError();
    cudaEventDestroy(timed.start);
    cudaEventDestroy(timed.stop);
  }
  stages.clear();
#endif
}

void raise_fault(const DeviceState& state) {
  volatile Fault* seen = state.fault;
  if (seen->state != 2) return;
  const Wrong wrong = seen->wrong;
  const std::string value = std::to_string(seen->value), position = std::to_string(seen->position);
  const std::string bound = std::to_string(seen->bound);
  seen->state = 0;
  const std::string when = " (found on the device by an earlier call)";
  switch (wrong) {
    case Wrong::id:
      throw std::out_of_range("ids: id " + value + " at position " + position +
                              " is out of range; expected ids in [0, " + bound + ")" + when);
    case Wrong::graph:
      throw std::out_of_range("neighbors: a row leaves the arrays or names an item outside [0, " + bound +
                              ")" + when);
    case Wrong::rows:
      throw std::out_of_range("rows: " + value + " at " + position +
                              " does not ascend or is out of range; expected ascending rows in [0, " + bound +
                              ")" + when);
    case Wrong::offsets:
      throw std::invalid_argument("offsets: " + value + " at " + position +
                                  " does not fit; expected ascending values from 0 to " + bound + when);
    case Wrong::log_weights:
      throw std::invalid_argument("log_weights: the row of item " + value +
                                  " holds one that is not finite; expected finite logarithms" + when);
    case Wrong::no_self:
      throw std::invalid_argument("neighbors: the row of item " + value +
                                  " lacks the item itself; expected it in every row that is not empty" +
                                  when);
    case Wrong::stale_graph: {
      const std::lock_guard<std::mutex> lock(mutex);
      max_degrees.clear();  // looked for again by the next calls
    }
      throw std::runtime_error(
          "indptr: a batch touches more edges than there can be: rows overlap, or the memory of an earlier "
          "graph now holds one with longer rows; results of earlier calls are incomplete" +
          when);
  }
}

int64_t max_degree_of(const Context& c, int device, const int64_t* indptr, int64_t num_items,
                      int64_t num_edges) {
  if (num_edges <= RESEMB_SMALL_GRAPH) return num_edges;
  const std::tuple<int, const void*, int64_t, int64_t> key{device, indptr, num_items, num_edges};
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = max_degrees.find(key);
    if (found != max_degrees.end()) return found->second;
  }
  uint32_t* longest = c.memory->take<uint32_t>(1);
  max_degree(c, indptr, num_items, longest);
  int64_t numbers[4];
  read_numbers(c, device, {longest, nullptr, nullptr, nullptr}, numbers);
  const std::lock_guard<std::mutex> lock(mutex);
  return max_degrees[key] = numbers[0];
}

}  // namespace resemb::cuda
