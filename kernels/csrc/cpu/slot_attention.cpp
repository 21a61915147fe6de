#include "isa.h"
#include "kv.h"

namespace decant {
namespace {

constexpr int64_t kSlotPiece = 32;  // tokens whose weights are made at a time

// The queries of one token that read one key head, scaled by scale * log2 e: [group, padded dim].
struct SlotQueries {
  const float* queries;
  int64_t group, padded;
  int64_t seen;           // tokens that the queries see
  const float* log_mass;  // [slots], log2
  int64_t slots;
  char* out;              // [group] rows, out_step bytes apart
  int64_t out_step;
};

}  // namespace
}  // namespace decant

#define DECANT_VECTOR_CODE "slot_attention.inl"
#include "for_each_isa.h"

namespace decant {

Tensor slot_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& mass,
                      const std::optional<Tensor>& block_table, int64_t length, double scale) {
  const KV key_cache(keys, block_table, length, "keys", true), value_cache(values, block_table, length, "values");
  const Dtype dtype = dtype_of(query, "query");
  STD_TORCH_CHECK(query.dim() == 3 && query.size(2) == key_cache.dim && query.size(1) % key_cache.heads == 0 &&
                      query.size(0) >= 1 && query.size(0) <= length && dtype == key_cache.dtype,
                  "query: [tokens, query_heads, dim] is needed, with keys' dim and dtype, a multiple of its heads, and "
                  "tokens <= length");
  STD_TORCH_CHECK(value_cache.heads == key_cache.heads && value_cache.dim == key_cache.dim &&
                      value_cache.dtype == key_cache.dtype && value_cache.block_size == key_cache.block_size,
                  "values: keys' shape and dtype are needed");
  check_dense(query, "query");
  check_type(mass, "mass", ScalarType::Float);
  STD_TORCH_CHECK(mass.dim() == 2 && mass.size(0) == key_cache.heads && mass.size(1) <= length,
                  "mass: [heads, slots], slots <= length, is needed");
  check_dense(mass, "mass");
  const int64_t heads = key_cache.heads, dim = key_cache.dim, group = query.size(1) / heads, tokens = query.size(0);
  const int64_t slots = mass.size(1), padded = (dim + 15) / 16 * 16, size = size_of(dtype);
  Tensor out = make(query, {tokens, query.size(1), dim}, query.scalar_type());
  std::vector<float> log_mass(heads * slots);
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t i = 0; i < slots; ++i)
      log_mass[head * slots + i] = std::log2(data<float>(mass)[head * mass.stride(0) + i]);
  const float to_log2 = static_cast<float>(scale * 1.4426950408889634);
  for_each(heads * tokens, length * group * dim / 8, [&](int64_t task) {
    const int64_t head = task % heads, token = task / heads;
    std::vector<float> queries(group * padded, 0.0f);
    for (int64_t g = 0; g < group; ++g) {
      const char* row = static_cast<const char*>(query.data_ptr()) +
                        (token * query.stride(0) + (head * group + g) * query.stride(1)) * size;
      for (int64_t i = 0; i < dim; ++i) queries[g * padded + i] = element(row, dtype, i) * to_log2;
    }
    const SlotQueries job{queries.data(),
                          group,
                          padded,
                          length - tokens + token + 1,
                          log_mass.data() + head * slots,
                          slots,
                          static_cast<char*>(out.data_ptr()) + (token * heads + head) * group * dim * size,
                          dim * size};
    DECANT_DISPATCH(attend_slots, key_cache, value_cache, head, job);
  });
  return out;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("slot_attention", TORCH_BOX(&decant::slot_attention)); }
