// Run-time choice of the instruction set. A source that holds vector code writes it in an .inl file, names that file in
// DECANT_VECTOR_CODE and includes for_each_isa.h, which compiles it once a set, each in a namespace of its own;
// DECANT_DISPATCH calls the one in use.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace decant {

enum class Isa { kBaseline, kAvx2, kAvx512 };

Isa isa();

}  // namespace decant

#if defined(__x86_64__)
#define DECANT_DISPATCH(function, ...)                                     \
  (::decant::isa() == ::decant::Isa::kAvx512 ? avx512::function(__VA_ARGS__) \
   : ::decant::isa() == ::decant::Isa::kAvx2 ? avx2::function(__VA_ARGS__)   \
                                             : baseline::function(__VA_ARGS__))
#else
#define DECANT_DISPATCH(function, ...) baseline::function(__VA_ARGS__)
#endif
