#include "isa.h"
#include "rows.h"

#define DECANT_VECTOR_CODE "stats.inl"
#include "for_each_isa.h"

namespace decant {

Stats gather(const void* row, Dtype dtype, int64_t from, int64_t to, bool weighted) {
  return DECANT_DISPATCH(gather, row, dtype, from, to, weighted);
}

Stats gather_row(const void* row, Dtype dtype, int64_t vocab, bool weighted) {
  Stats stats;
  for (int64_t from = 0; from < vocab; from += kPiece)
    stats.merge(gather(row, dtype, from, std::min(from + kPiece, vocab), weighted));
  return stats;
}

Tensor entropy(const Tensor& logits, const std::optional<Tensor>& rows) {
  const Rows input(logits, "logits");
  const RowIndex index(rows, input.count, false);
  Tensor output = make(logits, {index.count}, ScalarType::Float);
  const int64_t cuts = pieces(input.vocab);
  std::vector<Stats> parts(index.count * cuts);
  for_each(index.count * cuts, std::min(kPiece, input.vocab), [&](int64_t task) {
    const int64_t from = task % cuts * kPiece;
    parts[task] = gather(input.row(index[task / cuts]), input.dtype, from, std::min(from + kPiece, input.vocab), true);
  });
  for (int64_t i = 0; i < index.count; ++i) {
    Stats stats;
    for (int64_t piece = 0; piece < cuts; ++piece) stats.merge(parts[i * cuts + piece]);
    data<float>(output)[i] = stats.entropy();
  }
  return output;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("entropy", TORCH_BOX(&decant::entropy)); }
