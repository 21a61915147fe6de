#include "isa.h"

#include <atomic>
#include <string_view>

#define DECANT_EXPORT extern "C" __attribute__((visibility("default")))

namespace decant {
namespace {

bool able(Isa wanted) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (wanted == Isa::kAvx2) return avx2;
  if (wanted == Isa::kAvx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return wanted == Isa::kBaseline;
}

Isa best() { return able(Isa::kAvx512) ? Isa::kAvx512 : able(Isa::kAvx2) ? Isa::kAvx2 : Isa::kBaseline; }

std::atomic<Isa> current{best()};

}  // namespace

Isa isa() { return current.load(std::memory_order_relaxed); }

}  // namespace decant

// The instruction set in use.
DECANT_EXPORT const char* decant_cpu_instructions() {
  switch (decant::isa()) {
    case decant::Isa::kAvx512: return "avx512";
    case decant::Isa::kAvx2: return "avx2";
    default: return "baseline";
  }
}

// Use the named instruction set from now on; 0 if this CPU cannot.
DECANT_EXPORT int decant_cpu_use(const char* name) {
  for (const decant::Isa one : {decant::Isa::kAvx512, decant::Isa::kAvx2, decant::Isa::kBaseline}) {
    if (!decant::able(one)) continue;
    const decant::Isa before = decant::current.exchange(one);
    if (std::string_view(name) == decant_cpu_instructions()) return 1;
    decant::current = before;
  }
  return 0;
}
