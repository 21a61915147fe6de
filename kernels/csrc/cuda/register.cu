#include <torch/csrc/stable/library.h>

#include "operators.h"

// Schemas are defined in Python (kernels/schemas.py), for all devices.
STABLE_TORCH_LIBRARY_IMPL(decant, CUDA, m) {
  m.impl("entropy", TORCH_BOX(&decant::entropy));
  m.impl("fuse_logits_", TORCH_BOX(&decant::fuse_logits_));
  m.impl("dynamic_fusion", TORCH_BOX(&decant::dynamic_fusion));
  m.impl("dynamic_fusion_", TORCH_BOX(&decant::dynamic_fusion_));
  m.impl("pikl", TORCH_BOX(&decant::pikl));
  m.impl("adjacent_similarity", TORCH_BOX(&decant::adjacent_similarity));
  m.impl("window_scores", TORCH_BOX(&decant::window_scores));
  m.impl("merge_segments", TORCH_BOX(&decant::merge_segments));
  m.impl("merge_kv_", TORCH_BOX(&decant::merge_kv_));
  m.impl("slot_attention", TORCH_BOX(&decant::slot_attention));
}
