// Merges one head's slots from the last to the first, in place: slot j is written at token tokens - slots + j, which is
// no earlier than its own last token, so that no token is overwritten before it was read.

constexpr int64_t kAhead = 12;  // tokens

INLINE void add_weighted(float* sum, const float* row, float weight, int64_t padded) {
  const F w = splat(weight);
  for (int64_t i = 0; i < padded; i += N) store(sum + i, load(sum + i) + w * load(row + i));
}

// Asks for the rows of a token that will be read soon: rows of one head lie too far apart for the hardware to foresee.
INLINE void foresee(const KV& keys, const KV& values, int64_t token, int64_t head, int64_t bytes) {
  if (token < 0) return;
  const char *key = keys.row(token, head), *value = values.row(token, head);
  for (int64_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(key + i);
    __builtin_prefetch(value + i);
  }
}

static void merge_head(const KV& keys, const KV& values, int64_t head, const MergeHead& job) {
  const int64_t dim = keys.dim, padded = (dim + N - 1) / N * N, bytes = dim * size_of(keys.dtype);
  std::vector<float> buffer(padded), pivot(padded), sum(padded);
  std::vector<float> weights(job.tokens);
  const auto read = [&](const KV& cache, int64_t token) {
    return as_floats(cache.row(token, head), cache.dtype, 0, dim, buffer.data(), 0);
  };
  int64_t end = job.tokens;
  for (int64_t slot = job.slots - 1; slot >= 0; --slot) {
    int64_t from = end - 1;
    while (from > 0 && job.segments[from - 1] == slot) --from;
    for (int64_t i = from; i < end; ++i) foresee(keys, values, i - kAhead, head, bytes);
    const int64_t count = end - from, target = job.tokens - job.slots + slot;
    job.counts[slot] = static_cast<int32_t>(count);
    if (count == 1) {
      if (target != from)
        for (const KV* cache : {&keys, &values}) std::memcpy(cache->row(target, head), cache->row(from, head), bytes);
      end = from;
      continue;
    }
    int64_t best = from;
    for (int64_t i = from + 1; i < end; ++i)
      if (order(job.scores[i]) > order(job.scores[best])) best = i;
    const float* center = read(keys, best);
    std::copy(center, center + padded, pivot.begin());
    double distances = 0;
    for (int64_t i = from; i < end; ++i) {
      const float* row = read(keys, i);
      F square = splat(0);
      for (int64_t j = 0; j < padded; j += N) {
        const F difference = load(row + j) - load(pivot.data() + j);
        square += difference * difference;
      }
      weights[i] = reduce_add(square);
      distances += std::sqrt(weights[i]);
    }
    const double mean = distances / count;
    const double width = job.sigma > 0 ? 2 * job.sigma * job.sigma : std::max(mean * mean, 1e-12);
    double total = 0;
    for (int64_t i = from; i < end; ++i) {
      weights[i] = static_cast<float>(std::exp(-weights[i] / width));
      total += weights[i];
    }
    for (const KV* cache : {&keys, &values}) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t i = from; i < end; ++i) add_weighted(sum.data(), read(*cache, i), weights[i], padded);
      const F all = splat(static_cast<float>(total));
      for (int64_t j = 0; j < padded; j += N) store(sum.data() + j, load(sum.data() + j) / all);
      from_floats(cache->row(target, head), cache->dtype, 0, dim, sum.data());
    }
    end = from;
  }
}
