#include "isa.h"
#include "rows.h"

namespace decant {
namespace {

// One guide in one row: weight * ((logits - top) - log_sum).
struct FuseTerm {
  const char* logits;
  float weight;
  float top = 0, log_sum = 0;
};

// A row to be fused in place. Tokens with base - most < log_alpha are masked.
struct FuseRow {
  char* base;
  float top = 0, log_sum = 0;
  float most = 0, log_alpha = -std::numeric_limits<float>::infinity();
  std::vector<FuseTerm> terms;
};

}  // namespace
}  // namespace decant

#define DECANT_VECTOR_CODE "fuse_logits.inl"
#include "for_each_isa.h"

namespace decant {
namespace {

struct Fusion {
  Rows base;
  std::vector<Rows> guides;
  const float* weights;  // [guides, n]
  bool normalise;
  const float *alpha, *gate;  // [n] or null
  RowIndex index;

  bool needs_base_stats(int64_t i) const { return normalise || gate || (alpha && alpha[i] > 0); }

  float weight(int64_t guide, int64_t i) const { return weights[guide * index.count + i]; }

  // The row's terms and constants from its statistics; nothing if its gate is closed.
  bool prepare(int64_t i, const Stats& stats, FuseRow& row) const {
    if (gate && !(stats.entropy() > gate[i])) return false;
    row.base = base.row(index[i]);
    if (normalise) {
      row.top = stats.max;
      row.log_sum = static_cast<float>(stats.log_sum());
    }
    if (alpha && alpha[i] > 0) {
      row.most = stats.max;
      row.log_alpha = std::log(alpha[i]);
    }
    for (size_t k = 0; k < guides.size(); ++k)
      if (weight(k, i) != 0) row.terms.push_back({guides[k].row(index[i]), weight(k, i)});
    return true;
  }

  Dtype guide_dtype() const { return guides[0].dtype; }

  void normalise_term(FuseTerm& term, const Stats& stats) const {
    term.top = stats.max;
    term.log_sum = static_cast<float>(stats.log_sum());
  }

  void write(const FuseRow& row, int64_t from, int64_t to) const {
    DECANT_DISPATCH(fuse, row, base.dtype, guide_dtype(), from, to);
  }

  // Whole rows, a thread each: what the statistics have read is still in the thread's cache for the sum.
  void by_row(bool* applied) const {
    for_each(index.count, base.vocab, [&](int64_t i) {
      FuseRow row;
      Stats stats;
      if (needs_base_stats(i)) stats = gather_row(base.row(index[i]), base.dtype, base.vocab, gate != nullptr);
      applied[i] = prepare(i, stats, row);
      if (!applied[i]) return;
      if (normalise)
        for (FuseTerm& term : row.terms) normalise_term(term, gather_row(term.logits, guide_dtype(), base.vocab, false));
      write(row, 0, base.vocab);
    });
  }

  // Few rows: every step shares out the pieces of all rows. The same pieces in the same order, so the same bits.
  void by_piece(bool* applied) const {
    const int64_t cuts = pieces(base.vocab), most = 1 + guides.size();
    std::vector<Stats> parts(index.count * most * cuts);
    const auto end = [&](int64_t piece) { return std::min((piece + 1) * kPiece, base.vocab); };
    for_each(index.count * most * cuts, std::min(kPiece, base.vocab), [&](int64_t task) {
      const int64_t piece = task % cuts, term = task / cuts % most, i = task / cuts / most;
      if (term == 0 && needs_base_stats(i))
        parts[task] = gather(base.row(index[i]), base.dtype, piece * kPiece, end(piece), gate != nullptr);
      if (term > 0 && normalise && weight(term - 1, i) != 0)
        parts[task] = gather(guides[term - 1].row(index[i]), guide_dtype(), piece * kPiece, end(piece), false);
    });
    const auto merged = [&](int64_t i, int64_t term) {
      Stats stats;
      for (int64_t piece = 0; piece < cuts; ++piece) stats.merge(parts[(i * most + term) * cuts + piece]);
      return stats;
    };
    std::vector<FuseRow> rows(index.count);
    for (int64_t i = 0; i < index.count; ++i) {
      applied[i] = prepare(i, merged(i, 0), rows[i]);
      if (!applied[i] || !normalise) continue;
      size_t at = 0;
      for (size_t k = 0; k < guides.size(); ++k)
        if (weight(k, i) != 0) normalise_term(rows[i].terms[at++], merged(i, k + 1));
    }
    for_each(index.count * cuts, std::min(kPiece, base.vocab), [&](int64_t task) {
      if (applied[task / cuts]) write(rows[task / cuts], task % cuts * kPiece, end(task % cuts));
    });
  }
};

}  // namespace

Tensor fuse_logits_(const Tensor& base, const std::vector<Tensor>& guides, const Tensor& weights, bool normalise,
                    const std::optional<Tensor>& alpha, const std::optional<Tensor>& gate,
                    const std::optional<Tensor>& rows) {
  const Rows input(base, "base");
  const RowIndex index(rows, input.count, true);
  std::vector<Rows> terms;
  for (const Tensor& guide : guides) {
    terms.emplace_back(guide, "guides");
    STD_TORCH_CHECK(terms.back().count == input.count && terms.back().vocab == input.vocab &&
                        terms.back().dtype == terms[0].dtype,
                    "guides: base's shape and one dtype are needed");
  }
  STD_TORCH_CHECK(!terms.empty(), "guides: at least one is needed");
  check_type(weights, "weights", ScalarType::Float);
  check_shape(weights, "weights", {static_cast<int64_t>(terms.size()), index.count});
  STD_TORCH_CHECK(weights.is_contiguous(), "weights must be contiguous");
  const Fusion fusion{input,
                      std::move(terms),
                      data<float>(weights),
                      normalise,
                      optional_vector(alpha, "alpha", index.count),
                      optional_vector(gate, "gate", index.count),
                      index};
  Tensor applied = make(base, {index.count}, ScalarType::Bool);
  if (index.count >= 2 * static_cast<int64_t>(torch::stable::get_num_threads()))
    fusion.by_row(data<bool>(applied));
  else
    fusion.by_piece(data<bool>(applied));
  return applied;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("fuse_logits_", TORCH_BOX(&decant::fuse_logits_)); }
