// As much of CUDA's runtime as kernels/csrc/cuda uses, for g++ on x86-64 Linux. A kernel's blocks run one
// after another; the threads of a block are fibers that give way to each other only at barriers and warp
// collectives, in an order drawn from a seed for each block.
//
// It shows: wrong results; shared memory that is read before it is written (it starts as NaN or zero) or
// overwritten too early; barriers and collectives that not all threads reach, even if by an early exit (the
// process dies and says so); device assertions.
// It cannot show: timing; races that need another interleaving (blocks never overlap, and all see memory in
// program order, so a __syncwarp beside a shuffle is not missed); the hardware's approximations of exp2 and
// 1 / x; limits of a launch; streams.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// All shared memory lies in one section, so that it can be poisoned before each block.
#define __shared__ static __attribute__((section("emulated_shared")))

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };

extern dim3 threadIdx, blockIdx;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
};

namespace emulator {

constexpr unsigned kWarp = 32, kAllLanes = 0xffffffffu;

enum Collective { kSync, kShuffleXor, kShuffleUp, kBallot };

[[noreturn]] void die(const char* what);

// Runs `thread` for every thread of every block.
void launch(unsigned blocks, unsigned threads, const std::function<void()>& thread);

void barrier();

// Waits for the warp, whose lanes must all make the same call; the values of them all.
const uint64_t* exchange(Collective collective, int offset, uint64_t value);

template <typename T>
T shuffle(unsigned mask, Collective collective, T value, int offset, unsigned from) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "lanes exchange up to 8 bytes");
  if (mask != kAllLanes) die("a shuffle of less than a warp is not emulated");
  uint64_t raw = 0;
  std::memcpy(&raw, &value, sizeof(T));
  raw = exchange(collective, offset, raw)[from];
  std::memcpy(&value, &raw, sizeof(T));
  return value;
}

}  // namespace emulator

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  emulator::launch(config->gridDim.x, config->blockDim.x, [&] { kernel(static_cast<Params>(args)...); });
  return cudaSuccess;
}

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp() { emulator::exchange(emulator::kSync, 0, 0); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  const unsigned from = threadIdx.x % emulator::kWarp ^ static_cast<unsigned>(offset);
  return emulator::shuffle(mask, emulator::kShuffleXor, value, offset, from);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int offset) {
  const unsigned lane = threadIdx.x % emulator::kWarp, by = static_cast<unsigned>(offset);
  const unsigned from = lane < by ? lane : lane - by;
  return emulator::shuffle(mask, emulator::kShuffleUp, value, offset, from);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  if (mask != emulator::kAllLanes) emulator::die("a ballot of less than a warp is not emulated");
  const uint64_t* const votes = emulator::exchange(emulator::kBallot, 0, vote);
  unsigned result = 0;
  for (unsigned i = 0; i < emulator::kWarp; ++i) result |= static_cast<unsigned>(votes[i]) << i;
  return result;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <typename T>
T atomicAdd(T* to, T value) {
  return std::exchange(*to, *to + value);
}
