// What the CUDA runtime sees, for `resemb doctor`.
#pragma once

#include <cstddef>

namespace resemb {

// Writes JSON: {"runtime": v, "driver": v, "devices": [{"name", "capability", "memory_mb"}, ...], "error":
// text}.
void cuda_device_info(char* text, size_t size);

}  // namespace resemb
