// Access to memory in chunks of eight elements, 16 bytes at a time where the address allows it.
#pragma once

#include <cstring>

#include "common.h"

namespace decant {

constexpr int kChunk = 8;
constexpr int kVectorBytes = 16;

template <typename T>
__device__ __forceinline__ bool aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0;
}

// Chunks first, first + step, .. of the `size` elements at p, as floats; what lies beyond them is `pad`.
// Which thread gets which element never depends on the address, so that equal rows have equal sums wherever
// they lie.
template <int kCount, typename T>
__device__ __forceinline__ void load_chunks(const T* p, int64_t size, int64_t first, int64_t step, float pad,
                                            float (&x)[kCount][kChunk]) {
  constexpr int kVectors = kChunk * sizeof(T) / kVectorBytes, kPart = kChunk / kVectors;
  if (aligned(p) && (first + (kCount - 1) * step + 1) * kChunk <= size) {
    uint4 raw[kCount][kVectors];  // all loads are under way before the first is used
#pragma unroll
    for (int c = 0; c < kCount; ++c)
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        raw[c][v] = reinterpret_cast<const uint4*>(p + (first + c * step) * kChunk)[v];
#pragma unroll
    for (int c = 0; c < kCount; ++c)
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        T part[kPart];
        memcpy(part, &raw[c][v], kVectorBytes);
#pragma unroll
        for (int i = 0; i < kPart; ++i) x[c][v * kPart + i] = static_cast<float>(part[i]);
      }
  } else {
#pragma unroll
    for (int c = 0; c < kCount; ++c)
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const int64_t at = (first + c * step) * kChunk + i;
        x[c][i] = at < size ? static_cast<float>(p[at]) : pad;
      }
  }
}

template <typename T>
__device__ __forceinline__ void load_chunk(const T* p, int64_t size, int64_t index, float pad,
                                           float (&x)[kChunk]) {
  load_chunks(p, size, index, 0, pad, reinterpret_cast<float (&)[1][kChunk]>(x));
}

// Stores chunk `index` of the `size` elements at p; what lies beyond them is dropped.
template <typename T>
__device__ __forceinline__ void store_chunk(T* p, int64_t size, int64_t index, const float (&x)[kChunk]) {
  constexpr int kVectors = kChunk * sizeof(T) / kVectorBytes, kPart = kChunk / kVectors;
  if (aligned(p) && (index + 1) * kChunk <= size) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      T part[kPart];
#pragma unroll
      for (int i = 0; i < kPart; ++i) part[i] = static_cast<T>(x[v * kPart + i]);
      uint4 raw;
      memcpy(&raw, part, kVectorBytes);
      reinterpret_cast<uint4*>(p + index * kChunk)[v] = raw;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (index * kChunk + i < size) p[index * kChunk + i] = static_cast<T>(x[i]);
  }
}

// Tokens of one row of logits.
struct Row {
  const Rows& rows;
  int64_t index, vocab;

  template <typename T>
  __device__ __forceinline__ T* as() const {
    return static_cast<T*>(rows.data) + index * rows.step;
  }

  template <int kCount>
  __device__ __forceinline__ void load(int64_t first, int64_t step, float pad,
                                       float (&x)[kCount][kChunk]) const {
    switch (rows.dtype) {
      case Dtype::kFloat: return load_chunks(as<const float>(), vocab, first, step, pad, x);
      case Dtype::kBFloat16: return load_chunks(as<const BFloat16>(), vocab, first, step, pad, x);
      case Dtype::kHalf: return load_chunks(as<const Half>(), vocab, first, step, pad, x);
    }
  }

  __device__ __forceinline__ void load(int64_t chunk, float pad, float (&x)[kChunk]) const {
    load(chunk, 0, pad, reinterpret_cast<float (&)[1][kChunk]>(x));
  }

  __device__ __forceinline__ void store(int64_t chunk, const float (&x)[kChunk]) const {
    switch (rows.dtype) {
      case Dtype::kFloat: return store_chunk(as<float>(), vocab, chunk, x);
      case Dtype::kBFloat16: return store_chunk(as<BFloat16>(), vocab, chunk, x);
      case Dtype::kHalf: return store_chunk(as<Half>(), vocab, chunk, x);
    }
  }
};

}  // namespace decant
