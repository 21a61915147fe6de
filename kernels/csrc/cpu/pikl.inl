// One vector holds as many games as it has lanes; candidate by candidate, in the vector type V of scalar type T.

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef F Vector;
  static constexpr int64_t kCount = N;
};
template <>
struct Lanes<double> {
  typedef D Vector;
  static constexpr int64_t kCount = ND;
};

template <typename T>
static int64_t lanes_of() {
  return Lanes<T>::kCount;
}

// A running sum that keeps what rounding would lose: thousands of small terms are added.
template <typename V>
struct Compensated {
  V sum, lost;
  INLINE_MEMBER void add(V x) {
    const V y = x - lost;
    const V t = sum + y;
    lost = (t - sum) - y;
    sum = t;
  }
};

// The last iterate's exponents for a group of games: 2 * candidates vectors each for generator [v][y] and
// discriminator [y][v]. The game is symmetric enough to need two sums only: of pi_D(correct|y), and of
// pi_G(y|correct) - pi_G(y|incorrect); what is left of the policies' means is constant over what they are normalised over.
template <typename T>
static void play(const GameRules& rules, int64_t candidates, const T* log_g1, const T* log_d1, T* log_g, T* log_d) {
  typedef typename Lanes<T>::Vector V;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  const auto at = [&](const T* p, int64_t i) { return load(p + i * kLanes); };
  std::vector<T> memory((6 * candidates + 1) * kLanes + 64 / sizeof(T));
  T* aligned = (T*)(((uintptr_t)memory.data() + 63) / 64 * 64);
  Compensated<V>* trust = (Compensated<V>*)aligned;           // sum of pi_D(correct|y)
  Compensated<V>* lead = trust + candidates;                  // sum of pi_G(y|correct) - pi_G(y|incorrect)
  V* e0 = (V*)(lead + candidates);
  V* e1 = e0 + candidates;
  const V zero = V{}, one = zero + T(1), half = zero + T(0.5);
  const V lam_g = zero + T(rules.lam_g), lam_d = zero + T(rules.lam_d);
  const V least = zero - std::numeric_limits<T>::infinity();
  const auto anchored = [&](V first, V lam) { return first == least ? least : lam * first; };
  for (int64_t y = 0; y < candidates; ++y) {
    trust[y] = {zero, zero};
    lead[y] = {zero, zero};
    e0[y] = exp(at(log_g1, y));
    e1[y] = exp(at(log_g1, candidates + y));
    trust[y].add(exp(at(log_d1, 2 * y + 1)));
    lead[y].add(e1[y] - e0[y]);
  }
  for (int64_t t = 1; t <= rules.iterations; ++t) {
    const V mean = half / (zero + T(t));
    const V scale_g = zero + T(1 / (1 / (rules.eta_g * t) + rules.lam_g));
    const V scale_d = zero + T(1 / (1 / (rules.eta_d * t) + rules.lam_d));
    const bool last = t == rules.iterations;
    V most0 = least, most1 = least;
    for (int64_t y = 0; y < candidates; ++y) {
      const V q = trust[y].sum * mean;
      e0[y] = (anchored(at(log_g1, y), lam_g) - q) * scale_g;
      e1[y] = (anchored(at(log_g1, candidates + y), lam_g) + q) * scale_g;
      most0 = max(e0[y], most0);
      most1 = max(e1[y], most1);
    }
    V sum0 = zero, sum1 = zero;
    for (int64_t y = 0; y < candidates; ++y) {
      const V q = lead[y].sum * mean;
      const V d0 = anchored(at(log_d1, 2 * y), lam_d) * scale_d;
      const V d1 = (anchored(at(log_d1, 2 * y + 1), lam_d) + q) * scale_d;
      if (last) {
        store(log_g + y * kLanes, e0[y] - most0);
        store(log_g + (candidates + y) * kLanes, e1[y] - most1);
        store(log_d + 2 * y * kLanes, d0);
        store(log_d + (2 * y + 1) * kLanes, d1);
        continue;
      }
      e0[y] = exp(e0[y] - most0);
      e1[y] = exp(e1[y] - most1);
      sum0 += e0[y];
      sum1 += e1[y];
      // 1 / (1 + e^(d0 - d1)), without the overflow of e^.
      const V gap = d0 - d1;
      const V e = exp(gap > zero ? zero - gap : gap);
      trust[y].add((gap > zero ? e : one) / (one + e));
    }
    const V share0 = one / sum0, share1 = one / sum1;
    for (int64_t y = 0; y < candidates && !last; ++y) lead[y].add(e1[y] * share1 - e0[y] * share0);
  }
}
