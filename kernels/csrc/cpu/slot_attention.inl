// One key head and the queries of one token: weights are relative to a running maximum, in pieces of tokens that lie in
// one block.

// Products of keys [from, from + count) with each query, log2-scaled: products [group, kSlotPiece].
INLINE void slot_products(const KV& keys, int64_t head, const SlotQueries& job, int64_t from, int64_t count,
                          float* buffer, float* products) {
  if (keys.dim_step != size_of(keys.dtype) && keys.slot_step == size_of(keys.dtype)) {
    std::fill(products, products + job.group * kSlotPiece, 0.0f);
    const char* first = keys.row(from, head);
    for (int64_t i = 0; i < keys.dim; ++i) {
      const float* row = as_floats(first + i * keys.dim_step, keys.dtype, 0, count, buffer, 0);
      for (int64_t g = 0; g < job.group; ++g) {
        const F q = splat(job.queries[g * job.padded + i]);
        float* place = products + g * kSlotPiece;
        for (int64_t t = 0; t < count; t += N) store(place + t, load(place + t) + q * load(row + t));
      }
    }
    return;
  }
  for (int64_t t = 0; t < count; ++t) {
    const float* row = as_floats(keys.row(from + t, head), keys.dtype, 0, keys.dim, buffer, 0);
    for (int64_t g = 0; g < job.group; ++g) {
      F sum = splat(0);
      for (int64_t i = 0; i < keys.dim; i += N) sum += load(job.queries + g * job.padded + i) * load(row + i);
      products[g * kSlotPiece + t] = reduce_add(sum);
    }
  }
}

static void attend_slots(const KV& keys, const KV& values, int64_t head, const SlotQueries& job) {
  const int64_t padded = job.padded;
  std::vector<float> buffer(std::max(padded, kSlotPiece) + N), products(job.group * kSlotPiece);
  std::vector<float> sums(job.group * padded, 0.0f), total(job.group, 0.0f), most(job.group, -kInf);
  int64_t to = 0;
  for (int64_t from = 0; from < job.seen; from = to) {
    to = std::min({from + kSlotPiece, job.seen, (from / keys.block_size + 1) * keys.block_size});
    const int64_t count = to - from;
    slot_products(keys, head, job, from, count, buffer.data(), products.data());
    for (int64_t g = 0; g < job.group; ++g) {
      float* weights = products.data() + g * kSlotPiece;
      for (int64_t t = 0; t < count && from + t < job.slots; ++t) weights[t] += job.log_mass[from + t];
      std::fill(weights + count, weights + kSlotPiece, -kInf);
      F top = splat(most[g]);
      for (int64_t t = 0; t < kSlotPiece; t += N) top = max(load(weights + t), top);
      const float now = reduce_max(top);
      const float anchor = now == -kInf ? 0.0f : now, factor = std::exp2(most[g] - anchor);
      F sum = splat(0);
      for (int64_t t = 0; t < kSlotPiece; t += N) {
        const F weight = exp2(load(weights + t) - splat(anchor));
        store(weights + t, weight);
        sum += weight;
      }
      total[g] = total[g] * factor + reduce_add(sum);
      most[g] = now;
      if (factor != 1)
        for (int64_t i = 0; i < padded; i += N) {
          float* place = sums.data() + g * padded + i;
          store(place, load(place) * splat(factor));
        }
    }
    for (int64_t t = 0; t < count; ++t) {
      const float* row = as_floats(values.row(from + t, head), values.dtype, 0, values.dim, buffer.data(), 0);
      for (int64_t g = 0; g < job.group; ++g) {
        const F weight = splat(products[g * kSlotPiece + t]);
        float* place = sums.data() + g * padded;
        for (int64_t i = 0; i < values.dim; i += N) store(place + i, load(place + i) + weight * load(row + i));
      }
    }
  }
  for (int64_t g = 0; g < job.group; ++g) {
    float* place = sums.data() + g * padded;
    for (int64_t i = 0; i < padded; i += N) store(place + i, load(place + i) / splat(total[g]));
    from_floats(job.out + g * job.out_step, values.dtype, 0, values.dim, place);
  }
}
