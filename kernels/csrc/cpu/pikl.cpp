#include "isa.h"
#include "rows.h"

namespace decant {
namespace {

struct GameRules {
  double eta_g, lam_g, eta_d, lam_d;
  int64_t iterations;
};

}  // namespace
}  // namespace decant

#define INLINE_MEMBER __attribute__((always_inline))
#define DECANT_VECTOR_CODE "pikl.inl"
#include "for_each_isa.h"

namespace decant {
namespace {

template <typename T>
constexpr T kGone = -std::numeric_limits<T>::infinity();

// log sum e^x over n values, a stride apart.
template <typename T>
double log_sum(const T* x, int64_t n, int64_t stride) {
  double most = kGone<double>, sum = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max<double>(most, x[i * stride]);
  if (most == kGone<double>) {
    for (int64_t i = 0; i < n; ++i) sum += x[i * stride] != x[i * stride];
    return sum ? std::numeric_limits<double>::quiet_NaN() : most;
  }
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i * stride] - most);
  return most + std::log(sum);
}

template <typename T>
void normalise(T* x, int64_t n, int64_t stride) {
  const double total = log_sum(x, n, stride);
  for (int64_t i = 0; i < n; ++i) x[i * stride] = static_cast<T>(x[i * stride] - total);
}

// x - total, and -inf where x is -inf whatever the total.
template <typename T>
T less(T x, double total) {
  return x == kGone<T> ? x : static_cast<T>(x - total);
}

// One game: the initial policies, in place of the unnormalised log-probabilities [2][y] and [y][2].
template <typename T>
void start(T* g, T* d, int64_t length, int64_t candidates) {
  for (int64_t y = 0; y < length; ++y) {
    const T pair[2] = {g[y], g[candidates + y]};
    const double total = log_sum(pair, 2, 1);
    g[y] = less(pair[0], total);
    g[candidates + y] = less(pair[1], total);
  }
  for (int64_t v = 0; v < 2; ++v) {
    normalise(g + v * candidates, length, 1);
    const double total = log_sum(d + v, length, 2);
    for (int64_t y = 0; y < length; ++y) d[2 * y + v] = less(d[2 * y + v], total);
  }
  for (int64_t y = 0; y < length; ++y) normalise(d + 2 * y, 2, 1);
}

template <typename T>
void finish(T* g, T* d, int64_t length, int64_t candidates) {
  for (int64_t v = 0; v < 2; ++v) normalise(g + v * candidates, length, 1);
  for (int64_t y = 0; y < length; ++y) normalise(d + 2 * y, 2, 1);
}

template <typename T>
void rule_out_beyond(T* g, T* d, int64_t length, int64_t candidates) {
  for (int64_t y = length; y < candidates; ++y) g[y] = g[candidates + y] = d[2 * y] = d[2 * y + 1] = kGone<T>;
}

template <typename T>
void run(const Tensor& generator, const Tensor& discriminator, const int64_t* lengths, const GameRules& rules,
         Tensor& policy_g, Tensor& policy_d) {
  const int64_t games = generator.size(0), candidates = generator.size(2), each = 2 * candidates;
  if (games == 0) return;
  T *g = data<T>(policy_g), *d = data<T>(policy_d);
  std::memcpy(g, generator.data_ptr(), games * each * sizeof(T));
  std::memcpy(d, discriminator.data_ptr(), games * each * sizeof(T));
  const int64_t lanes = DECANT_DISPATCH(lanes_of<T>);
  for_each((games + lanes - 1) / lanes, (rules.iterations + 1) * candidates * lanes, [&](int64_t group) {
    const int64_t first = group * lanes, count = std::min(lanes, games - first);
    int64_t longest = 1;
    for (int64_t i = 0; i < count; ++i) {
      start(g + (first + i) * each, d + (first + i) * each, lengths[first + i], candidates);
      longest = std::max(longest, lengths[first + i]);
    }
    if (rules.iterations > 0) {
      // Transposed: the games of a group side by side. A lane without a game, or beyond its game's candidates, plays
      // a uniform game whose candidates are ruled out or not: no lane looks at another.
      std::vector<T> g1(2 * longest * lanes, T(0)), d1(2 * longest * lanes, T(0)), gt(g1), dt(d1);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t y = 0; y < longest; ++y)
          for (int64_t v = 0; v < 2; ++v) {
            const bool beyond = y >= lengths[first + i];
            const int64_t game = (first + i) * each;
            g1[(v * longest + y) * lanes + i] = beyond ? kGone<T> : g[game + v * candidates + y];
            d1[(2 * y + v) * lanes + i] = beyond ? T(0) : d[game + 2 * y + v];
          }
      DECANT_DISPATCH(play<T>, rules, longest, g1.data(), d1.data(), gt.data(), dt.data());
      for (int64_t i = 0; i < count; ++i) {
        const int64_t game = (first + i) * each, length = lengths[first + i];
        for (int64_t y = 0; y < length; ++y)
          for (int64_t v = 0; v < 2; ++v) {
            g[game + v * candidates + y] = gt[(v * longest + y) * lanes + i];
            d[game + 2 * y + v] = dt[(2 * y + v) * lanes + i];
          }
        finish(g + game, d + game, length, candidates);
      }
    }
    for (int64_t i = 0; i < count; ++i)
      rule_out_beyond(g + (first + i) * each, d + (first + i) * each, lengths[first + i], candidates);
  });
}

}  // namespace

std::tuple<Tensor, Tensor> pikl(const Tensor& generator, const Tensor& discriminator, const Tensor& lengths, double eta_g,
                                double lam_g, double eta_d, double lam_d, int64_t iterations) {
  STD_TORCH_CHECK(generator.dim() == 3 && generator.size(1) == 2, "generator: [games, 2, candidates] is needed");
  const int64_t games = generator.size(0), candidates = generator.size(2);
  const ScalarType type = generator.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "generator: float32 or float64 is needed");
  check_type(discriminator, "discriminator", type);
  check_shape(discriminator, "discriminator", {games, candidates, 2});
  check_type(lengths, "lengths", ScalarType::Long);
  check_shape(lengths, "lengths", {games});
  STD_TORCH_CHECK(generator.is_contiguous() && discriminator.is_contiguous() && lengths.is_contiguous(),
                  "generator, discriminator and lengths must be contiguous");
  const int64_t* counts = data<int64_t>(lengths);
  for (int64_t i = 0; i < games; ++i)
    STD_TORCH_CHECK(counts[i] >= 1 && counts[i] <= candidates, "lengths holds ", counts[i], "; 1 to ", candidates,
                    " is allowed");
  Tensor policy_g = make(generator, {games, 2, candidates}, type), policy_d = make(generator, {games, candidates, 2}, type);
  const GameRules rules{eta_g, lam_g, eta_d, lam_d, iterations};
  if (type == ScalarType::Float)
    run<float>(generator, discriminator, counts, rules, policy_g, policy_d);
  else
    run<double>(generator, discriminator, counts, rules, policy_g, policy_d);
  return {policy_g, policy_d};
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("pikl", TORCH_BOX(&decant::pikl)); }
