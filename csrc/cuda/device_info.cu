#include "cuda/device_info.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>

namespace resemb {

void cuda_device_info(char* text, size_t size) {
  int runtime = 0, driver = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    count = 0;
    cudaGetLastError();
  }
  std::string json = "{\"runtime\": " + std::to_string(runtime) + ", \"driver\": " + std::to_string(driver) +
                     ", \"devices\": [";
  for (int d = 0; d < count; ++d) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, d) != cudaSuccess) continue;
    json += std::string(d > 0 ? ", " : "") + "{\"name\": \"" + p.name + "\", \"capability\": \"" +
            std::to_string(p.major) + "." + std::to_string(p.minor) +
            "\", \"memory_mb\": " + std::to_string(p.totalGlobalMem >> 20) + "}";
  }
  json += std::string("], \"error\": \"") + (error == cudaSuccess ? "" : cudaGetErrorString(error)) + "\"}";
  std::snprintf(text, size, "%s", json.c_str());
}

}  // namespace resemb
