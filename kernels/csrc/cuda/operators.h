// The CUDA operators; kernels/ops.py says what they do.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace decant {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

Tensor entropy(const Tensor& logits, const MaybeTensor& rows);

Tensor fuse_logits_(const Tensor& base, const std::vector<Tensor>& guides, const Tensor& weights,
                    bool normalise, const MaybeTensor& alpha, const MaybeTensor& gate,
                    const MaybeTensor& rows);

std::tuple<Tensor, Tensor> dynamic_fusion(const Tensor& large, const std::vector<Tensor>& experts,
                                          const Tensor& small, const Tensor& grid, const MaybeTensor& gate);

Tensor dynamic_fusion_(const Tensor& large, const std::vector<Tensor>& experts, const Tensor& small,
                       const Tensor& grid, const MaybeTensor& gate, const MaybeTensor& rows);

std::tuple<Tensor, Tensor> pikl(const Tensor& generator, const Tensor& discriminator, const Tensor& lengths,
                                double eta_g, double lam_g, double eta_d, double lam_d, int64_t iterations);

Tensor adjacent_similarity(const Tensor& keys, const MaybeTensor& block_table, int64_t length);

Tensor window_scores(const Tensor& query, const Tensor& keys, const MaybeTensor& block_table, int64_t length,
                     double scale);

Tensor merge_segments(const Tensor& similarity, const Tensor& scores, int64_t slots, int64_t sinks,
                      int64_t heavy);

Tensor merge_kv_(const Tensor& keys, const Tensor& values, const Tensor& scores, const Tensor& segments,
                 const MaybeTensor& block_table, int64_t slots, std::optional<double> sigma);

Tensor slot_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& mass,
                      const MaybeTensor& block_table, int64_t length, double scale);

}  // namespace decant
