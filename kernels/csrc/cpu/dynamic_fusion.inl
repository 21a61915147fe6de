constexpr int64_t kSweep = 1024;    // tokens a block
constexpr int64_t kRun = 7;         // grid points computed from one exponential
constexpr float kMostGrowth = 8;    // nats a step of a run may change a term or a maximum by
constexpr float kReach = 20;        // nats a term may exceed the maximum its sum is relative to

struct SweepBlock {
  alignas(64) float large[kSweep], small[kSweep], shift[kSweep], ratio[kSweep];
  alignas(64) float experts[kMostExperts][kSweep];
};

struct Range {
  float low, high;
};

INLINE float highest(const float* x, int64_t n) {
  F high = splat(-kInf);
  for (int64_t i = 0; i < n; i += N) high = max(load(x + i), high);
  return reduce_max(high);
}

// The block's shift, expert - small, 0 where a token is ruled out, with e^(step * shift) beside it. Its range.
INLINE Range make_shift(SweepBlock& block, int64_t expert, float step, int64_t n) {
  const F gone = splat(-kInf), log2_step = splat(step * 1.44269504f);
  F high = splat(-kInf), low = splat(kInf);
  for (int64_t i = 0; i < n; i += N) {
    const F d = load(block.large + i) == gone ? splat(0) : load(block.experts[expert] + i) - load(block.small + i);
    high = max(d, high);
    low = min(d, low);
    store(block.shift + i, d);
    store(block.ratio + i, exp2(d * log2_step));
  }
  return {-reduce_max(splat(0) - low), reduce_max(high)};
}

// `kCount` grid points a step apart: e^(large + a * shift - top) exactly for the first, from the one before by
// e^(step * shift) for each other. Bounded by kMostGrowth and kReach, nothing overflows, and nothing that counts is lost.
template <int64_t kCount>
INLINE void sweep_run(GridStats* stats, float a, const SweepBlock& block, int64_t n) {
  const F step = splat(a), log2_e = splat(1.44269504f), top = splat(stats[0].max);
  F sum[kCount], moment[kCount];
  for (int64_t j = 0; j < kCount; ++j) sum[j] = moment[j] = splat(0);
  for (int64_t i = 0; i < n; i += N) {
    const F d = load(block.shift + i);
    F e = exp2(((load(block.large + i) + step * d) - top) * log2_e);
    sum[0] += e;
    moment[0] += d * e;
    if (kCount == 1) continue;
    const F ratio = load(block.ratio + i);
    for (int64_t j = 1; j < kCount; ++j) {
      e *= ratio;
      sum[j] += e;
      moment[j] += d * e;
    }
  }
  for (int64_t j = 0; j < kCount; ++j) {
    const double scale = j ? std::exp(static_cast<double>(stats[0].max) - stats[j].max) : 1.0;
    stats[j].sum += scale * reduce_add(sum[j]);
    stats[j].moment += scale * reduce_add(moment[j]);
  }
}

// Raises a grid point's maximum to that of the block if the block may exceed it beyond reach.
INLINE void raise_maximum(GridStats& stats, float a, float highest_large, Range shift, const SweepBlock& block, int64_t n) {
  const float bound = highest_large + std::max(a * shift.low, a * shift.high);
  if (bound <= stats.max + kReach) return;
  const F step = splat(a);
  F most = splat(-kInf);
  for (int64_t i = 0; i < n; i += N) most = max(load(block.large + i) + step * load(block.shift + i), most);
  const float top = reduce_max(most);
  if (top > stats.max) stats.raise(top);
}

INLINE void sweep_grid(GridStats* stats, const Grid& grid, SweepBlock& block, float highest_large, Range shift, int64_t n) {
  for (int64_t p = 0; p < grid.count; ++p)
    raise_maximum(stats[p], grid.points[p], highest_large, shift, block, n);
  const float growth = std::abs(grid.step) * std::max(std::abs(shift.low), std::abs(shift.high));
  int64_t p = 0;
  if (grid.uniform && growth <= kMostGrowth) {
    for (; p + kRun <= grid.count; p += kRun) {
      bool near = true;
      for (int64_t j = 1; j < kRun; ++j) near = near && std::abs(stats[p + j].max - stats[p + j - 1].max) <= kMostGrowth;
      if (!near) break;
      sweep_run<kRun>(stats + p, grid.points[p], block, n);
    }
  }
  for (; p < grid.count; ++p) sweep_run<1>(stats + p, grid.points[p], block, n);
}

struct Tilt {
  float max;
  double sum, moment;
};

template <bool kMoment>
INLINE Tilt tilt(const float* x, const float* d, int64_t n, float anchor) {
  const F top = splat(anchor), log2_e = splat(1.44269504f);
  F most = splat(-kInf), sum = splat(0), moment = splat(0);
  for (int64_t i = 0; i < n; i += N) {
    const F v = load(x + i);
    most = max(v, most);
    const F e = exp2((v - top) * log2_e);
    sum += e;
    if (kMoment) moment += load(d + i) * e;
  }
  return {reduce_max(most), reduce_add(sum), kMoment ? reduce_add(moment) : 0};
}

// Adds a block's sum of e^(x - max), and with kMoment of d e^(x - max). Some token of the block is finite.
template <bool kMoment>
INLINE void add_tilt(GridStats& stats, const float* x, const float* d, int64_t n) {
  if (stats.max == -kInf) stats.max = highest(x, n);
  Tilt block = tilt<kMoment>(x, d, n, stats.max);
  if (block.max > stats.max + kReach) {
    stats.raise(block.max);
    block = tilt<kMoment>(x, d, n, stats.max);
  }
  stats.sum += block.sum;
  stats.moment += block.moment;
}

// Reads a block of all models: large, small, experts, -inf in all where any of them rules the token out. Whether a token
// is left.
INLINE bool read_block(const FusionRow& row, int64_t at, int64_t n, SweepBlock& block) {
  const int64_t padded = (n + N - 1) / N * N, count = static_cast<int64_t>(row.experts.size());
  const F gone = splat(-kInf);
  const float* large = as_floats(row.large, row.large_dtype, at, n, block.large, -kInf);
  const float* small = as_floats(row.small, row.dtype, at, n, block.small, -kInf);
  const float* experts[kMostExperts];
  for (int64_t k = 0; k < count; ++k) experts[k] = as_floats(row.experts[k], row.dtype, at, n, block.experts[k], -kInf);
  I left = {};
  for (int64_t i = 0; i < padded; i += N) {
    look_ahead(large + i);
    look_ahead(small + i);
    for (int64_t k = 0; k < count; ++k) look_ahead(experts[k] + i);
    const F l = load(large + i), s = load(small + i);
    I out = (l == gone) | (s == gone);
    for (int64_t k = 0; k < count; ++k) out |= load(experts[k] + i) == gone;
    store(block.large + i, out ? gone : l);
    store(block.small + i, out ? gone : s);
    for (int64_t k = 0; k < count; ++k) store(block.experts[k] + i, out ? gone : load(experts[k] + i));
    left |= ~out;
  }
  int32_t lanes[N];
  std::memcpy(lanes, &left, sizeof lanes);
  return std::any_of(lanes, lanes + N, [](int32_t lane) { return lane != 0; });
}

// What the choice of alpha needs to know of tokens [from, to) of a row.
static void sweep(const FusionRow& row, const Grid& grid, int64_t from, int64_t to, FusionStats& stats) {
  SweepBlock block;
  for (int64_t at = from; at < to; at += kSweep) {
    const int64_t n = std::min(kSweep, to - at), padded = (n + N - 1) / N * N;
    if (!read_block(row, at, n, block)) continue;
    if (grid.zero < 0) add_tilt<false>(stats.large, block.large, nullptr, padded);
    add_tilt<false>(stats.small, block.small, nullptr, padded);
    const float top = highest(block.large, padded);
    for (size_t k = 0; k < row.experts.size(); ++k) {
      const Range shift = make_shift(block, static_cast<int64_t>(k), grid.step, padded);
      add_tilt<true>(stats.experts[k], block.experts[k], block.shift, padded);
      sweep_grid(stats.grid.data() + k * grid.count, grid, block, top, shift, padded);
    }
  }
}

// large + alpha * (experts[chosen] - small) for tokens [from, to); NaN for a row without a token in common.
static void write_fused(const FusionRow& row, int64_t chosen, float alpha, bool none, int64_t from, int64_t to) {
  constexpr int64_t kTokens = 1024;
  alignas(64) float buffer[kMostExperts + 2][kTokens];
  const int64_t count = static_cast<int64_t>(row.experts.size());
  const F gone = splat(-kInf), step = splat(alpha), nan = splat(std::numeric_limits<float>::quiet_NaN());
  for (int64_t at = from; at < to; at += kTokens) {
    const int64_t n = std::min(kTokens, to - at), padded = (n + N - 1) / N * N;
    const float* large = as_floats(row.large, row.large_dtype, at, n, buffer[0], 0);
    const float* small = as_floats(row.small, row.dtype, at, n, buffer[1], 0);
    const float* experts[kMostExperts];
    for (int64_t k = 0; k < count; ++k) experts[k] = as_floats(row.experts[k], row.dtype, at, n, buffer[k + 2], 0);
    const bool direct = large != buffer[0];  // whole vectors of float32
    float* out = direct ? (float*)row.out + at : buffer[0];
    for (int64_t i = 0; i < padded; i += N) {
      const F l = load(large + i), s = load(small + i), e = load(experts[chosen] + i);
      I ruled_out = (l == gone) | (s == gone);
      for (int64_t k = 0; k < count; ++k) ruled_out |= load(experts[k] + i) == gone;
      store(out + i, none ? nan : ruled_out ? gone : l + step * (e - s));
    }
    if (!direct) from_floats(row.out, row.large_dtype, at, n, out);
  }
}
