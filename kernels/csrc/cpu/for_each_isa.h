// Compiles DECANT_VECTOR_CODE for each instruction set (see isa.h). No include guard: once in each source that needs it.

#pragma GCC diagnostic ignored "-Wpsabi"           // vectors are passed between inlined functions only
#pragma GCC diagnostic ignored "-Wunused-function"  // no source needs every vector function

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace decant::avx512 {
#define LANES 16
#include "simd.inl"
#include DECANT_VECTOR_CODE
#undef LANES
#undef INLINE
}  // namespace decant::avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace decant::avx2 {
#define LANES 8
#include "simd.inl"
#include DECANT_VECTOR_CODE
#undef LANES
#undef INLINE
}  // namespace decant::avx2
#pragma GCC pop_options

#endif

namespace decant::baseline {
#define LANES 4
#include "simd.inl"
#include DECANT_VECTOR_CODE
#undef LANES
#undef INLINE
}  // namespace decant::baseline
