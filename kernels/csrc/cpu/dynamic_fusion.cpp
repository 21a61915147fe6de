#include "isa.h"
#include "rows.h"

namespace decant {
namespace {

constexpr int64_t kMostExperts = 16;

// Sums over tokens relative to a maximum: of e^(x - max) and of d e^(x - max).
struct GridStats {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0, moment = 0;

  void raise(float top) {
    const double factor = std::exp(static_cast<double>(max) - top);
    sum *= factor;
    moment *= factor;
    max = top;
  }
  void merge(GridStats other) {
    if (other.max > max)
      raise(other.max);
    else if (other.max > -std::numeric_limits<float>::infinity())
      other.raise(max);
    sum += other.sum;
    moment += other.moment;
  }
  double lse() const { return max + std::log(sum); }
  double mean() const { return moment / sum; }
};

struct Grid {
  const float* points;
  int64_t count;
  float step = 0;
  bool uniform = false;
  int64_t zero = -1;  // the point 0, where the fused logits are the large model's own

  Grid(const float* values, int64_t n) : points(values), count(n) {
    for (int64_t i = 0; i < n && zero < 0; ++i) zero = values[i] == 0 ? i : -1;
    if (n < 2) return;
    step = (values[n - 1] - values[0]) / static_cast<float>(n - 1);
    uniform = true;
    for (int64_t i = 0; i < n; ++i)
      uniform = uniform && std::abs(values[0] + i * step - values[i]) <= 1e-6f * std::max(1.0f, std::abs(values[i]));
  }
};

struct FusionRow {
  const char *large, *small;
  std::vector<const char*> experts;
  char* out;
  Dtype large_dtype, dtype;
};

struct FusionStats {
  GridStats large, small;
  std::vector<GridStats> experts, grid;  // [experts], [experts * points]

  FusionStats(size_t count, int64_t points) : experts(count), grid(count * points) {}

  void merge(const FusionStats& other) {
    large.merge(other.large);
    small.merge(other.small);
    for (size_t k = 0; k < experts.size(); ++k) experts[k].merge(other.experts[k]);
    for (size_t k = 0; k < grid.size(); ++k) grid[k].merge(other.grid[k]);
  }
};

}  // namespace
}  // namespace decant

#define DECANT_VECTOR_CODE "dynamic_fusion.inl"
#include "for_each_isa.h"

namespace decant {
namespace {

struct Choice {
  int64_t expert = 0;
  float alpha = 0;
};

// The expert and grid point that minimise sum_k (KL(P~||P) - KL(Q_k||Q))^2, the first of equals.
Choice choose(const FusionStats& stats, const Grid& grid) {
  const int64_t count = static_cast<int64_t>(stats.experts.size());
  std::vector<double> targets(count);
  for (int64_t k = 0; k < count; ++k)
    targets[k] = stats.experts[k].mean() - stats.experts[k].lse() + stats.small.lse();
  const double large = (grid.zero < 0 ? stats.large : stats.grid[grid.zero]).lse();
  Choice best;
  best.alpha = grid.points[0];
  double least = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < count; ++k)
    for (int64_t p = 0; p < grid.count; ++p) {
      const GridStats& moved = stats.grid[k * grid.count + p];
      const double divergence = grid.points[p] * moved.mean() - moved.lse() + large;
      double loss = 0;
      for (const double target : targets) loss += (divergence - target) * (divergence - target);
      if (loss < least) {
        least = loss;
        best = {k, grid.points[p]};
      }
    }
  return best;
}

struct DynamicFusion {
  Rows large;
  std::vector<Rows> experts;
  Rows small;
  Rows out;
  Grid grid;
  const float* gate;
  RowIndex index;
  float* alpha;  // [experts, n]

  FusionRow row(int64_t i) const {
    FusionRow row{large.row(index[i]), small.row(index[i]), {}, out.row(index[i]), large.dtype, small.dtype};
    for (const Rows& expert : experts) row.experts.push_back(expert.row(index[i]));
    return row;
  }

  bool open(int64_t i) const {
    return !gate || gather_row(large.row(index[i]), large.dtype, large.vocab, true).entropy() > gate[i];
  }

  FusionStats sweep_piece(const FusionRow& row, int64_t piece) const {
    FusionStats stats(experts.size(), grid.count);
    const int64_t to = std::min((piece + 1) * kPiece, large.vocab);
    DECANT_DISPATCH(sweep, row, grid, piece * kPiece, to, stats);
    return stats;
  }

  void write(int64_t i, const FusionRow& row, const FusionStats& stats, int64_t from, int64_t to) const {
    const bool none = !(stats.small.sum > 0);
    const Choice choice = none ? Choice{} : choose(stats, grid);
    if (from == 0)
      for (size_t k = 0; k < experts.size(); ++k)
        alpha[k * index.count + i] = none ? std::numeric_limits<float>::quiet_NaN()
                                     : static_cast<int64_t>(k) == choice.expert ? choice.alpha
                                                                                 : 0.0f;
    DECANT_DISPATCH(write_fused, row, choice.expert, choice.alpha, none, from, to);
  }

  void leave(int64_t i) const {
    for (size_t k = 0; k < experts.size(); ++k) alpha[k * index.count + i] = 0;
    if (out.data != large.data) std::memcpy(out.row(index[i]), large.row(index[i]), large.vocab * size_of(large.dtype));
  }

  void by_row() const {
    for_each(index.count, large.vocab * grid.count, [&](int64_t i) {
      if (!open(i)) return leave(i);
      const FusionRow one = row(i);
      FusionStats stats(experts.size(), grid.count);
      for (int64_t piece = 0; piece < pieces(large.vocab); ++piece) stats.merge(sweep_piece(one, piece));
      write(i, one, stats, 0, large.vocab);
    });
  }

  void by_piece() const {
    const int64_t cuts = pieces(large.vocab);
    for (int64_t i = 0; i < index.count; ++i) {
      if (!open(i)) {
        leave(i);
        continue;
      }
      const FusionRow one = row(i);
      std::vector<FusionStats> parts(cuts, FusionStats(experts.size(), grid.count));
      for_each(cuts, kPiece * grid.count, [&](int64_t piece) { parts[piece] = sweep_piece(one, piece); });
      FusionStats stats(experts.size(), grid.count);
      for (const FusionStats& part : parts) stats.merge(part);
      for_each(cuts, kPiece, [&](int64_t piece) {
        write(i, one, stats, piece * kPiece, std::min((piece + 1) * kPiece, large.vocab));
      });
    }
  }
};

Tensor run(const Tensor& large, const std::vector<Tensor>& experts, const Tensor& small, const Tensor& grid,
           const std::optional<Tensor>& gate, const std::optional<Tensor>& rows, const Tensor& out) {
  const Rows input(large, "large");
  const RowIndex index(rows, input.count, true);
  const auto alike = [&](const Tensor& tensor, const char* name) {
    const Rows one(tensor, name);
    STD_TORCH_CHECK(one.count == input.count && one.vocab == input.vocab, name, ": large's shape is needed");
    return one;
  };
  const Rows lesser = alike(small, "small");
  std::vector<Rows> terms;
  for (const Tensor& expert : experts) {
    terms.push_back(alike(expert, "experts"));
    STD_TORCH_CHECK(terms.back().dtype == lesser.dtype, "experts: small's dtype is needed");
  }
  STD_TORCH_CHECK(!terms.empty() && terms.size() <= kMostExperts, "experts: 1 to 16 are allowed");
  check_type(grid, "grid", ScalarType::Float);
  STD_TORCH_CHECK(grid.dim() == 1 && grid.numel() > 0 && grid.is_contiguous(), "grid: a contiguous vector is needed");
  Tensor alpha = make(grid, {static_cast<int64_t>(terms.size()), index.count}, ScalarType::Float);
  const DynamicFusion fusion{input,
                             std::move(terms),
                             lesser,
                             Rows(out, "large"),
                             Grid(data<float>(grid), grid.numel()),
                             optional_vector(gate, "gate", index.count),
                             index,
                             data<float>(alpha)};
  if (index.count >= 2 * static_cast<int64_t>(torch::stable::get_num_threads()))
    fusion.by_row();
  else
    fusion.by_piece();
  return alpha;
}

}  // namespace

std::tuple<Tensor, Tensor> dynamic_fusion(const Tensor& large, const std::vector<Tensor>& experts, const Tensor& small,
                                          const Tensor& grid, const std::optional<Tensor>& gate) {
  Tensor fused = make(large, {large.size(0), large.size(1)}, large.scalar_type());
  Tensor alpha = run(large, experts, small, grid, gate, std::nullopt, fused);
  return {alpha, fused};
}

Tensor dynamic_fusion_(const Tensor& large, const std::vector<Tensor>& experts, const Tensor& small, const Tensor& grid,
                       const std::optional<Tensor>& gate, const std::optional<Tensor>& rows) {
  return run(large, experts, small, grid, gate, rows, large);
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) {
  m.impl("dynamic_fusion", TORCH_BOX(&decant::dynamic_fusion));
  m.impl("dynamic_fusion_", TORCH_BOX(&decant::dynamic_fusion_));
}
