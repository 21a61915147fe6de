#include "isa.h"
#include "kv.h"

#define DECANT_VECTOR_CODE "similarity.inl"
#include "for_each_isa.h"

namespace decant {

Tensor adjacent_similarity(const Tensor& keys, const std::optional<Tensor>& block_table, int64_t length) {
  const KV cache(keys, block_table, length, "keys");
  const int64_t links = length - 1, cuts = (links + kTokenPiece - 1) / kTokenPiece;
  Tensor out = make(keys, {cache.heads, links}, ScalarType::Float);
  // Piece by piece, all heads of a piece in turn: with heads side by side their keys share pages.
  for_each(cuts * cache.heads, std::min(kTokenPiece, links) * cache.dim, [&](int64_t task) {
    const int64_t head = task % cache.heads, from = task / cache.heads * kTokenPiece;
    DECANT_DISPATCH(similarity, cache, head, from, std::min(from + kTokenPiece, links),
                    data<float>(out) + head * links);
  });
  return out;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("adjacent_similarity", TORCH_BOX(&decant::adjacent_similarity)); }
