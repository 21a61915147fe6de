// Keys or values of one sequence, contiguous [tokens, heads, dim] or paged [blocks, block_size, heads, dim].
#pragma once

#include "rows.h"
#include "tensor.h"

namespace decant {

struct KV {
  char* data;
  Dtype dtype;
  int64_t heads, dim, block_size;
  int64_t block_step, slot_step, head_step, dim_step;  // bytes
  const int32_t* table;

  // Raises if the first `length` tokens do not lie inside the cache, or a row does not lie dense; with `by_dim` a block's
  // tokens may instead lie next to each other for each of a row's elements.
  KV(const Tensor& tensor, const std::optional<Tensor>& block_table, int64_t length, const char* name,
     bool by_dim = false)
      : dtype(dtype_of(tensor, name)), table(nullptr) {
    const int64_t paged = block_table.has_value();
    STD_TORCH_CHECK(tensor.dim() == 3 + paged, name, ": [tokens, heads, dim], or with a block_table ",
                    "[blocks, block_size, heads, dim], is needed");
    if (!by_dim || tensor.stride(paged) != 1) check_dense(tensor, name);
    data = static_cast<char*>(tensor.data_ptr());
    const int64_t size = size_of(dtype);
    dim_step = tensor.stride(2 + paged) * size;
    block_size = tensor.size(paged);
    heads = tensor.size(1 + paged);
    dim = tensor.size(2 + paged);
    slot_step = tensor.stride(paged) * size;
    head_step = tensor.stride(1 + paged) * size;
    block_step = paged ? tensor.stride(0) * size : 0;
    STD_TORCH_CHECK(length >= 1 && block_size > 0, "length: at least one token is needed");
    if (!paged) {
      STD_TORCH_CHECK(length <= block_size, "length: ", name, " holds ", block_size, " tokens only");
      return;
    }
    check_type(*block_table, "block_table", ScalarType::Int);
    STD_TORCH_CHECK(block_table->dim() == 1 && block_table->is_contiguous(), "block_table: a contiguous vector is needed");
    const int64_t used = (length + block_size - 1) / block_size;
    STD_TORCH_CHECK(used <= block_table->numel(), "length: block_table has ", block_table->numel(), " blocks only");
    table = static_cast<const int32_t*>(block_table->data_ptr());
    for (int64_t i = 0; i < used; ++i)
      STD_TORCH_CHECK(table[i] >= 0 && table[i] < tensor.size(0), "block_table holds ", table[i], "; 0 to ",
                      tensor.size(0) - 1, " is allowed");
  }

  char* row(int64_t token, int64_t head) const {
    char* p = data + head * head_step;
    if (!table) return p + token * slot_step;
    return p + table[token / block_size] * block_step + token % block_size * slot_step;
  }
};

// Tokens are shared out in pieces of this many, whatever the number of threads.
constexpr int64_t kTokenPiece = 512;

// An order-preserving integer for a float: NaN lowest, -0 and 0 equal.
inline uint32_t order(float x) {
  if (x != x) return 0;
  x += 0.0f;
  uint32_t bits;
  static_assert(sizeof bits == sizeof x);
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace decant
