// Gathers Stats of tokens in one read of memory.

constexpr int64_t kBlock = 2048;

INLINE float block_max(const float* x, int64_t n) {
  F a = splat(-kInf), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
    a = max(load(x + i), a);  // a NaN is passed over here and found by the sums
    b = max(load(x + i + N), b);
    c = max(load(x + i + 2 * N), c);
    d = max(load(x + i + 3 * N), d);
  }
  for (; i < n; i += N) a = max(load(x + i), a);
  return reduce_max(max(max(a, b), max(c, d)));
}

INLINE bool has_nan(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (x[i] != x[i]) return true;
  return false;
}

struct BlockSums {
  float max;
  double sum, weighted;
};

// Sums of one block relative to `anchor`, which need not be its maximum.
template <bool kWeighted>
INLINE BlockSums block_sums(const float* x, int64_t n, float anchor) {
  const F top = splat(anchor), log2_e = splat(1.44269504f), low = splat(-127.0f);
  F most = splat(-kInf), sum = splat(0), weighted = splat(0);
  for (int64_t i = 0; i < n; i += N) {
    look_ahead(x + i);
    const F v = load(x + i);
    most = max(v, most);
    F s = (v - top) * log2_e;
    if (kWeighted) s = max(low, s);  // -inf times 0 would be NaN
    const F e = exp2(s);
    sum += e;
    if (kWeighted) weighted += s * e;
  }
  return {reduce_max(most), reduce_add(sum), kWeighted ? reduce_add(weighted) : 0};
}

// Stats of tokens [from, to) of a row. Sums are kept relative to an anchor near the maximum; only a block that exceeds
// it so far that e^(x - anchor) might overflow moves it.
template <bool kWeighted>
static Stats gather_as(const void* row, Dtype dtype, int64_t from, int64_t to) {
  constexpr float kReach = 40;
  alignas(64) float buffer[kBlock];
  Stats stats;  // its max is the anchor until the end
  float most = -kInf;
  for (int64_t at = from; at < to; at += kBlock) {
    const int64_t n = std::min(kBlock, to - at), padded = (n + N - 1) / N * N;
    const float* x = as_floats(row, dtype, at, n, buffer, -kInf);
    if (stats.max == -kInf) stats.max = block_max(x, padded);
    if (stats.max == -kInf) {
      if (has_nan(x, padded)) stats.sum = std::numeric_limits<double>::quiet_NaN();
      continue;
    }
    BlockSums block = block_sums<kWeighted>(x, padded, stats.max);
    if (block.max > stats.max + kReach) {
      stats.shift(block.max);
      block = block_sums<kWeighted>(x, padded, stats.max);
    }
    most = std::max(most, block.max);
    stats.sum += block.sum;
    if (kWeighted) stats.weighted += block.weighted;
  }
  if (most > -kInf) stats.shift(most);
  return stats;
}

static Stats gather(const void* row, Dtype dtype, int64_t from, int64_t to, bool weighted) {
  return weighted ? gather_as<true>(row, dtype, from, to) : gather_as<false>(row, dtype, from, to);
}
