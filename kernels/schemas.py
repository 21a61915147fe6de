"""The operators' torch schemas: the one statement of their low-level signatures."""

NAMESPACE = "decant"

SCHEMAS = {
    "entropy": "(Tensor logits, Tensor? rows) -> Tensor",
    "fuse_logits_": "(Tensor(a!) base, Tensor[] guides, Tensor weights, bool normalise, Tensor? alpha, "
    "Tensor? gate, Tensor? rows) -> Tensor",
    "dynamic_fusion": "(Tensor large, Tensor[] experts, Tensor small, Tensor grid, Tensor? gate) "
    "-> (Tensor, Tensor)",
    "dynamic_fusion_": "(Tensor(a!) large, Tensor[] experts, Tensor small, Tensor grid, Tensor? gate, "
    "Tensor? rows) -> Tensor",
    "pikl": "(Tensor generator, Tensor discriminator, Tensor lengths, float eta_g, float lam_g, float eta_d, "
    "float lam_d, int iterations) -> (Tensor, Tensor)",
    "adjacent_similarity": "(Tensor keys, Tensor? block_table, int length) -> Tensor",
    "window_scores": "(Tensor query, Tensor keys, Tensor? block_table, int length, float scale) -> Tensor",
    "merge_segments": "(Tensor similarity, Tensor scores, int slots, int sinks, int heavy) -> Tensor",
    "merge_kv_": "(Tensor(a!) keys, Tensor(b!) values, Tensor scores, Tensor segments, Tensor? block_table, "
    "int slots, float? sigma) -> Tensor",
    "slot_attention": "(Tensor query, Tensor keys, Tensor values, Tensor mass, Tensor? block_table, "
    "int length, float scale) -> Tensor",
}
