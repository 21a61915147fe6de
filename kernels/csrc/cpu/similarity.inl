// Cosine of neighbouring keys: links [from, to) of one head into out[from..to).
static void similarity(const KV& keys, int64_t head, int64_t from, int64_t to, float* out) {
  const int64_t padded = (keys.dim + N - 1) / N * N;
  std::vector<float> memory(2 * padded);
  float* buffers[2] = {memory.data(), memory.data() + padded};
  const auto read = [&](int64_t token) {
    return as_floats(keys.row(token, head), keys.dtype, 0, keys.dim, buffers[token % 2], 0);
  };
  const auto norm = [&](const float* x) {
    F sum = splat(0);
    for (int64_t i = 0; i < padded; i += N) sum += load(x + i) * load(x + i);
    return std::max(std::sqrt(reduce_add(sum)), 1e-12f);
  };
  const float* here = read(from);
  float here_norm = norm(here);
  for (int64_t token = from; token < to; ++token) {
    const float* next = read(token + 1);
    F dot = splat(0), square = splat(0);
    for (int64_t i = 0; i < padded; i += N) {
      const F b = load(next + i);
      dot += load(here + i) * b;
      square += b * b;
    }
    const float next_norm = std::max(std::sqrt(reduce_add(square)), 1e-12f);
    out[token] = reduce_add(dot) / here_norm / next_norm;
    here = next;
    here_norm = next_norm;
  }
}
