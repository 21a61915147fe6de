#include "isa.h"
#include "kv.h"

namespace decant {
namespace {

constexpr int64_t kWindowPiece = 60;      // tokens whose weights fit into the first cache, for a tile of queries
constexpr int64_t kMostHeld = 8192;       // tokens whose weights a thread may hold, for one tile of queries
constexpr float kNever = -std::numeric_limits<float>::infinity();

// A tile of the queries that read one key head, scaled by scale * log2 e: [dim, tile].
struct WindowTile {
  const KV* keys;
  int64_t head;
  const float* queries;
  int64_t first_query;     // the token of the window's first query
  const float* last_seen;  // [tile]: the last token each query sees, from first_query on
};

}  // namespace
}  // namespace decant

#define DECANT_VECTOR_CODE "window_scores.inl"
#include "for_each_isa.h"

namespace decant {
namespace {

struct WindowScores {
  KV keys;
  int64_t length, window, group, tile;
  std::vector<float> queries;    // [heads, tiles, dim, tile]
  std::vector<float> last_seen;  // [tiles, tile]
  float* out;                    // [heads, length]

  int64_t real() const { return window * group; }
  int64_t tiles() const { return (real() + tile - 1) / tile; }
  int64_t pieces() const { return (length + kWindowPiece - 1) / kWindowPiece; }
  int64_t end(int64_t piece) const { return std::min((piece + 1) * kWindowPiece, length); }

  WindowTile of(int64_t head, int64_t t) const {
    return {&keys, head, queries.data() + (head * tiles() + t) * keys.dim * tile, length - window,
            last_seen.data() + t * tile};
  }

  void weigh(int64_t head, int64_t t, int64_t piece, float* weights, float* maxima, float* sums) const {
    DECANT_DISPATCH(weigh_piece, of(head, t), piece * kWindowPiece, end(piece), weights, maxima, sums);
  }

  void add(int64_t head, int64_t piece, const float* weights, const float* factors) const {
    float* place = out + head * length + piece * kWindowPiece;
    DECANT_DISPATCH(add_masses, weights, end(piece) - piece * kWindowPiece, factors, place);
  }

  // From the pieces' maxima and sums [pieces, tile], what turns their weights into shares; in place of the maxima.
  void factors(int64_t t, float* maxima, const float* sums) const {
    for (int64_t q = 0; q < tile; ++q) {
      float most = kNever;
      double sum = 0;
      for (int64_t p = 0; p < pieces(); ++p) most = std::max(most, maxima[p * tile + q]);
      for (int64_t p = 0; p < pieces(); ++p)
        if (maxima[p * tile + q] > kNever) sum += sums[p * tile + q] * std::exp2(maxima[p * tile + q] - most);
      const bool filler = t * tile + q >= real();  // only fills up the last tile
      for (int64_t p = 0; p < pieces(); ++p) {
        float& place = maxima[p * tile + q];
        place = filler || !(place > kNever) ? 0.0f : static_cast<float>(std::exp2(place - most) / sum);
      }
    }
  }

  // A head a thread: every dot product is made once, and a tile's weights are held until its sums are known.
  void by_head() const {
    for_each(keys.heads, length * tile * keys.dim, [&](int64_t head) {
      std::vector<float> weights(pieces() * kWindowPiece * tile), maxima(pieces() * tile), sums(maxima.size());
      for (int64_t t = 0; t < tiles(); ++t) {
        for (int64_t p = 0; p < pieces(); ++p)
          weigh(head, t, p, weights.data() + p * kWindowPiece * tile, maxima.data() + p * tile, sums.data() + p * tile);
        factors(t, maxima.data(), sums.data());
        for (int64_t p = 0; p < pieces(); ++p)
          add(head, p, weights.data() + p * kWindowPiece * tile, maxima.data() + p * tile);
      }
    });
  }

  // Long sequences and few heads: dot products are made twice, and only one piece's weights are held. The same sums in
  // the same order, so the same bits.
  void by_piece() const {
    const int64_t each = pieces() * tile;
    std::vector<float> maxima(keys.heads * tiles() * each), sums(maxima.size());
    for_each(keys.heads * tiles() * pieces(), kWindowPiece * tile * keys.dim / 16, [&](int64_t task) {
      std::vector<float> weights(kWindowPiece * tile);
      const int64_t t = task / pieces() % tiles(), head = task / pieces() / tiles();
      weigh(head, t, task % pieces(), weights.data(), maxima.data() + task * tile, sums.data() + task * tile);
    });
    for_each(keys.heads * tiles(), each, [&](int64_t task) {
      factors(task % tiles(), maxima.data() + task * each, sums.data() + task * each);
    });
    for_each(keys.heads * pieces(), kWindowPiece * tile * tiles() * keys.dim / 16, [&](int64_t task) {
      std::vector<float> weights(kWindowPiece * tile), unused(2 * tile);
      const int64_t piece = task % pieces(), head = task / pieces();
      for (int64_t t = 0; t < tiles(); ++t) {
        weigh(head, t, piece, weights.data(), unused.data(), unused.data() + tile);
        add(head, piece, weights.data(), maxima.data() + (head * tiles() + t) * each + piece * tile);
      }
    });
  }
};

}  // namespace

Tensor window_scores(const Tensor& query, const Tensor& keys, const std::optional<Tensor>& block_table, int64_t length,
                     double scale) {
  const KV cache(keys, block_table, length, "keys");
  const Dtype dtype = dtype_of(query, "query");
  STD_TORCH_CHECK(query.dim() == 3 && query.size(2) == cache.dim && query.size(1) % cache.heads == 0 &&
                      query.size(0) >= 1 && query.size(0) <= length,
                  "query: [window, query_heads, dim] is needed, with keys' dim, a multiple of its heads, window <= length");
  check_dense(query, "query");
  Tensor out = torch::stable::new_zeros(keys, {cache.heads, length}, ScalarType::Float);
  WindowScores job{cache, length, query.size(0), query.size(1) / cache.heads, DECANT_DISPATCH(query_tile), {}, {},
                   data<float>(out)};
  job.queries.resize(cache.heads * job.tiles() * cache.dim * job.tile);
  job.last_seen.assign(job.tiles() * job.tile, static_cast<float>(length));
  for (int64_t q = 0; q < job.real(); ++q) job.last_seen[q] = static_cast<float>(q / job.group);
  const float to_log2 = static_cast<float>(scale * 1.4426950408889634);
  for_each(cache.heads, job.real() * cache.dim, [&](int64_t head) {
    for (int64_t q = 0; q < job.real(); ++q) {
      const char* row =
          static_cast<const char*>(query.data_ptr()) +
          (q / job.group * query.stride(0) + (head * job.group + q % job.group) * query.stride(1)) * size_of(dtype);
      float* place = job.queries.data() + (head * job.tiles() + q / job.tile) * cache.dim * job.tile + q % job.tile;
      for (int64_t i = 0; i < cache.dim; ++i) place[i * job.tile] = element(row, dtype, i) * to_log2;
    }
  });
  if (length <= kMostHeld && cache.heads >= static_cast<int64_t>(torch::stable::get_num_threads()))
    job.by_head();
  else
    job.by_piece();
  return out;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("window_scores", TORCH_BOX(&decant::window_scores)); }
