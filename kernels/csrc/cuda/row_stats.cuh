// Statistics of whole rows of logits, for the operators that need a softmax's sums before they can write.
#pragma once

#include "chunk.cuh"
#include "reduce.cuh"

namespace decant {

// Rows are cut into pieces of this many tokens whatever their number, so that no result depends on other
// rows.
constexpr int kThreads = 256;
constexpr int kPieceChunks = 4 * kThreads;
constexpr int64_t kPiece = kPieceChunks * kChunk;

inline int64_t pieces_of(int64_t vocab) { return ceil_div(vocab, kPiece); }

// Which piece of which row of which term a block works on; the pieces of a row are neighbours.
struct Place {
  int piece, term;
  int64_t entry;  // index into the worked-on rows

  __device__ Place(int pieces, int64_t entries)
      : piece(blockIdx.x % pieces),
        term(static_cast<int>(blockIdx.x / pieces / entries)),
        entry(blockIdx.x / pieces % entries) {}
};

// Statistics of `count` rows of some terms, in pieces: [terms, count, pieces].
struct RowStats {
  const Stats* stats;
  int64_t count;
  int pieces;

  __device__ Stats merged(int term, int64_t entry) const {
    return warp_merge(stats + (term * count + entry) * pieces, pieces);
  }
};

// Which rows are to be worked on: those whose entropy in bits exceeds the gate's, or all.
struct Gate {
  const float* bits;
  RowStats base;

  // By whole warps.
  __device__ bool open(int64_t entry) const { return !bits || base.merged(0, entry).entropy() > bits[entry]; }
};

// Gathers the statistics of each term, but not of closed rows, nor where the term's weight is zero.
// weights: [terms, count], or null.
void gather_stats(const Device& device, const Terms& terms, const RowIndex& rows, int64_t vocab,
                  const Gate& gate, const float* weights, Stats* stats);

}  // namespace decant
