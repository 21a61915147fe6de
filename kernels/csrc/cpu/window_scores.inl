// A tile of queries lies side by side in the lanes, keys come one after the other. Tokens are taken in pieces: a piece's
// weights e^(dot - max) are relative to its own maximum, so that they can be made before the softmax sum is known.

constexpr int64_t kTileVectors = LANES == 16 ? 4 : 2;  // vectors of queries in a tile
constexpr int64_t kTileTokens = LANES == 16 ? 6 : 4;   // keys multiplied with it at a time
constexpr int64_t kTile = kTileVectors * N;
static_assert(kWindowPiece % kTileTokens == 0, "a piece is made of whole tiles");

static int64_t query_tile() { return kTile; }

// log2-scaled dot products of kTileTokens keys with one tile of queries [dim, kTile].
INLINE void dots(const float* queries, const float* const* keys, int64_t dim, F sum[kTileTokens][kTileVectors]) {
  F total[kTileTokens][kTileVectors];
  for (int64_t t = 0; t < kTileTokens; ++t)
    for (int64_t v = 0; v < kTileVectors; ++v) total[t][v] = splat(0);
  for (int64_t i = 0; i < dim; ++i) {
    F q[kTileVectors];
    for (int64_t v = 0; v < kTileVectors; ++v) q[v] = load(queries + i * kTile + v * N);
    for (int64_t t = 0; t < kTileTokens; ++t) {
      const F k = splat(keys[t][i]);
      for (int64_t v = 0; v < kTileVectors; ++v) total[t][v] += k * q[v];
    }
  }
  for (int64_t t = 0; t < kTileTokens; ++t)
    for (int64_t v = 0; v < kTileVectors; ++v) sum[t][v] = total[t][v];
}

// A piece's tokens [from, to) and one tile of queries: weights [tokens, kTile], and each query's maximum and sum of them.
// Room for kWindowPiece tokens is needed.
static void weigh_piece(const WindowTile& tile, int64_t from, int64_t to, float* weights, float* maxima, float* sums) {
  const KV& cache = *tile.keys;
  const int64_t row = cache.dim + N;
  std::vector<float> converted(cache.dtype == Dtype::kFloat ? 0 : kTileTokens * row);
  F most[kTileVectors];
  for (int64_t v = 0; v < kTileVectors; ++v) most[v] = splat(-kInf);
  for (int64_t token = from; token < to; token += kTileTokens) {
    const float* keys[kTileTokens];
    for (int64_t t = 0; t < kTileTokens; ++t) {  // a tile that is not full repeats the last token
      const char* key = cache.row(std::min(token + t, to - 1), tile.head);
      keys[t] = cache.dtype == Dtype::kFloat
                    ? (const float*)key
                    : as_floats(key, cache.dtype, 0, cache.dim, converted.data() + t * row, 0);
    }
    F product[kTileTokens][kTileVectors];
    dots(tile.queries, keys, cache.dim, product);
    for (int64_t t = 0; t < kTileTokens; ++t)
      for (int64_t v = 0; v < kTileVectors; ++v) {
        F x = product[t][v];
        if (token + t > tile.first_query)  // later than the first query: in the future of some
          x = load(tile.last_seen + v * N) < splat((float)(token + t - tile.first_query)) ? splat(-kInf) : x;
        if (token + t < to) most[v] = max(x, most[v]);
        store(weights + (token + t - from) * kTile + v * N, x);
      }
  }
  for (int64_t v = 0; v < kTileVectors; ++v) {
    const F anchor = most[v] == splat(-kInf) ? splat(0) : most[v];
    F sum = splat(0);
    for (int64_t t = 0; t < to - from; ++t) {
      float* place = weights + t * kTile + v * N;
      const F e = exp2(load(place) - anchor);
      store(place, e);
      sum += e;
    }
    store(maxima + v * N, most[v]);
    store(sums + v * N, sum);
  }
}

// Adds the queries' shares in a piece's tokens: out[t] += sum_q weights[t][q] * factors[q].
static void add_masses(const float* weights, int64_t tokens, const float* factors, float* out) {
  F factor[kTileVectors];
  for (int64_t v = 0; v < kTileVectors; ++v) factor[v] = load(factors + v * N);
  for (int64_t t = 0; t < tokens; ++t) {
    F sum = splat(0);
    for (int64_t v = 0; v < kTileVectors; ++v) sum += load(weights + t * kTile + v * N) * factor[v];
    out[t] += reduce_add(sum);
  }
}
