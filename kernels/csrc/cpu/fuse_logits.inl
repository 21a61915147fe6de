// Tokens [from, to) of one row: base + sum_k weight_k * guide_k, each centred on its own constant, then masked.
static void fuse(const FuseRow& row, Dtype base_dtype, Dtype guide_dtype, int64_t from, int64_t to) {
  constexpr int64_t kTokens = 1024;
  alignas(64) float base_buffer[kTokens], guide_buffer[kTokens], sum[kTokens];
  for (int64_t at = from; at < to; at += kTokens) {
    const int64_t n = std::min(kTokens, to - at), padded = (n + N - 1) / N * N;
    const float* base = as_floats(row.base, base_dtype, at, n, base_buffer, 0);
    const bool in_place = base != base_buffer;
    float* out = in_place ? const_cast<float*>(base) : sum;
    const F top = splat(row.top), log_sum = splat(row.log_sum), gone = splat(-kInf);
    const F most = splat(row.most), log_alpha = splat(row.log_alpha);
    if (row.terms.size() == 1) {  // one pass over the caches for the commonest case
      const FuseTerm& term = row.terms[0];
      const float* guide = as_floats(term.logits, guide_dtype, at, n, guide_buffer, 0);
      const F weight = splat(term.weight), guide_top = splat(term.top), guide_log_sum = splat(term.log_sum);
      for (int64_t i = 0; i < padded; i += N) {
        look_ahead(base + i);
        look_ahead(guide + i);
        const F b = load(base + i), g = load(guide + i);
        const F x = ((b - top) - log_sum) + weight * ((g - guide_top) - guide_log_sum);
        store(out + i, (((b - most) < log_alpha) | (b == gone) | (g == gone)) ? gone : x);
      }
    } else {
      for (int64_t i = 0; i < padded; i += N) store(sum + i, (load(base + i) - top) - log_sum);
      for (const FuseTerm& term : row.terms) {
        const float* guide = as_floats(term.logits, guide_dtype, at, n, guide_buffer, 0);
        const F weight = splat(term.weight), guide_top = splat(term.top), guide_log_sum = splat(term.log_sum);
        for (int64_t i = 0; i < padded; i += N) {
          const F g = load(guide + i);
          store(sum + i, g != gone ? load(sum + i) + weight * ((g - guide_top) - guide_log_sum) : gone);
        }
      }
      for (int64_t i = 0; i < padded; i += N) {
        const F b = load(base + i);
        store(out + i, (((b - most) < log_alpha) | (b == gone)) ? gone : load(sum + i));
      }
    }
    if (!in_place) from_floats(row.base, base_dtype, at, n, out);
  }
}
