#include "chunk.cuh"
#include "operators.h"
#include "row_stats.cuh"

namespace decant {
namespace {

constexpr int kBatch = 2;  // chunks a thread works on at once

struct FuseParams {
  const float* weights;  // [guides, count]
  const float* alpha;    // [count], or null
  Gate gate;
  bool normalise;
  RowStats base, guides;  // of base: if anything above needs them; of guides: if normalised
};

// How one row is fused.
struct Plan {
  bool open, masked;
  float most, log_alpha;  // a token is plausible if its logit less `most` reaches `log_alpha`
  float top, log_sum;     // what log-softmax takes off base, else 0
  float weight[kMaxTerms], guide_top[kMaxTerms], guide_log_sum[kMaxTerms];
  int used;  // guides of a weight other than zero
};

__device__ void plan_base(const FuseParams& params, int64_t entry, Plan& plan) {
  Stats stats = {};
  if (params.base.stats) stats = params.base.merged(0, entry);
  const float alpha = params.alpha ? params.alpha[entry] : 0;
  if (threadIdx.x % kWarp) return;
  plan.masked = alpha > 0;
  // The maximum passes over NaN, the sum does not: with a NaN in the row no token is plausible.
  plan.most = isnan(stats.sum) ? NAN : stats.max;
  plan.log_alpha = static_cast<float>(log(static_cast<double>(alpha)));
  plan.top = params.normalise ? stats.max : 0;
  plan.log_sum = params.normalise ? stats.log_sum() : 0;
}

// Fills in the plan; all threads of the block must call it.
__device__ void make_plan(const FuseParams& params, int64_t entry, int guides, Plan& plan) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const bool open = params.gate.open(entry);
  if (warp == 0) plan_base(params, entry, plan);
  for (int k = warp; k < guides; k += kThreads / kWarp) {
    const float weight = params.weights[k * params.base.count + entry];
    Stats stats = {};
    if (params.normalise && weight != 0 && open) stats = params.guides.merged(k, entry);
    if (lane) continue;
    plan.weight[k] = weight;
    plan.guide_top[k] = params.normalise ? stats.max : 0;
    plan.guide_log_sum[k] = params.normalise ? stats.log_sum() : 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    plan.open = open;
    plan.used = 0;
    for (int k = 0; k < guides; ++k) plan.used += plan.weight[k] != 0;
  }
  __syncthreads();
}

__device__ void fuse_chunks(const Plan& plan, const Row& base, const Terms& guides, int64_t first) {
  float total[kBatch][kChunk], x[kBatch][kChunk];
  bool ruled_out[kBatch][kChunk];
  base.load(first, kThreads, 0, x);
#pragma unroll
  for (int c = 0; c < kBatch; ++c)
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      ruled_out[c][i] = x[c][i] == -kInf || (plan.masked && !(x[c][i] - plan.most >= plan.log_alpha));
      total[c][i] = (x[c][i] - plan.top) - plan.log_sum;
    }
  for (int k = 0; k < guides.count; ++k) {
    const float weight = plan.weight[k], top = plan.guide_top[k], log_sum = plan.guide_log_sum[k];
    if (weight == 0) continue;
    Row{guides.term[k], base.index, base.vocab}.load(first, kThreads, 0, x);
#pragma unroll
    for (int c = 0; c < kBatch; ++c)
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        ruled_out[c][i] |= x[c][i] == -kInf;
        total[c][i] += weight * ((x[c][i] - top) - log_sum);
      }
  }
#pragma unroll
  for (int c = 0; c < kBatch; ++c) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) total[c][i] = ruled_out[c][i] ? -kInf : total[c][i];
    base.store(first + c * kThreads, total[c]);
  }
}

__global__ void __launch_bounds__(kThreads) fuse_kernel(Rows base, Terms guides, RowIndex rows, int64_t vocab,
                                                        int pieces, FuseParams params, bool* opened) {
  __shared__ Plan plan;
  const Place place(pieces, rows.count);
  make_plan(params, place.entry, guides.count, plan);
  if (place.piece == 0 && threadIdx.x == 0) opened[place.entry] = plan.open;
  if (!plan.open || !(plan.used || plan.masked || params.normalise)) return;
  const Row row = {base, rows[place.entry], vocab};
  const int64_t first = static_cast<int64_t>(place.piece) * kPieceChunks + threadIdx.x;
  for (int c = 0; c < kPieceChunks; c += kBatch * kThreads) fuse_chunks(plan, row, guides, first + c);
}

}  // namespace

Tensor fuse_logits_(const Tensor& base, const std::vector<Tensor>& guides, const Tensor& weights,
                    bool normalise, const MaybeTensor& alpha, const MaybeTensor& gate,
                    const MaybeTensor& rows) {
  check_logits(base, "base", -1, -1, base);
  check_terms(guides, "guides", base);
  const Device device(base);
  const RowIndex index = row_index(rows, base);
  const Terms terms = terms_of(guides, "guides");
  const int64_t count = index.count, vocab = base.size(1), pieces = pieces_of(vocab);
  FuseParams params = {};
  params.weights = plain<float>(weights, "weights", ScalarType::Float, {terms.count, count}, base);
  params.alpha = per_row(alpha, "alpha", count, base);
  params.normalise = normalise;
  params.base = params.guides = {nullptr, count, static_cast<int>(pieces)};

  const bool measured = normalise || alpha || gate;
  const Scratch<Stats> base_stats(base, measured ? count * pieces : 0);
  const Scratch<Stats> guide_stats(base, normalise ? terms.count * count * pieces : 0);
  if (measured) {
    gather_stats(device, terms_of({base}, "base"), index, vocab, {}, nullptr, base_stats.data());
    params.base.stats = base_stats.data();
    params.gate = {per_row(gate, "gate", count, base), params.base};
  }
  if (normalise) {
    gather_stats(device, terms, index, vocab, params.gate, params.weights, guide_stats.data());
    params.guides.stats = guide_stats.data();
  }
  const Tensor opened = make(base, {count}, ScalarType::Bool);
  launch(device, "fuse_logits_", fuse_kernel, count * pieces, kThreads, mutable_rows_of(base, "base"), terms,
         index, vocab, static_cast<int>(pieces), params, static_cast<bool*>(opened.mutable_data_ptr()));
  return opened;
}

}  // namespace decant
