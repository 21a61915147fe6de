// One order for scores and similarities, in which no two tokens are equal.
#pragma once

#include "common.h"

namespace decant {

// Orders by value, the earlier of equals being the greater; NaN is less than any number.
__device__ __forceinline__ uint64_t key_of(float value, int index) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
  const uint32_t order = isnan(value) ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(order) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

__device__ __forceinline__ int index_of(uint64_t key) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
}

}  // namespace decant
