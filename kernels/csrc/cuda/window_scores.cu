#include "cache.cuh"
#include "operators.h"
#include "reduce.cuh"

namespace decant {
namespace {

// A tile of scores is kQueries x kTokens; each thread has kPart x kPart of it, so that a query's row lies in
// one warp.
constexpr int kThreads = 256, kWarps = kThreads / kWarp, kPart = 4;
constexpr int kQueries = kWarps * kPart, kTokens = kWarp * kPart;
constexpr int kDepth = 32;      // of dim, that is in shared memory at once
constexpr int kPad = 4;         // keeps rows aligned to 16 bytes
constexpr int kPieceTiles = 4;  // tiles of tokens whose statistics one block gathers

// A query's maximum score over some tokens, and the sum of 2^(score - max).
struct Attention {
  float max, sum;
};

// The queries of one key head are numbered [window, group].
template <typename T>
struct Problem {
  const T* query;
  const T* keys;
  Places places;
  int64_t query_step, query_head_step;
  int window, heads, group, dim, length;
  float scale;  // times log2 e

  __host__ __device__ int queries() const { return window * group; }
  __host__ __device__ int query_tiles() const { return static_cast<int>(ceil_div(queries(), kQueries)); }
  __host__ __device__ int token_tiles() const { return static_cast<int>(ceil_div(length, kTokens)); }
  __host__ __device__ int pieces() const { return static_cast<int>(ceil_div(token_tiles(), kPieceTiles)); }

  __device__ int64_t query_at(int head, int index) const {
    return index / group * query_step +
           (static_cast<int64_t>(head) * group + index % group) * query_head_step;
  }

  // The last token that a query looks at; none where there is no such query.
  __device__ int last_seen(int index) const {
    return index < queries() ? length - window + index / group : -1;
  }
};

struct alignas(16) Tile {
  float queries[kDepth][kQueries + kPad];
  float keys[kDepth][kTokens + kPad];
  int64_t query_at[kQueries], key_at[kTokens];  // -1 past the end
};

template <typename T, int kColumns>
__device__ __forceinline__ void load_rows(const T* from, const int64_t* at, int count, int dim, int depth,
                                          float (&to)[kDepth][kColumns]) {
  for (int i = threadIdx.x; i < count * (kDepth / kChunk); i += kThreads) {
    const int row = i % count, part = i / count;  // neighbouring lanes write to neighbouring banks
    float x[kChunk] = {};
    if (at[row] >= 0) load_chunk(from + at[row], dim, depth / kChunk + part, 0, x);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) to[part * kChunk + j][row] = x[j];
  }
}

// Scores, in base 2, of a tile; all threads of the block must call it.
template <typename T>
__device__ __forceinline__ void score_tile(const Problem<T>& problem, int head, int first_query,
                                           int first_token, Tile& tile, float (&score)[kPart][kPart]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  __syncthreads();
  for (int i = threadIdx.x; i < kTokens; i += kThreads)
    tile.key_at[i] = first_token + i < problem.length ? problem.places.of(first_token + i, head) : -1;
  for (int i = threadIdx.x; i < kQueries; i += kThreads)
    tile.query_at[i] = first_query + i < problem.queries() ? problem.query_at(head, first_query + i) : -1;
#pragma unroll
  for (int r = 0; r < kPart; ++r)
#pragma unroll
    for (int c = 0; c < kPart; ++c) score[r][c] = 0;
  for (int depth = 0; depth < problem.dim; depth += kDepth) {
    __syncthreads();
    load_rows(problem.keys, tile.key_at, kTokens, problem.dim, depth, tile.keys);
    load_rows(problem.query, tile.query_at, kQueries, problem.dim, depth, tile.queries);
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
      const float4 q4 = *reinterpret_cast<const float4*>(&tile.queries[k][warp * kPart]);
      const float4 k4 = *reinterpret_cast<const float4*>(&tile.keys[k][lane * kPart]);
      const float q[kPart] = {q4.x, q4.y, q4.z, q4.w}, t[kPart] = {k4.x, k4.y, k4.z, k4.w};
#pragma unroll
      for (int r = 0; r < kPart; ++r)
#pragma unroll
        for (int c = 0; c < kPart; ++c) score[r][c] = fmaf(q[r], t[c], score[r][c]);
    }
  }
#pragma unroll
  for (int r = 0; r < kPart; ++r)
#pragma unroll
    for (int c = 0; c < kPart; ++c) score[r][c] *= problem.scale;
}

__device__ __forceinline__ void add_scores(const float (&score)[kPart], int first_token, int last_seen,
                                           Attention& mine) {
  float x[kPart], top = mine.max;
#pragma unroll
  for (int c = 0; c < kPart; ++c) {
    x[c] = first_token + c <= last_seen ? score[c] : -kInf;
    top = fmaxf(top, x[c]);
  }
  if (top > mine.max) {
    mine.sum *= exp2f(mine.max - top);
    mine.max = top;
  }
  const float from = anchor(mine.max);
#pragma unroll
  for (int c = 0; c < kPart; ++c) mine.sum += exp2_fast(x[c] - from);
}

__device__ __forceinline__ float raised(const Attention& part, float top) {
  return part.max == top ? part.sum : part.sum * exp2f(part.max - top);
}

// A block gathers a tile of queries' statistics over one piece of the tokens.
// parts: [heads, queries, pieces].
template <typename T>
__global__ void __launch_bounds__(kThreads, 4) gather_kernel(Problem<T> problem, Attention* parts) {
  __shared__ Tile tile;
  const int pieces = problem.pieces(), tiles = problem.query_tiles();
  const int piece = blockIdx.x % pieces, head = blockIdx.x / pieces / tiles;
  const int first_query = blockIdx.x / pieces % tiles * kQueries;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  Attention mine[kPart];
#pragma unroll
  for (int r = 0; r < kPart; ++r) mine[r] = {-kInf, 0};
  for (int i = 0; i < kPieceTiles; ++i) {
    const int first_token = (piece * kPieceTiles + i) * kTokens;
    if (first_token >= problem.length) break;
    float score[kPart][kPart];
    score_tile(problem, head, first_query, first_token, tile, score);
#pragma unroll
    for (int r = 0; r < kPart; ++r)
      add_scores(score[r], first_token + lane * kPart, problem.last_seen(first_query + warp * kPart + r),
                 mine[r]);
  }
#pragma unroll
  for (int r = 0; r < kPart; ++r) {
    const int query = first_query + warp * kPart + r;
    const float top = group_max(mine[r].max), sum = group_sum(raised(mine[r], top));
    if (lane == 0 && query < problem.queries())
      parts[(static_cast<int64_t>(head) * problem.queries() + query) * pieces + piece] = {top, sum};
  }
}

// A warp merges one query's statistics.
__global__ void __launch_bounds__(kThreads)
    merge_kernel(const Attention* parts, int pieces, int64_t count, Attention* all) {
  const int64_t query = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (query >= count) return;
  const int lane = threadIdx.x % kWarp;
  float top = -kInf;
  for (int i = lane; i < pieces; i += kWarp) top = fmaxf(top, parts[query * pieces + i].max);
  top = group_max(top);
  double sum = 0;
  for (int i = lane; i < pieces; i += kWarp) sum += raised(parts[query * pieces + i], top);
  sum = group_sum(sum);
  if (lane == 0) all[query] = {top, static_cast<float>(sum)};
}

// A block sums one tile of tokens' shares over all queries, in their order.
template <typename T>
__global__ void __launch_bounds__(kThreads, 4)
    share_kernel(Problem<T> problem, const Attention* all, float* scores) {
  __shared__ Tile tile;
  __shared__ float sums[kWarps][kTokens];
  const int tiles = problem.token_tiles(), head = blockIdx.x / tiles;
  const int first_token = blockIdx.x % tiles * kTokens;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float share[kPart] = {};
  for (int first_query = 0; first_query < problem.queries(); first_query += kQueries) {
    float score[kPart][kPart];
    score_tile(problem, head, first_query, first_token, tile, score);
#pragma unroll
    for (int r = 0; r < kPart; ++r) {
      const int query = first_query + warp * kPart + r, last_seen = problem.last_seen(query);
      if (last_seen < 0) break;
      const Attention mine = all[static_cast<int64_t>(head) * problem.queries() + query];
      const float inverse = 1 / mine.sum;
#pragma unroll
      for (int c = 0; c < kPart; ++c)
        if (first_token + lane * kPart + c <= last_seen)
          share[c] += exp2_fast(score[r][c] - mine.max) * inverse;
    }
  }
#pragma unroll
  for (int c = 0; c < kPart; ++c) sums[warp][lane * kPart + c] = share[c];
  __syncthreads();
  const int token = first_token + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kTokens || token >= problem.length) return;
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += sums[i][threadIdx.x];
  scores[static_cast<int64_t>(head) * problem.length + token] = total;
}

template <typename T>
void score(const Device& device, const Problem<T>& problem, const Tensor& like, float* scores) {
  const int64_t queries = static_cast<int64_t>(problem.heads) * problem.queries();
  const int pieces = problem.pieces();
  const Scratch<Attention> parts(like, queries * pieces), all(like, queries);
  launch(device, "window_scores", gather_kernel<T>,
         static_cast<int64_t>(problem.heads) * problem.query_tiles() * pieces, kThreads, problem,
         parts.data());
  launch(device, "window_scores", merge_kernel, ceil_div(queries * kWarp, kThreads), kThreads, parts.data(),
         pieces, queries, all.data());
  launch(device, "window_scores", share_kernel<T>,
         static_cast<int64_t>(problem.heads) * problem.token_tiles(), kThreads, problem, all.data(), scores);
}

}  // namespace

Tensor window_scores(const Tensor& query, const Tensor& keys, const MaybeTensor& block_table, int64_t length,
                     double scale) {
  const Places places = places_of(keys, "keys", block_table, length);
  const int64_t heads = heads_of(keys), dim = dim_of(keys);
  check_on(query, "query", keys);
  check_type(query, "query", keys.scalar_type());
  check_shape(query, "query", {-1, -1, dim});
  check_dense(query, "query");
  const int64_t window = query.size(0), query_heads = query.size(1);
  STD_TORCH_CHECK(window >= 1 && window <= length, "query: a window of 1 to ", length, " tokens is allowed");
  STD_TORCH_CHECK(heads >= 1 && query_heads >= 1 && query_heads % heads == 0,
                  "query: a multiple of keys' heads is needed");
  STD_TORCH_CHECK(window * query_heads <= std::numeric_limits<int32_t>::max() / 2, "query is too large");
  const Device device(keys);
  const Tensor scores = make(keys, {heads, length}, ScalarType::Float);
  dispatch(keys, "keys", [&](auto zero) {
    using T = decltype(zero);
    const Problem<T> problem = {static_cast<const T*>(query.const_data_ptr()),
                                static_cast<const T*>(keys.const_data_ptr()),
                                places,
                                query.stride(0),
                                query.stride(1),
                                static_cast<int>(window),
                                static_cast<int>(heads),
                                static_cast<int>(query_heads / heads),
                                static_cast<int>(dim),
                                static_cast<int>(length),
                                static_cast<float>(scale * 1.4426950408889634)};
    score(device, problem, keys, static_cast<float*>(scores.mutable_data_ptr()));
  });
  return scores;
}

}  // namespace decant
