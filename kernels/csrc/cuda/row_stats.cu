#include "row_stats.cuh"

#include "chunk.cuh"

namespace decant {
namespace {

__global__ void __launch_bounds__(kThreads)
    gather_kernel(Terms terms, RowIndex rows, int64_t vocab, int pieces, Gate gate, const float* weights,
                  Stats* stats) {
  const Place place(pieces, rows.count);
  if (weights && weights[place.term * rows.count + place.entry] == 0) return;
  if (!gate.open(place.entry)) return;
  float x[kPieceChunks / kThreads][kChunk];
  const Row row = {terms.term[place.term], rows[place.entry], vocab};
  row.load(static_cast<int64_t>(place.piece) * kPieceChunks + threadIdx.x, kThreads, -kInf, x);
  Online mine;
#pragma unroll
  for (int c = 0; c < kPieceChunks / kThreads; ++c) mine.add(x[c]);
  const Stats all = block_stats<kThreads>(mine);
  if (threadIdx.x == 0) stats[blockIdx.x] = all;
}

}  // namespace

void gather_stats(const Device& device, const Terms& terms, const RowIndex& rows, int64_t vocab,
                  const Gate& gate, const float* weights, Stats* stats) {
  const int64_t pieces = pieces_of(vocab);
  launch(device, "statistics of rows", gather_kernel, terms.count * rows.count * pieces, kThreads, terms,
         rows, vocab, static_cast<int>(pieces), gate, weights, stats);
}

}  // namespace decant
