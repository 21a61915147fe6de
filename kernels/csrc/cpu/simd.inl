// Vectors of one instruction set, in GCC's vector extensions; included once for each set (see isa.h) with LANES floats a
// vector. Nothing here is visible outside the including namespace.

#define INLINE static inline __attribute__((always_inline))

constexpr int64_t N = LANES;      // floats a vector
constexpr int64_t ND = LANES / 2;  // doubles a vector

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef double D __attribute__((vector_size(4 * LANES)));
typedef int64_t L __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));

constexpr float kInf = std::numeric_limits<float>::infinity();

INLINE F splat(float x) { return F{} + x; }
INLINE D splat_d(double x) { return D{} + x; }

INLINE F load(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
INLINE D load(const double* p) {
  D v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(double* p, D v) { std::memcpy(p, &v, sizeof v); }

// The larger; b where either is NaN, as the instruction has it.
INLINE F max(F a, F b) {
#if LANES == 16
  return (F)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
  return (F)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
INLINE F min(F a, F b) {
#if LANES == 16
  return (F)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
  return (F)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}
INLINE D max(D a, D b) { return a > b ? a : b; }

// Lane i gets lane i ^ kStep.
template <int32_t kStep>
INLINE F swap(F v) {
#if LANES == 16
  constexpr I lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
  constexpr I lanes = {0, 1, 2, 3, 4, 5, 6, 7};
#else
  constexpr I lanes = {0, 1, 2, 3};
#endif
  return __builtin_shuffle(v, lanes ^ kStep);
}
INLINE float reduce_add(F v) {
#if LANES == 16
  v += swap<8>(v);
#endif
#if LANES >= 8
  v += swap<4>(v);
#endif
  v += swap<2>(v);
  v += swap<1>(v);
  return v[0];
}
INLINE float reduce_max(F v) {
#if LANES == 16
  v = max(v, swap<8>(v));
#endif
#if LANES >= 8
  v = max(v, swap<4>(v));
#endif
  v = max(v, swap<2>(v));
  v = max(v, swap<1>(v));
  return v[0];
}

// 2^x for x <= 127, error about 1e-7 of the result; exactly 0 below -126, NaN for NaN.
INLINE F exp2(F x) {
#if LANES == 16
  const __m512 v = (__m512)x;
  const __m512 whole = _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F r = x - (F)whole;
#else
  const F low = splat(-127.0f);
  const F v = max(low, x);               // NaN stays: it is the second operand
  const F magic = splat(12582912.0f);    // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const F shifted = v + magic;
  const F r = v - (shifted - magic);
#endif
  F p = splat(0.00132694060f);
  p = p * r + splat(0.00967129413f);
  p = p * r + splat(0.0555071123f);
  p = p * r + splat(0.240222469f);
  p = p * r + splat(0.693147004f);
  p = p * r + splat(1.0f);
#if LANES == 16
  const __mmask16 kept = _mm512_cmp_ps_mask(v, _mm512_set1_ps(-126.0f), _CMP_NLE_UQ);
  return (F)_mm512_maskz_scalef_ps(kept, (__m512)p, whole);
#else
  const I scale = ((I)shifted - (I)magic + 127) << 23;  // whole + 127; 0 where whole is -127
  return p * (F)scale;
#endif
}

INLINE F exp(F x) { return exp2(x * splat(1.44269504f)); }

// e^x for x <= 700, error about 1e-16 of the result; 0 below -708.
INLINE D exp(D x) {
  D t = x * splat_d(1.4426950408889634);
  t = max(splat_d(-1023.0), t);
  const D magic = splat_d(0x1.8p52);
  const D shifted = t + magic;
  const D whole = shifted - magic;
  D r = x - whole * splat_d(0x1.62e42fefa0000p-1);  // ln 2 in two parts, so that the product is exact
  r = r - whole * splat_d(0x1.cf79abc9e3b39p-40);
  r = max(splat_d(-1.0), r);
  D p = splat_d(1.0 / 6227020800.0);
  constexpr double inverse_factorials[] = {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                                           1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,     1.0 / 120.0,
                                           1.0 / 24.0,        1.0 / 6.0,        0.5,             1.0,
                                           1.0};
  for (const double c : inverse_factorials) p = p * r + splat_d(c);
  const L scale = ((L)shifted - (L)magic + 1023) << 52;
  return p * (D)scale;
}

INLINE F from_bfloat16(const uint16_t* p) {
  H half;
  std::memcpy(&half, p, sizeof half);
  return (F)(__builtin_convertvector(half, U) << 16);
}
INLINE void to_bfloat16(uint16_t* p, F v) {  // to nearest, ties to even; NaN stays NaN
  const U bits = (U)v;
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U quiet = (bits >> 16) | 0x40u;
  const H half = __builtin_convertvector((v == v) ? rounded : quiet, H);
  std::memcpy(p, &half, sizeof half);
}

INLINE F from_float16(const uint16_t* p) {
#if LANES == 16
  return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif LANES == 8
  return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  float lanes[N];
  for (int64_t i = 0; i < N; ++i) lanes[i] = torch::headeronly::detail::fp16_ieee_to_fp32_value(p[i]);
  return load(lanes);
#endif
}
INLINE void to_float16(uint16_t* p, F v) {
#if LANES == 16
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LANES == 8
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  float lanes[N];
  store(lanes, v);
  for (int64_t i = 0; i < N; ++i) p[i] = torch::headeronly::detail::fp16_ieee_from_fp32_value(lanes[i]);
#endif
}

// Asks for what will be read a page later: the hardware looks ahead no further than the page's end.
INLINE void look_ahead(const void* p) { __builtin_prefetch((const char*)p + 4096); }

INLINE F load_as_float(const void* p, Dtype dtype, int64_t i) {
  if (dtype == Dtype::kFloat) return load((const float*)p + i);
  if (dtype == Dtype::kBFloat16) return from_bfloat16((const uint16_t*)p + i);
  return from_float16((const uint16_t*)p + i);
}
INLINE void store_from_float(void* p, Dtype dtype, int64_t i, F v) {
  if (dtype == Dtype::kFloat) return store((float*)p + i, v);
  if (dtype == Dtype::kBFloat16) return to_bfloat16((uint16_t*)p + i, v);
  to_float16((uint16_t*)p + i, v);
}

// n elements from `at` on, as floats filled up with `fill` to a multiple of N: in place where they are that already,
// else in `buffer`.
INLINE const float* as_floats(const void* p, Dtype dtype, int64_t at, int64_t n, float* buffer, float fill) {
  if (dtype == Dtype::kFloat && n % N == 0) return (const float*)p + at;
  const int64_t whole = n / N * N;
  for (int64_t i = 0; i < whole; i += N) {
    look_ahead((const char*)p + (at + i) * size_of(dtype));
    store(buffer + i, load_as_float(p, dtype, at + i));
  }
  if (whole < n) {
    store(buffer + whole, splat(fill));
    for (int64_t i = whole; i < n; ++i) buffer[i] = element(p, dtype, at + i);
  }
  return buffer;
}

// n floats written as the dtype from `at` on. The source may be longer than n, never shorter.
INLINE void from_floats(void* p, Dtype dtype, int64_t at, int64_t n, const float* source) {
  const int64_t whole = n / N * N;
  if ((const void*)source != (const void*)((const float*)p + at) || dtype != Dtype::kFloat)
    for (int64_t i = 0; i < whole; i += N) store_from_float(p, dtype, at + i, load(source + i));
  if (whole == n) return;
  if (dtype == Dtype::kFloat) {
    std::memmove((float*)p + at + whole, source + whole, (n - whole) * sizeof(float));
    return;
  }
  float last[N] = {};
  uint16_t converted[N];
  for (int64_t i = whole; i < n; ++i) last[i - whole] = source[i];
  store_from_float(converted, dtype, 0, load(last));
  std::memcpy((uint16_t*)p + at + whole, converted, (n - whole) * sizeof(uint16_t));
}
