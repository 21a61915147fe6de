#include <algorithm>

#include "operators.h"
#include "order.cuh"
#include "reduce.cuh"

namespace decant {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / kWarp;
constexpr int kBins = 256, kDigit = 8;
constexpr uint64_t kNone = ~uint64_t{0};  // no item has this key

struct Selection {
  int bins[kBins];
  int digit, wanted, there;
};

// Of the bins' keys, from the highest bin down, finds the bin of the `wanted`-th; by one warp.
__device__ void find_bin(Selection& selection, int wanted) {
  constexpr int kMine = kBins / kWarp;
  const int lane = threadIdx.x % kWarp, first = kBins - 1 - lane * kMine;
  int mine = 0;
#pragma unroll
  for (int i = 0; i < kMine; ++i) mine += selection.bins[first - i];
  int upto = mine;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int before = __shfl_up_sync(kAllLanes, upto, offset);
    if (lane >= offset) upto += before;
  }
  const int above = upto - mine;
  if (above >= wanted || upto < wanted) return;  // one lane is left
  int left = wanted - above, digit = first;
  while (left > selection.bins[digit]) left -= selection.bins[digit--];
  selection.digit = digit;
  selection.wanted = left;
  selection.there = selection.bins[digit];
}

// The `wanted`-th largest key of those items below `count` that are open, digit by digit; all threads must
// call it.
template <typename Items>
__device__ uint64_t threshold(const Items& items, int count, int wanted, Selection& selection) {
  uint64_t prefix = 0, known = 0;
  if (wanted == 0) return kNone;
  for (int shift = 64 - kDigit; shift >= 0; shift -= kDigit) {
    for (int i = threadIdx.x; i < kBins; i += kThreads) selection.bins[i] = 0;
    if (threadIdx.x == 0) selection.digit = -1;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (!items.open(i)) continue;
      const uint64_t key = items.key(i);
      if ((key & known) == prefix) atomicAdd(&selection.bins[key >> shift & (kBins - 1)], 1);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) find_bin(selection, wanted);
    __syncthreads();
    assert(selection.digit >= 0 && "fewer items are open than wanted");
    prefix |= static_cast<uint64_t>(selection.digit) << shift;
    known |= static_cast<uint64_t>(kBins - 1) << shift;
    wanted = selection.wanted;
    const bool whole = selection.there == wanted;  // all of the bin's keys are among the largest
    __syncthreads();
    if (whole) break;
  }
  return prefix;
}

struct Tokens {
  const float* scores;
  int sinks;
  uint64_t heavy;  // the least key of a heavy token

  __device__ bool open(int token) const { return token >= sinks; }
  __device__ uint64_t key(int token) const { return key_of(scores[token], token); }
  __device__ bool protects(int token) const {
    return !open(token) || (heavy != kNone && key(token) >= heavy);
  }
};

struct Links {
  const float* similarity;
  Tokens tokens;
  uint64_t taken;  // the least key of a taken link

  __device__ bool open(int link) const { return !tokens.protects(link) && !tokens.protects(link + 1); }
  __device__ uint64_t key(int link) const { return key_of(similarity[link], link); }
  __device__ bool takes(int link) const { return open(link) && key(link) >= taken; }
};

// Numbers the segments: a token starts one unless the link before it is taken.
__device__ void number(const Links& links, int count, int* segments) {
  __shared__ int totals[2][kWarps];  // in turns, so that one barrier a round is enough
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int carried = 0;
  for (int at = 0, turn = 0; at < count; at += kThreads, turn ^= 1) {
    const int token = at + threadIdx.x;
    const bool starts = token > 0 && token < count && !links.takes(token - 1);
    const unsigned starting = __ballot_sync(kAllLanes, starts);
    if (lane == 0) totals[turn][warp] = __popc(starting);
    __syncthreads();
    const int total = totals[turn][lane];  // a lane for each warp
    const int before = group_sum(lane < warp ? total : 0);
    const int upto = __popc(starting & (kAllLanes >> (kWarp - 1 - lane)));
    if (token < count) segments[token] = carried + before + upto;
    carried += group_sum(total);
  }
}

// A block works on one head.
__global__ void __launch_bounds__(kThreads)
    segment_kernel(const float* similarity, int64_t similarity_step, const float* scores, int64_t scores_step,
                   int tokens, int slots, int sinks, int heavy, int* segments) {
  __shared__ Selection selection;
  const int64_t head = blockIdx.x;
  Tokens of_head = {scores + head * scores_step, sinks, 0};
  of_head.heavy = threshold(of_head, tokens, heavy, selection);
  Links links = {similarity + head * similarity_step, of_head, 0};
  links.taken = threshold(links, tokens - 1, tokens - slots, selection);
  number(links, tokens, segments + head * tokens);
}

}  // namespace

static_assert(kWarps == kWarp, "number() has a lane for each warp");

Tensor merge_segments(const Tensor& similarity, const Tensor& scores, int64_t slots, int64_t sinks,
                      int64_t heavy) {
  check_type(similarity, "similarity", ScalarType::Float);
  check_shape(similarity, "similarity", {-1, -1});
  check_dense(similarity, "similarity");
  check_on(scores, "scores", similarity);
  check_type(scores, "scores", ScalarType::Float);
  check_shape(scores, "scores", {similarity.size(0), -1});
  check_dense(scores, "scores");
  const int64_t heads = similarity.size(0), tokens = similarity.size(1) + 1;
  STD_TORCH_CHECK(tokens <= std::numeric_limits<int32_t>::max() - kThreads, "similarity is too large");
  STD_TORCH_CHECK(scores.size(1) >= tokens, "scores: at least ", tokens, " tokens are needed");
  STD_TORCH_CHECK(sinks >= 0 && heavy >= 0, "sinks and heavy: 0 or more is needed");
  sinks = std::min(sinks, tokens);
  heavy = std::min(heavy, tokens - sinks);
  STD_TORCH_CHECK(slots >= std::min(tokens, sinks + 2 * heavy + 1) && slots <= tokens,
                  "slots is out of range");
  const Device device(similarity);
  const Tensor segments = make(similarity, {heads, tokens}, ScalarType::Int);
  launch(device, "merge_segments", segment_kernel, heads, kThreads,
         static_cast<const float*>(similarity.const_data_ptr()), similarity.stride(0),
         static_cast<const float*>(scores.const_data_ptr()), scores.stride(0), static_cast<int>(tokens),
         static_cast<int>(slots), static_cast<int>(sinks), static_cast<int>(heavy),
         static_cast<int*>(segments.mutable_data_ptr()));
  return segments;
}

}  // namespace decant
