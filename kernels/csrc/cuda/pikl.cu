#include "operators.h"
#include "reduce.cuh"

namespace decant {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
template <typename T>
constexpr T kLog2 = static_cast<T>(1 / kLn2);  // of e

// Candidates a lane keeps in registers.
template <typename T>
constexpr int kHeld = 16 / sizeof(T);

template <typename T>
struct Game {
  const T* generator;      // [games, 2, candidates]
  const T* discriminator;  // [games, candidates, 2]
  const int64_t* lengths;
  T* log_g;
  T* log_d;
  int64_t games, candidates;
  T eta_g, lam_g, eta_d, lam_d;
  int64_t iterations;
};

// Both players' view of one candidate, for v = 0 (incorrect) and 1 (correct). Logarithms are in base 2.
template <typename T>
struct Candidate {
  T first_g[2], first_d[2];    // log of the initial policies; -inf for what is ruled out
  T score_g[2], score_d[2];    // log of the policies, before they are normalised
  T policy_g[2], policy_d[2];  // G's is not yet divided by its sum over the candidates
  Sum<T> sum_g[2], sum_d[2];   // of the policies so far

  __device__ T lead() const { return score_d[1] - score_d[0]; }
};

// G's maximum score and the sum of 2^(score - top) over a game's candidates; the same in all its lanes.
template <typename T>
struct Norm {
  T top[2], total[2];
};

// Candidates in memory, where registers cannot hold them; each is used by one lane only.
template <typename T>
struct Strided {
  Candidate<T>* first;

  __device__ Candidate<T>& operator[](int i) const { return first[i * kWarp]; }
};

__device__ __forceinline__ float power2(float x) { return exp2_fast(x); }
__device__ __forceinline__ double power2(double x) { return exp2(x); }
__device__ __forceinline__ float inverse(float x) { return inverse_fast(x); }
__device__ __forceinline__ double inverse(double x) { return 1 / x; }

// log2 of the share of one of two whose odds against it are 2^gap.
template <typename T>
__device__ T log2_share(T gap) {
  return -(fmax(gap, T(0)) + log1p(exp2(-fabs(gap))) * kLog2<T>);
}

// One iteration's exponents exp{(Q + lam log pi_1) / (1 / (eta t) + lam)}, with Q = sum / (2 t), in base 2.
template <typename T>
struct Step {
  T pull, stay;

  __device__ __forceinline__ Step(T eta, T lam, T t) {
    const T held = lam * eta * t, shrink = inverse(1 + held);
    pull = eta / 2 * kLog2<T> * shrink;
    stay = held * shrink;
  }

  // What is ruled out stays so, even if lam is 0.
  __device__ __forceinline__ T score(T sum, T first) const {
    return first == -kInf ? first : sum * pull + first * stay;
  }
};

// Normalises D over v, and finds what normalises G over the game's candidates.
template <int kLanes, typename T, typename Mine>
__device__ __forceinline__ Norm<T> normalise(Mine& mine, int count) {
  T top[2] = {-kInf, -kInf}, total[2] = {0, 0};
  Norm<T> norm;
#pragma unroll
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int v = 0; v < 2; ++v) top[v] = fmax(top[v], mine[i].score_g[v]);
#pragma unroll
  for (int v = 0; v < 2; ++v) norm.top[v] = group_max<kLanes>(top[v]);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    Candidate<T>& c = mine[i];
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      c.policy_g[v] = power2(c.score_g[v] - norm.top[v]);
      total[v] += c.policy_g[v];
    }
    const T lead = c.lead(), odds = power2(-fabs(lead)), more = inverse(1 + odds);
    c.policy_d[0] = lead > 0 ? odds * more : more;
    c.policy_d[1] = lead > 0 ? more : odds * more;
  }
#pragma unroll
  for (int v = 0; v < 2; ++v) norm.total[v] = group_sum<kLanes>(total[v]);
  return norm;
}

template <typename T>
__device__ T log2_policy_g(const Candidate<T>& c, const Norm<T>& norm, int v) {
  return (c.score_g[v] - norm.top[v]) - log2(norm.total[v]);
}

template <typename T>
__device__ T log2_policy_d(const Candidate<T>& c, int v) {
  return log2_share(v ? -c.lead() : c.lead());
}

// The initial policies, each normalised against its own ambiguity, as scores. Differences are taken before
// anything is scaled: log-probabilities of long answers are large.
template <int kLanes, typename T, typename Mine>
__device__ void begin(const Game<T>& game, int64_t index, int64_t length, int lane, Mine& mine, int count) {
  T top[2] = {-kInf, -kInf}, total[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < count; ++i) {
    Candidate<T>& c = mine[i] = Candidate<T>();
    const int64_t y = lane + static_cast<int64_t>(i) * kLanes;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      c.score_g[v] = y < length ? game.generator[(2 * index + v) * game.candidates + y] : -kInf;
      c.score_d[v] = y < length ? game.discriminator[2 * (index * game.candidates + y) + v] : -kInf;
      top[v] = fmax(top[v], c.score_d[v]);
    }
    const T gap = (c.score_g[1] - c.score_g[0]) * kLog2<T>;
#pragma unroll
    for (int v = 0; v < 2; ++v)
      if (c.score_g[v] != -kInf) c.score_g[v] = log2_share(v ? -gap : gap);
  }
#pragma unroll
  for (int v = 0; v < 2; ++v) top[v] = group_max<kLanes>(top[v]);
#pragma unroll
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      T& score = mine[i].score_d[v];
      if (score == -kInf) continue;
      score = (score - top[v]) * kLog2<T>;
      total[v] += exp2(score);
    }
#pragma unroll
  for (int v = 0; v < 2; ++v) total[v] = log2(group_sum<kLanes>(total[v]));
#pragma unroll
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int v = 0; v < 2; ++v)
      if (mine[i].score_d[v] != -kInf) mine[i].score_d[v] -= total[v];
}

// Plays one game by kLanes neighbouring lanes, each for `count` candidates.
template <int kLanes, typename T, typename Mine>
__device__ __forceinline__ void play(const Game<T>& game, int64_t index, int64_t length, int lane, Mine& mine,
                                     int count) {
  begin<kLanes>(game, index, length, lane, mine, count);
  Norm<T> norm = normalise<kLanes, T>(mine, count);
#pragma unroll
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      mine[i].first_g[v] = log2_policy_g(mine[i], norm, v);
      mine[i].first_d[v] = log2_policy_d(mine[i], v);
    }
  for (int64_t t = 1; t <= game.iterations; ++t) {
    const Step<T> step_g(game.eta_g, game.lam_g, static_cast<T>(t));
    const Step<T> step_d(game.eta_d, game.lam_d, static_cast<T>(t));
    const T scale[2] = {inverse(norm.total[0]), inverse(norm.total[1])};
#pragma unroll
    for (int i = 0; i < count; ++i) {
      Candidate<T>& c = mine[i];
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        c.sum_g[v].add(c.policy_g[v] * scale[v]);
        c.sum_d[v].add(c.policy_d[v]);
        c.score_g[v] = step_g.score(c.sum_d[v].value, c.first_g[v]);
        c.score_d[v] = step_d.score(c.sum_g[v].value, c.first_d[v]);
      }
    }
    norm = normalise<kLanes, T>(mine, count);
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int64_t y = lane + static_cast<int64_t>(i) * kLanes;
    if (index >= game.games || y >= game.candidates) continue;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const bool there = y < length;
      game.log_g[(2 * index + v) * game.candidates + y] =
          there ? log2_policy_g(mine[i], norm, v) * static_cast<T>(kLn2) : -kInf;
      game.log_d[2 * (index * game.candidates + y) + v] =
          there ? log2_policy_d(mine[i], v) * static_cast<T>(kLn2) : -kInf;
    }
  }
}

template <typename T>
__device__ int64_t length_of(const Game<T>& game, int64_t index) {
  if (index >= game.games) return 0;  // the last warp's idle lanes take part in its reductions
  const int64_t length = game.lengths[index];
  assert(length >= 1 && length <= game.candidates && "lengths holds a number out of range");
  return length;
}

// A warp plays kWarp / kLanes games.
template <int kLanes, int kCount, typename T>
__global__ void __launch_bounds__(kWarp) play_kernel(Game<T> game) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (kWarp / kLanes) + threadIdx.x / kLanes;
  Candidate<T> mine[kCount];
  play<kLanes>(game, index, length_of(game, index), threadIdx.x % kLanes, mine, kCount);
}

// Games of any size; `spare` holds each one's candidates, filled up to whole warps.
template <typename T>
__global__ void __launch_bounds__(kWarp) play_large_kernel(Game<T> game, Candidate<T>* spare) {
  const int count = static_cast<int>(ceil_div(game.candidates, kWarp));
  Strided<T> mine = {spare + static_cast<int64_t>(blockIdx.x) * count * kWarp + threadIdx.x};
  play<kWarp>(game, blockIdx.x, length_of(game, blockIdx.x), threadIdx.x, mine, count);
}

template <int kLanes, int kCount, typename T>
void play_small(const Device& device, const Game<T>& game) {
  launch(device, "pikl", play_kernel<kLanes, kCount, T>, ceil_div(game.games, kWarp / kLanes), kWarp, game);
}

template <typename T>
void play_all(const Device& device, const Game<T>& game, const Tensor& like) {
  const int64_t candidates = game.candidates;
  if (candidates <= 4) return play_small<4, 1>(device, game);
  if (candidates <= 8) return play_small<8, 1>(device, game);
  if (candidates <= 16) return play_small<16, 1>(device, game);
  if (candidates <= kWarp) return play_small<kWarp, 1>(device, game);
  if (candidates <= kWarp * kHeld<T>) return play_small<kWarp, kHeld<T>>(device, game);
  STD_TORCH_CHECK(candidates <= std::numeric_limits<int32_t>::max(), "generator has too many candidates");
  const Scratch<Candidate<T>> spare(like, game.games * ceil_div(candidates, kWarp) * kWarp);
  launch(device, "pikl", play_large_kernel<T>, game.games, kWarp, game, spare.data());
}

}  // namespace

std::tuple<Tensor, Tensor> pikl(const Tensor& generator, const Tensor& discriminator, const Tensor& lengths,
                                double eta_g, double lam_g, double eta_d, double lam_d, int64_t iterations) {
  check_shape(generator, "generator", {-1, 2, -1});
  const int64_t games = generator.size(0), candidates = generator.size(2);
  STD_TORCH_CHECK(candidates >= 1, "generator has no candidates");
  STD_TORCH_CHECK(iterations >= 0, "iterations: 0 or more is needed");
  const Device device(generator);
  const ScalarType type = generator.scalar_type();
  const int64_t* const counts = plain<int64_t>(lengths, "lengths", ScalarType::Long, {games}, generator);
  const Tensor log_g = make(generator, {games, 2, candidates}, type);
  const Tensor log_d = make(generator, {games, candidates, 2}, type);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Game<T> game = {plain<T>(generator, "generator", type, {games, 2, candidates}, generator),
                          plain<T>(discriminator, "discriminator", type, {games, candidates, 2}, generator),
                          counts,
                          static_cast<T*>(log_g.mutable_data_ptr()),
                          static_cast<T*>(log_d.mutable_data_ptr()),
                          games,
                          candidates,
                          static_cast<T>(eta_g),
                          static_cast<T>(lam_g),
                          static_cast<T>(eta_d),
                          static_cast<T>(lam_d),
                          iterations};
    play_all(device, game, generator);
  };
  if (type == ScalarType::Double)
    run(double{});
  else if (type == ScalarType::Float)
    run(float{});
  else
    STD_TORCH_CHECK(false, "generator: float32 or float64 is needed");
  return {log_g, log_d};
}

}  // namespace decant
