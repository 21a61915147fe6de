#include "operators.h"
#include "row_stats.cuh"

namespace decant {
namespace {

// A second launch merges the pieces: it costs what zeroing a counter would, and needs no fence.
__global__ void __launch_bounds__(kThreads) finish_kernel(RowStats rows, float* bits) {
  const int64_t entry = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (entry >= rows.count) return;
  const float mine = rows.merged(0, entry).entropy();
  if (threadIdx.x % kWarp == 0) bits[entry] = mine;
}

}  // namespace

Tensor entropy(const Tensor& logits, const MaybeTensor& rows) {
  check_logits(logits, "logits", -1, -1, logits);
  const Device device(logits);
  const RowIndex index = row_index(rows, logits);
  const int64_t vocab = logits.size(1), pieces = pieces_of(vocab);
  const Tensor bits = make(logits, {index.count}, ScalarType::Float);
  const Scratch<Stats> stats(logits, index.count * pieces);
  gather_stats(device, terms_of({logits}, "logits"), index, vocab, {}, nullptr, stats.data());
  launch(device, "entropy", finish_kernel, ceil_div(index.count * kWarp, kThreads), kThreads,
         RowStats{stats.data(), index.count, static_cast<int>(pieces)},
         static_cast<float*>(bits.mutable_data_ptr()));
  return bits;
}

}  // namespace decant
