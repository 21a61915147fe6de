#include "moments.cuh"
#include "operators.h"

namespace decant {
namespace {

constexpr int kWarps = kThreads / kWarp;
// Points that one warp works on: with the usual grid of 21 points, and at most.
constexpr int kFewPoints = 3, kMaxPoints = (kMaxGrid + 3 + kWarps - 1) / kWarps;
constexpr int kSpan = kWarp * kChunk;        // tokens a warp takes at once
constexpr int kNoneLeft = -1, kClosed = -2;  // in place of the chosen expert

struct Models {
  Rows large, small;
  Terms experts;
};

// One thread's chunk of a tile: what is ruled out has -inf for both logits and no difference.
__device__ void load_tokens(const Models& models, int64_t row, int64_t vocab, int64_t chunk, int expert,
                            float (&large)[kChunk], float (&small)[kChunk], float (&d)[kChunk]) {
  Row{models.large, row, vocab}.load(chunk, -kInf, large);
  Row{models.small, row, vocab}.load(chunk, -kInf, small);
  bool ruled_out[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i) ruled_out[i] = large[i] == -kInf || small[i] == -kInf;
  for (int k = 0; k < models.experts.count; ++k) {
    float other[kChunk];
    Row{models.experts.term[k], row, vocab}.load(chunk, -kInf, other);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      ruled_out[i] |= other[i] == -kInf;
      if (k == expert) d[i] = other[i] - small[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    if (ruled_out[i]) {
      large[i] = small[i] = -kInf;
      d[i] = 0;
    }
}

__device__ __forceinline__ float max_of(const float (&x)[kChunk]) {
  float top = -kInf;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) top = fmaxf(top, x[i]);
  return top;
}

__device__ __forceinline__ void put(float* to, const float (&x)[kChunk], float centre) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) to[threadIdx.x * kChunk + i] = x[i] - centre;
}

// A lane's eight tokens of a span: two neighbouring fours, so that the lanes' reads meet no bank twice.
__device__ __forceinline__ void get(const float* from, float (&x)[kChunk]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 four = reinterpret_cast<const float4*>(from)[half * kWarp + lane];
    x[half * 4] = four.x;
    x[half * 4 + 1] = four.y;
    x[half * 4 + 2] = four.z;
    x[half * 4 + 3] = four.w;
  }
}

// Each warp takes every kWarps-th point over the whole tile, so that a token is read from memory once.
template <int kCount>
__device__ __forceinline__ void add_tile(const Tile& tile, const Points& points, const float (&steps)[kCount],
                                         OnlineMoments (&mine)[kCount]) {
  const int warp = threadIdx.x / kWarp;
  for (int at = 0; at < Tile::kTokens; at += kSpan) {
    float base[kChunk], d[kChunk];
    get(tile.d + at, d);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int point = warp + j * kWarps;
      if (point >= points.all()) break;
      get((points.on_small(point) ? tile.small : tile.large) + at, base);
      mine[j].add(base, d, steps[j]);
    }
  }
}

// A block works on one piece of one row for one expert.
template <int kCount>
__global__ void __launch_bounds__(kThreads, 2)
    moments_kernel(Models models, RowIndex rows, int64_t vocab, Points points, Gate gate, MomentTable table) {
  __shared__ Tile tile;
  const Place place(table.pieces, rows.count);
  if (!gate.open(place.entry)) return;
  const int64_t row = rows[place.entry];
  const int warp = threadIdx.x / kWarp;
  float steps[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const int point = warp + j * kWarps;
    steps[j] = point < points.all() ? points.step(point) : 0;
  }
  OnlineMoments mine[kCount];
  float large_centre = 0, small_centre = 0;
  const int64_t first = static_cast<int64_t>(place.piece) * kPieceChunks;
  for (int c = 0; c < kPieceChunks && (first + c) * kChunk < vocab; c += kThreads) {
    float large[kChunk], small[kChunk], d[kChunk];
    load_tokens(models, row, vocab, first + c + threadIdx.x, place.term, large, small, d);
    if (c == 0) {
      large_centre = anchor(block_max<kThreads>(max_of(large)));
      small_centre = anchor(block_max<kThreads>(max_of(small)));
    }
    __syncthreads();
    put(tile.large, large, large_centre);
    put(tile.small, small, small_centre);
    put(tile.d, d, 0);
    __syncthreads();
    add_tile(tile, points, steps, mine);
  }
  Moments* const out = table.at(place.entry, place.term, place.piece);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const int point = warp + j * kWarps;
    if (point >= points.all()) break;
    const Moments all = mine[j].over_warp(points.on_small(point) ? small_centre : large_centre);
    if (threadIdx.x % kWarp == 0) out[point] = all;
  }
}

// KL of the distribution at `point` from its base's own: E[a d] less the difference of the log sums.
__device__ double divergence(const Moments& moved, const Moments& own, float step) {
  return step * (moved.shift / moved.sum) - ((moved.max - own.max) + (log(moved.sum) - log(own.sum)));
}

struct Loss {
  double value;
  int index;

  __device__ void keep_less(const Loss& other) {
    if (other.value < value || (other.value == value && other.index < index)) *this = other;
  }
};

// The index of the least loss, the first of equals, by one warp; without a number among them 0.
__device__ int least_loss(const double* moved, const double* target, int experts, int points) {
  const int none = std::numeric_limits<int>::max();
  Loss best = {static_cast<double>(kInf), none};
  for (int i = threadIdx.x % kWarp; i < experts * points; i += kWarp) {
    double loss = 0;
    for (int k = 0; k < experts; ++k) loss += (moved[i] - target[k]) * (moved[i] - target[k]);
    best.keep_less({loss, i});
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    best.keep_less(
        {__shfl_xor_sync(kAllLanes, best.value, offset), __shfl_xor_sync(kAllLanes, best.index, offset)});
  return best.index == none ? 0 : best.index;
}

// A block chooses for one row. alpha: [experts, count]; chosen: the expert whose shift is added.
__global__ void __launch_bounds__(kThreads)
    choose_kernel(MomentTable table, Points points, Gate gate, int64_t count, float* alpha, int* chosen) {
  __shared__ Moments own[kMaxTerms], small[kMaxTerms];
  __shared__ double moved[kMaxTerms * kMaxGrid], target[kMaxTerms];
  const int64_t entry = blockIdx.x;
  const bool open = gate.open(entry);
  int expert = kClosed, index = 0;
  if (open) {  // the same in all threads
    for (int k = threadIdx.x; k < table.experts; k += kThreads) {
      own[k] = table.merged(entry, k, points.large());
      small[k] = table.merged(entry, k, points.small());
    }
    __syncthreads();
    for (int i = threadIdx.x; i < table.experts * (points.count + 1); i += kThreads) {
      const int k = i / (points.count + 1), at = i % (points.count + 1);
      const int point = at < points.count ? at : points.expert();
      const Moments here = table.merged(entry, k, point);
      const double kl = divergence(here, at < points.count ? own[k] : small[k], points.step(point));
      if (at < points.count)
        moved[k * points.count + at] = kl;
      else
        target[k] = kl;
    }
    __syncthreads();
    if (threadIdx.x < kWarp) index = least_loss(moved, target, table.experts, points.count);
    expert = own[0].sum == 0 ? kNoneLeft : index / points.count;
  }
  if (threadIdx.x) return;
  chosen[entry] = expert;
  for (int k = 0; k < table.experts; ++k)
    alpha[k * count + entry] = expert == kNoneLeft ? NAN
                               : k == expert       ? points.grid[index % points.count]
                                                   : 0.0f;
}

// Writes large + alpha (expert - small); out may be large itself.
__global__ void __launch_bounds__(kThreads)
    write_kernel(Models models, Rows out, RowIndex rows, int64_t vocab, int pieces, const float* alpha,
                 const int* chosen) {
  const Place place(pieces, rows.count);
  const int expert = chosen[place.entry];
  const int64_t row = rows[place.entry];
  const bool in_place = out.data == models.large.data;
  if (expert == kClosed && in_place) return;
  const float step = expert < 0 ? 0 : alpha[expert * rows.count + place.entry];
  const int64_t first = static_cast<int64_t>(place.piece) * kPieceChunks + threadIdx.x;
  for (int c = 0; c < kPieceChunks && (first + c) * kChunk < vocab; c += kThreads) {
    float large[kChunk], small[kChunk], d[kChunk], fused[kChunk];
    if (expert == kClosed)
      Row{models.large, row, vocab}.load(first + c, 0, fused);
    else
      load_tokens(models, row, vocab, first + c, expert, large, small, d);
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (expert != kClosed) fused[i] = expert == kNoneLeft ? NAN : fmaf(step, d[i], large[i]);
    Row{out, row, vocab}.store(first + c, fused);
  }
}

// Returns alpha, [experts, count].
Tensor fuse_into(const Tensor& out, const Tensor& large, const std::vector<Tensor>& experts,
                 const Tensor& small, const Tensor& grid, const MaybeTensor& gate_bits,
                 const MaybeTensor& rows) {
  check_logits(large, "large", -1, -1, large);
  check_terms(experts, "experts", large);
  check_logits(small, "small", large.size(0), large.size(1), large);
  STD_TORCH_CHECK(grid.numel() >= 1 && grid.numel() <= kMaxGrid, "grid: 1 to ", kMaxGrid,
                  " points are allowed");
  const Device device(large);
  const RowIndex index = row_index(rows, large);
  const int64_t vocab = large.size(1), count = index.count;
  const int pieces = static_cast<int>(pieces_of(vocab));
  const Models models = {rows_of(large, "large"), rows_of(small, "small"), terms_of(experts, "experts")};
  const Points points = {plain<float>(grid, "grid", ScalarType::Float, {grid.numel()}, large),
                         static_cast<int>(grid.numel())};
  const Tensor alpha = make(large, {models.experts.count, count}, ScalarType::Float);
  float* const alpha_data = static_cast<float*>(alpha.mutable_data_ptr());

  Gate gate = {per_row(gate_bits, "gate", count, large), {nullptr, count, pieces}};
  const Scratch<Stats> stats(large, gate_bits ? count * pieces : 0);
  if (gate_bits) {
    gather_stats(device, terms_of({large}, "large"), index, vocab, {}, nullptr, stats.data());
    gate.base.stats = stats.data();
  }
  MomentTable table = {nullptr, models.experts.count, pieces, points.all()};
  const Scratch<Moments> moments(large, table.size(count));
  const Scratch<int> chosen(large, count);
  table.data = moments.data();
  launch(device, "dynamic_fusion",
         points.all() <= kFewPoints * kWarps ? moments_kernel<kFewPoints> : moments_kernel<kMaxPoints>,
         count * pieces * table.experts, kThreads, models, index, vocab, points, gate, table);
  launch(device, "dynamic_fusion", choose_kernel, count, kThreads, table, points, gate, count, alpha_data,
         chosen.data());
  launch(device, "dynamic_fusion", write_kernel, count * pieces, kThreads, models,
         mutable_rows_of(out, "large"), index, vocab, pieces, alpha_data, chosen.data());
  return alpha;
}

}  // namespace

std::tuple<Tensor, Tensor> dynamic_fusion(const Tensor& large, const std::vector<Tensor>& experts,
                                          const Tensor& small, const Tensor& grid, const MaybeTensor& gate) {
  check_logits(large, "large", -1, -1, large);
  const Tensor fused = make(large, {large.size(0), large.size(1)}, large.scalar_type());
  return {fuse_into(fused, large, experts, small, grid, gate, {}), fused};
}

Tensor dynamic_fusion_(const Tensor& large, const std::vector<Tensor>& experts, const Tensor& small,
                       const Tensor& grid, const MaybeTensor& gate, const MaybeTensor& rows) {
  return fuse_into(large, large, experts, small, grid, gate, rows);
}

}  // namespace decant
