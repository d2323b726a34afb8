// What is kept for each device: the place of faults, and how many blocks fill it. No CUDA headers, no torch.
#pragma once

#include <cstdint>

#include "common/profile.h"
#include "cuda/context.h"

namespace resemb::cuda {

struct DeviceState {
  Fault* fault;       // in host memory that the device writes to
  uint32_t* numbers;  // [4] likewise
  int max_blocks;
};

// Made at the first use of a device; never inside the capture of a graph. Throws where the device fails.
const DeviceState& device_state(int device);

// Makes a device the current one of this library's runtime, which is not torch's own.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  DeviceScope(const DeviceScope&) = delete;
  ~DeviceScope();

 private:
  int before_ = -1;
};

// Whether kernels can read host memory at this address: pinned, as under emulation all is.
bool device_reads_host(const void* data);

// Up to four numbers from the device, null ones as 0: one transfer, and the host waits for the stream.
// Throws in the capture of a CUDA graph.
void read_numbers(const Context& c, int device, const uint32_t* const (&from)[4], int64_t (&to)[4]);

// Marks the start and end of a stage on the stream while profiling is on: for benchmarks. Not in captures.
class StageClock {
 public:
  StageClock(const Context& c, Stage stage);
  StageClock(const StageClock&) = delete;
  ~StageClock();

 private:
  Stage stage_;
  void* stream_;
  void *start_ = nullptr, *stop_ = nullptr;
};

// Adds the stages marked since the last time to the profile; waits for their ends.
void count_stages();

// Throws what the device has reported since the last time, if anything: std::out_of_range for ids, rows and
// neighbours, std::invalid_argument for offsets.
void raise_fault(const DeviceState& state);

// The largest degree of a graph on the device. A graph of few edges counts as one item's; a larger one is
// read once, which waits for the device, and remembered by its address: `stale_graph` is reported where
// another graph of as many items and edges has taken that address and has longer rows.
int64_t max_degree_of(const Context& c, int device, const int64_t* indptr, int64_t num_items,
                      int64_t num_edges);

}  // namespace resemb::cuda
