#include <algorithm>
#include <cfloat>

#include "cache.cuh"
#include "operators.h"
#include "order.cuh"
#include "reduce.cuh"

namespace decant {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kShort = 64;  // tokens up to which one warp merges a slot; a whole block merges longer ones
constexpr int kSpan = kWarp * kChunk;  // of dim, that a warp works on at once
static_assert(kSpan == kThreads, "each thread sums one element of a span over the warps");

struct Slots {
  const int* starts;  // [heads, slots]: a slot's first token
  int tokens, slots;

  __device__ int begin(int head, int slot) const { return starts[static_cast<int64_t>(head) * slots + slot]; }
  __device__ int end(int head, int slot) const { return slot + 1 < slots ? begin(head, slot + 1) : tokens; }
  __device__ int target(int slot) const { return tokens - slots + slot; }

  // A lone token that is already where it belongs.
  __device__ bool stays(int head, int slot) const {
    return begin(head, slot) == target(slot) && end(head, slot) == target(slot) + 1;
  }
};

template <typename T>
struct Cache {
  T* data;
  Places places;
  T* merged;  // [heads, slots, dim], so that no slot is written before all are read

  __device__ T* row(int token, int head) const { return data + places.of(token, head); }
};

template <typename T>
struct Problem {
  Cache<T> keys, values;
  Slots slots;
  const float* scores;
  int64_t scores_step;
  int heads, dim;
  float spread;    // 2 sigma^2; 0 takes it from the slot's distances
  float* weights;  // scratch, [heads, tokens]
  int* counts;

  __device__ int64_t merged_at(int head, int slot) const {
    return (static_cast<int64_t>(head) * slots.slots + slot) * dim;
  }
};

// The warps that merge a slot: one, or all of a block, which then must all call reduce.
struct Team {
  int warp, warps;
  uint64_t* parts;  // [kWarps], shared

  // Combines a value of 8 bytes over the team's threads; each gets the result.
  template <typename V, typename Combine>
  __device__ V reduce(V x, const Combine& combine) const {
    static_assert(sizeof(V) == sizeof(uint64_t), "parts hold 8 bytes each");
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      x = combine(x, __shfl_xor_sync(kAllLanes, x, offset));
    if (warps == 1) return x;
    if (threadIdx.x % kWarp == 0) memcpy(&parts[warp], &x, sizeof(V));
    __syncthreads();
    memcpy(&x, &parts[0], sizeof(V));
    for (int i = 1; i < warps; ++i) {
      V other;
      memcpy(&other, &parts[i], sizeof(V));
      x = combine(x, other);
    }
    __syncthreads();
    return x;
  }

  __device__ double sum(double x) const {
    return reduce(x, [](double a, double b) { return a + b; });
  }

  __device__ uint64_t max(uint64_t x) const {
    return reduce(x, [](uint64_t a, uint64_t b) { return a < b ? b : a; });
  }
};

// Segments must count up from 0 to slots - 1: anything else would leave a slot without tokens, or write past
// the end.
__global__ void __launch_bounds__(kThreads)
    starts_kernel(const int* segments, int64_t count, int tokens, int slots, int* starts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int token = static_cast<int>(i % tokens), slot = segments[i], before = token ? segments[i - 1] : -1;
  assert(slot >= 0 && slot < slots && "segments holds a slot out of range");
  assert((slot == before || slot == before + 1) && "segments does not count up from 0");
  assert((token < tokens - 1 || slot == slots - 1) && "segments does not use every slot");
  if (slot != before) starts[i / tokens * slots + slot] = token;
}

// By one warp, bit for bit.
template <typename T>
__device__ void copy_row(const T* from, T* to, int dim) {
  constexpr int kPart = kVectorBytes / sizeof(T);
  const int lane = threadIdx.x % kWarp;
  if (aligned(from) && aligned(to) && dim % kPart == 0) {
    for (int i = lane; i < dim / kPart; i += kWarp)
      reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  } else {
    for (int i = lane; i < dim; i += kWarp) to[i] = from[i];
  }
}

// Squared distance of a token's key from the pivot's; every lane of the warp gets it.
template <typename T>
__device__ float square_distance(const Problem<T>& problem, int head, int token, int pivot) {
  float sum = 0;
  if (token == pivot) return sum;
  const T *a = problem.keys.row(token, head), *b = problem.keys.row(pivot, head);
  for (int c = threadIdx.x % kWarp; c * kChunk < problem.dim; c += kWarp) {
    float x[kChunk], y[kChunk];
    load_chunk(a, problem.dim, c, 0, x);
    load_chunk(b, problem.dim, c, 0, y);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum = fmaf(x[i] - y[i], x[i] - y[i], sum);
  }
  return group_sum(sum);
}

// Leaves the weights of a slot's tokens in `weights`, and returns their sum. A warp sees to every warps-th
// token, here and where they are used: what its lanes write, only they read.
template <typename T>
__device__ double weigh(const Problem<T>& problem, int head, int begin, int end, const Team& team,
                        float* weights) {
  const int lane = threadIdx.x % kWarp;
  const float* const scores = problem.scores + head * problem.scores_step;
  uint64_t best = 0;
  for (int i = begin + team.warp * kWarp + lane; i < end; i += team.warps * kWarp)
    best = max(best, key_of(scores[i], i));
  const int pivot = index_of(team.max(best));

  double distances = 0;
  for (int i = begin + team.warp; i < end; i += team.warps) {
    const float square = square_distance(problem, head, i, pivot);
    if (lane) continue;
    weights[i] = square;
    distances += sqrtf(square);
  }
  const float mean = static_cast<float>(team.sum(distances) / (end - begin));
  const float spread = problem.spread > 0 ? problem.spread : fmaxf(mean * mean, 1e-12f);
  __syncwarp();
  double total = 0;
  for (int i = begin + team.warp + lane * team.warps; i < end; i += team.warps * kWarp) {
    const float weight = expf(-weights[i] / spread);
    weights[i] = weight;
    total += weight;
  }
  total = team.sum(total);
  __syncwarp();
  return total;
}

// Writes one span of a merged row from its team's sums.
template <typename T>
__device__ void write_span(T* merged, int dim, int first, const float (&mine)[kChunk], const Team& team,
                           float (*sums)[kSpan]) {
  const int lane = threadIdx.x % kWarp;
  if (team.warps == 1) {
    store_chunk(merged, dim, first / kChunk + lane, mine);
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sums[team.warp][lane * kChunk + i] = mine[i];
  __syncthreads();
  float total = 0;
  for (int i = 0; i < team.warps; ++i) total += sums[i][threadIdx.x];
  const int at = first + static_cast<int>(threadIdx.x);
  if (at < dim) merged[at] = static_cast<T>(total);
  __syncthreads();
}

// Merges a slot of two tokens or more.
template <typename T>
__device__ void merge_slot(const Problem<T>& problem, int head, int slot, const Team& team,
                           float (*sums)[kSpan]) {
  const int begin = problem.slots.begin(head, slot), end = problem.slots.end(head, slot);
  float* const weights = problem.weights + static_cast<int64_t>(head) * problem.slots.tokens;
  const float inverse = static_cast<float>(1 / weigh(problem, head, begin, end, team, weights));
  const int64_t at = problem.merged_at(head, slot);
  for (int first = 0; first < problem.dim; first += kSpan) {
    const int chunk = first / kChunk + threadIdx.x % kWarp;
    float key[kChunk] = {}, value[kChunk] = {};
    for (int i = begin + team.warp; i < end && chunk * kChunk < problem.dim; i += team.warps) {
      const float share = weights[i] * inverse;
      float x[kChunk], y[kChunk];
      load_chunk(problem.keys.row(i, head), problem.dim, chunk, 0, x);
      load_chunk(problem.values.row(i, head), problem.dim, chunk, 0, y);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        key[j] = fmaf(share, x[j], key[j]);
        value[j] = fmaf(share, y[j], value[j]);
      }
    }
    write_span(problem.keys.merged + at, problem.dim, first, key, team, sums);
    write_span(problem.values.merged + at, problem.dim, first, value, team, sums);
  }
}

// A block sees to kWarps slots of a head: first each warp to its own, then all together to those that are
// long.
template <typename T>
__global__ void __launch_bounds__(kThreads) merge_kernel(Problem<T> problem, int tiles) {
  __shared__ uint64_t parts[kWarps];
  __shared__ float sums[kWarps][kSpan];
  const Slots& slots = problem.slots;
  const int head = blockIdx.x / tiles, first = blockIdx.x % tiles * kWarps, warp = threadIdx.x / kWarp;
  const int mine = first + warp;
  if (mine < slots.slots) {
    const int begin = slots.begin(head, mine), count = slots.end(head, mine) - begin;
    if (threadIdx.x % kWarp == 0) problem.counts[static_cast<int64_t>(head) * slots.slots + mine] = count;
    if (count == 1 && !slots.stays(head, mine)) {
      const int64_t at = problem.merged_at(head, mine);
      copy_row<T>(problem.keys.row(begin, head), problem.keys.merged + at, problem.dim);
      copy_row<T>(problem.values.row(begin, head), problem.values.merged + at, problem.dim);
    } else if (count > 1 && count <= kShort) {
      merge_slot(problem, head, mine, Team{0, 1, parts}, sums);
    }
  }
  for (int slot = first; slot < min(first + kWarps, slots.slots); ++slot)
    if (slots.end(head, slot) - slots.begin(head, slot) > kShort)
      merge_slot(problem, head, slot, Team{warp, kWarps, parts}, sums);
}

// A warp copies one slot to where it belongs.
template <typename T>
__global__ void __launch_bounds__(kThreads) copy_kernel(Problem<T> problem) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const Slots& slots = problem.slots;
  if (index >= static_cast<int64_t>(problem.heads) * slots.slots) return;
  const int head = static_cast<int>(index / slots.slots), slot = static_cast<int>(index % slots.slots);
  if (slots.stays(head, slot)) return;
  const int64_t at = problem.merged_at(head, slot);
  copy_row<T>(problem.keys.merged + at, problem.keys.row(slots.target(slot), head), problem.dim);
  copy_row<T>(problem.values.merged + at, problem.values.row(slots.target(slot), head), problem.dim);
}

template <typename T>
void merge(const Device& device, Problem<T> problem, const Tensor& keys, const int* segments) {
  const int64_t heads = problem.heads, tokens = problem.slots.tokens, slots = problem.slots.slots;
  const int64_t size = heads * slots * problem.dim, tiles = ceil_div(slots, kWarps);
  const Scratch<int> starts(keys, heads * slots);
  const Scratch<float> weights(keys, heads * tokens);
  const Scratch<T> merged_keys(keys, size), merged_values(keys, size);
  problem.slots.starts = starts.data();
  problem.weights = weights.data();
  problem.keys.merged = merged_keys.data();
  problem.values.merged = merged_values.data();
  launch(device, "merge_kv_", starts_kernel, ceil_div(heads * tokens, kThreads), kThreads, segments,
         heads * tokens, problem.slots.tokens, problem.slots.slots, starts.data());
  launch(device, "merge_kv_", merge_kernel<T>, heads * tiles, kThreads, problem, static_cast<int>(tiles));
  launch(device, "merge_kv_", copy_kernel<T>, ceil_div(heads * slots * kWarp, kThreads), kThreads, problem);
}

// 2 sigma^2 as a float that can be divided by; 0 for none.
float spread_of(const std::optional<double>& sigma) {
  if (!sigma) return 0;
  return static_cast<float>(std::min(std::max(2 * *sigma * *sigma, double{FLT_MIN}), double{FLT_MAX}));
}

}  // namespace

Tensor merge_kv_(const Tensor& keys, const Tensor& values, const Tensor& scores, const Tensor& segments,
                 const MaybeTensor& block_table, int64_t slots, std::optional<double> sigma) {
  check_shape(segments, "segments", {-1, -1});
  const int64_t heads = segments.size(0), tokens = segments.size(1);
  const Places key_places = places_of(keys, "keys", block_table, tokens);
  check_on(values, "values", keys);
  check_type(values, "values", keys.scalar_type());
  STD_TORCH_CHECK(values.dim() == keys.dim(), "values has an unexpected shape");
  for (int64_t i = 0; i < keys.dim(); ++i)
    STD_TORCH_CHECK(values.size(i) == keys.size(i), "values has an unexpected shape");
  const Places value_places = places_of(values, "values", block_table, tokens);
  STD_TORCH_CHECK(heads_of(keys) == heads, "segments: keys has ", heads_of(keys), " heads");
  check_on(scores, "scores", keys);
  check_type(scores, "scores", ScalarType::Float);
  check_shape(scores, "scores", {heads, -1});
  check_dense(scores, "scores");
  STD_TORCH_CHECK(scores.size(1) >= tokens, "scores: at least ", tokens, " tokens are needed");
  STD_TORCH_CHECK(slots >= 1 && slots <= tokens, "slots: 1 to ", tokens, " are allowed");
  STD_TORCH_CHECK(!sigma || *sigma > 0, "sigma: more than 0 is needed");
  const int* const slot_of = plain<int>(segments, "segments", ScalarType::Int, {heads, tokens}, keys);
  const Device device(keys);
  const Tensor counts = make(keys, {heads, slots}, ScalarType::Int);
  dispatch(keys, "keys", [&](auto zero) {
    using T = decltype(zero);
    Problem<T> problem = {};
    problem.keys = {static_cast<T*>(keys.mutable_data_ptr()), key_places, nullptr};
    problem.values = {static_cast<T*>(values.mutable_data_ptr()), value_places, nullptr};
    problem.slots = {nullptr, static_cast<int>(tokens), static_cast<int>(slots)};
    problem.scores = static_cast<const float*>(scores.const_data_ptr());
    problem.scores_step = scores.stride(0);
    problem.heads = static_cast<int>(heads);
    problem.dim = static_cast<int>(dim_of(keys));
    problem.spread = spread_of(sigma);
    problem.counts = static_cast<int*>(counts.mutable_data_ptr());
    merge(device, problem, keys, slot_of);
  });
  return counts;
}

}  // namespace decant
