// Tensors as the CPU operators see them: dtypes, scalar access, and checks of what the Python functions promise.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

namespace decant {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum class Dtype { kFloat, kBFloat16, kHalf };

inline Dtype dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kHalf;
    default: STD_TORCH_CHECK(false, name, ": float32, bfloat16 or float16 is needed");
  }
  return Dtype::kFloat;
}

inline int64_t size_of(Dtype dtype) { return dtype == Dtype::kFloat ? 4 : 2; }

// Element i of a row, as a float.
inline float element(const void* p, Dtype dtype, int64_t i) {
  if (dtype == Dtype::kFloat) return static_cast<const float*>(p)[i];
  if (dtype == Dtype::kBFloat16) return static_cast<const torch::headeronly::BFloat16*>(p)[i];
  return static_cast<const torch::headeronly::Half*>(p)[i];
}

inline void check_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> wanted) {
  bool same = tensor.dim() == static_cast<int64_t>(wanted.size());
  int64_t i = 0;
  for (const int64_t size : wanted) {
    if (!same) break;
    same = size < 0 || tensor.size(i) == size;
    ++i;
  }
  STD_TORCH_CHECK(same, name, " has an unexpected shape");
}

inline void check_type(const Tensor& tensor, const char* name, ScalarType type) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": dtype ", toString(type), " is needed");
}

inline void check_dense(const Tensor& tensor, const char* name) {
  const int64_t last = tensor.dim() - 1;
  STD_TORCH_CHECK(tensor.size(last) <= 1 || tensor.stride(last) == 1, name, ": the last dimension must be contiguous");
}

// Rows of logits: [rows, vocab] with the tokens of a row next to each other.
struct Rows {
  char* data;
  Dtype dtype;
  int64_t count, vocab, step;  // step: bytes from row to row

  Rows(const Tensor& tensor, const char* name) : dtype(dtype_of(tensor, name)) {
    STD_TORCH_CHECK(tensor.dim() == 2, name, ": [rows, vocab] is needed");
    check_dense(tensor, name);
    data = static_cast<char*>(tensor.data_ptr());
    count = tensor.size(0);
    vocab = tensor.size(1);
    step = tensor.stride(0) * size_of(dtype);
  }

  char* row(int64_t i) const { return data + i * step; }
};

// Which rows to work on: those of an index, or all.
struct RowIndex {
  const int64_t* index = nullptr;
  int64_t count;

  // Rows written through the index must be distinct.
  RowIndex(const std::optional<Tensor>& rows, int64_t total, bool distinct) : count(total) {
    if (!rows) return;
    check_type(*rows, "rows", ScalarType::Long);
    STD_TORCH_CHECK(rows->dim() == 1 && rows->is_contiguous(), "rows: a contiguous vector is needed");
    index = static_cast<const int64_t*>(rows->data_ptr());
    count = rows->numel();
    std::vector<bool> seen(distinct ? total : 0);
    for (int64_t i = 0; i < count; ++i) {
      STD_TORCH_CHECK(index[i] >= 0 && index[i] < total, "IndexError: rows holds ", index[i], "; 0 to ", total - 1,
                      " is allowed");
      if (!distinct) continue;
      STD_TORCH_CHECK(!seen[index[i]], "ValueError: rows holds ", index[i], " twice; distinct rows are needed");
      seen[index[i]] = true;
    }
  }

  int64_t operator[](int64_t i) const { return index ? index[i] : i; }
};

// A float32 vector with one entry a worked-on row, or nothing.
inline const float* optional_vector(const std::optional<Tensor>& tensor, const char* name, int64_t count) {
  if (!tensor) return nullptr;
  check_type(*tensor, name, ScalarType::Float);
  STD_TORCH_CHECK(tensor->dim() == 1 && tensor->numel() == count && tensor->is_contiguous(), name,
                  ": a contiguous vector with an entry for each row is needed");
  return static_cast<const float*>(tensor->data_ptr());
}

inline Tensor make(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  const std::vector<int64_t> shape(sizes);
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, type);
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

}  // namespace decant
