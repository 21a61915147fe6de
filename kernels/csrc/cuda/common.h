// Tensors as the CUDA operators see them: dtypes, launches, and checks of what the Python functions promise.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <vector>

// An assertion is the device's only way to refuse an index: it stays in every build.
#undef NDEBUG
#include <cassert>

namespace decant {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896341f;
constexpr int kWarp = 32;
constexpr int kMaxTerms = 16;

// The device a tensor lies on, made current for the scope, and the stream to work on.
class Device {
 public:
  explicit Device(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream_ = static_cast<cudaStream_t>(current);
  }

  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

template <typename... Params, typename... Args>
void launch(const Device& device, const char* name, void (*kernel)(Params...), int64_t blocks, int threads,
            const Args&... args) {
  if (blocks == 0) return;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "decant: ", name, " would need ", blocks,
                  " blocks; the tensors are too large for one launch");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = device.stream();
  const cudaError_t launched = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  const cudaError_t last = cudaGetLastError();  // also clears it
  const cudaError_t error = launched != cudaSuccess ? launched : last;
  STD_TORCH_CHECK(error == cudaSuccess, "decant: ", name,
                  " could not be launched: ", cudaGetErrorString(error));
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline Tensor make(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  const std::vector<int64_t> shape(sizes);
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, type);
}

// Scratch memory for `count` values of T; from torch's allocator, so that CUDA graphs may capture it.
template <typename T>
class Scratch {
 public:
  Scratch(const Tensor& like, int64_t count) {
    if (count) tensor_ = make(like, {count * static_cast<int64_t>(sizeof(T))}, ScalarType::Byte);
  }

  T* data() const { return tensor_ ? static_cast<T*>(tensor_->mutable_data_ptr()) : nullptr; }

 private:
  std::optional<Tensor> tensor_;
};

// Calls f with a zero of the tensor's element type.
template <typename F>
void dispatch(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(BFloat16{});
    case ScalarType::Half: return f(Half{});
    default: STD_TORCH_CHECK(false, name, ": float32, bfloat16 or float16 is needed");
  }
}

inline void check_on(const Tensor& tensor, const char* name, const Tensor& other) {
  STD_TORCH_CHECK(tensor.device() == other.device(), name, " is on another device");
}

inline void check_type(const Tensor& tensor, const char* name, ScalarType type) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": dtype ", toString(type), " is needed");
}

// A negative size stands for any.
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

inline void check_dense(const Tensor& tensor, const char* name) {
  const int64_t last = tensor.dim() - 1;
  STD_TORCH_CHECK(tensor.size(last) <= 1 || tensor.stride(last) == 1, name,
                  ": the last dimension must be contiguous");
}

// A contiguous tensor of one dtype and shape on the device of `other`.
template <typename T>
const T* plain(const Tensor& tensor, const char* name, ScalarType type, std::initializer_list<int64_t> sizes,
               const Tensor& other) {
  check_on(tensor, name, other);
  check_type(tensor, name, type);
  check_shape(tensor, name, sizes);
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": a contiguous tensor is needed");
  return static_cast<const T*>(tensor.const_data_ptr());
}

// A float32 vector with one entry a worked-on row, or nothing.
inline const float* per_row(const std::optional<Tensor>& tensor, const char* name, int64_t count,
                            const Tensor& other) {
  return tensor ? plain<float>(*tensor, name, ScalarType::Float, {count}, other) : nullptr;
}

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

// Rows of logits, [rows, vocab], with the tokens of a row next to each other. The dtype is looked at for each
// access of 16 bytes or more, which costs nothing beside it and saves a kernel for each combination.
struct Rows {
  void* data;
  int64_t step;  // elements from row to row
  Dtype dtype;
};

inline void check_logits(const Tensor& tensor, const char* name, int64_t rows, int64_t vocab,
                         const Tensor& other) {
  check_on(tensor, name, other);
  check_shape(tensor, name, {rows, vocab});
  check_dense(tensor, name);
  STD_TORCH_CHECK(tensor.size(1) >= 1, name, " has no vocabulary");
}

// Read only.
inline Rows rows_of(const Tensor& tensor, const char* name) {
  return {const_cast<void*>(tensor.const_data_ptr()), tensor.stride(0), dtype_of(tensor, name)};
}

inline Rows mutable_rows_of(const Tensor& tensor, const char* name) {
  return {tensor.mutable_data_ptr(), tensor.stride(0), dtype_of(tensor, name)};
}

// Several logits, handed to a kernel by value.
struct Terms {
  Rows term[kMaxTerms];
  int count;
};

inline Terms terms_of(const std::vector<Tensor>& tensors, const char* name) {
  Terms terms = {};
  for (const Tensor& tensor : tensors) terms.term[terms.count++] = rows_of(tensor, name);
  return terms;
}

inline void check_terms(const std::vector<Tensor>& tensors, const char* name, const Tensor& base) {
  STD_TORCH_CHECK(!tensors.empty() && tensors.size() <= kMaxTerms, name, ": 1 to ", kMaxTerms,
                  " are allowed");
  for (const Tensor& tensor : tensors) check_logits(tensor, name, base.size(0), base.size(1), base);
}

// Which rows to work on: those of an index, or all.
struct RowIndex {
  const int64_t* index;
  int64_t count, total;

  __device__ int64_t operator[](int64_t i) const {
    if (!index) return i;
    const int64_t row = index[i];
    assert(row >= 0 && row < total && "rows holds an index out of range");
    return row;
  }
};

inline RowIndex row_index(const std::optional<Tensor>& rows, const Tensor& logits) {
  const int64_t total = logits.size(0);
  if (!rows) return {nullptr, total, total};
  return {plain<int64_t>(*rows, "rows", ScalarType::Long, {-1}, logits), rows->size(0), total};
}

}  // namespace decant
