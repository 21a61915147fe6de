// One sequence's keys or values: contiguous, or in the blocks of a paged cache.
#pragma once

#include "chunk.cuh"

namespace decant {

// Where the tokens of a sequence lie. Strides are in elements; those of a head's row are 1.
struct Places {
  const int32_t* table;  // the sequence's blocks in order, or null
  int64_t blocks, block_step, token_step, head_step;
  uint32_t block_size;

  __device__ int64_t of(int token, int head) const {
    if (!table) return token * token_step + head * head_step;
    const uint32_t which = token / block_size, slot = token - which * block_size;
    const int block = table[which];
    assert(block >= 0 && block < blocks && "block_table holds a block out of range");
    return block * block_step + slot * token_step + head * head_step;
  }
};

inline int64_t heads_of(const Tensor& cache) { return cache.size(cache.dim() - 2); }
inline int64_t dim_of(const Tensor& cache) { return cache.size(cache.dim() - 1); }

// With `by_dim` a block's tokens may lie next to each other for each of a row's elements, instead of the elements.
inline Places places_of(const Tensor& cache, const char* name, const std::optional<Tensor>& block_table,
                        int64_t length, bool by_dim = false) {
  STD_TORCH_CHECK(cache.dim() == (block_table ? 4 : 3), name, " has an unexpected number of dimensions");
  if (!by_dim || cache.stride(cache.dim() - 3) != 1) check_dense(cache, name);
  STD_TORCH_CHECK(length >= 0 && length <= std::numeric_limits<int32_t>::max() / 2, "length is out of range");
  const int64_t steps = cache.dim() - 3;  // dimension of the tokens
  Places places = {nullptr, 0, 0, cache.stride(steps), cache.stride(steps + 1), 1};
  int64_t capacity = cache.size(0);
  if (block_table) {
    places.table = plain<int32_t>(*block_table, "block_table", ScalarType::Int, {-1}, cache);
    places.blocks = cache.size(0);
    places.block_step = cache.stride(0);
    STD_TORCH_CHECK(cache.size(1) <= std::numeric_limits<int32_t>::max(), name, " has too large blocks");
    places.block_size = static_cast<uint32_t>(cache.size(1));
    capacity = block_table->size(0) * cache.size(1);
  }
  STD_TORCH_CHECK(length <= capacity, "length: ", name, " and block_table hold ", capacity, " tokens");
  return places;
}

}  // namespace decant
