#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

#define RESEMB_ISA isa_baseline
#include "cpu/kernels_of_isa.h"
#undef RESEMB_ISA
#if defined(__x86_64__)
#define RESEMB_ISA isa_avx2
#include "cpu/kernels_of_isa.h"
#undef RESEMB_ISA
#endif

namespace resemb::cpu {
namespace {

constexpr Kernels kBaseline = isa_baseline::table_of("baseline");
#if defined(__x86_64__)
constexpr Kernels kAvx2 = isa_avx2::table_of("avx2");
#endif

bool has_avx2() {
#if defined(__x86_64__)
  // x86-64-v3, which the avx2 file is compiled for, is more than AVX2: FMA, F16C, BMI and so on.
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&
         __builtin_cpu_supports("movbe");
#else
  return false;
#endif
}

const Kernels& choose(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  if ((any || std::strcmp(name, "avx2") == 0) && has_avx2()) return kAvx2;
#endif
  if (any || std::strcmp(name, "baseline") == 0) return kBaseline;
  throw std::invalid_argument(std::string("RESEMB_ISA: '") + name + "' does not run here; expected auto, " +
                              available_isas());
}

std::atomic<const Kernels*> current{nullptr};

}  // namespace

const char* available_isas() { return has_avx2() ? "baseline,avx2" : "baseline"; }

void select_isa(const char* name) { current = &choose(name); }

const Kernels& kernels() {
  if (current.load() == nullptr) {
    const char* name = std::getenv("RESEMB_ISA");
    select_isa(name != nullptr && *name != '\0' ? name : "auto");
  }
  return *current.load();
}

}  // namespace resemb::cpu
