// Statistics of a row of logits that can be gathered in pieces: its maximum and two sums relative to it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace decant {

// Rows are cut into pieces of this many tokens, whatever the number of threads, so that results do not depend on it.
constexpr int64_t kPiece = 16384;

inline int64_t pieces(int64_t vocab) { return (vocab + kPiece - 1) / kPiece; }

struct Stats {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;       // sum of 2^s, with s = (x - max) log2 e
  double weighted = 0;  // sum of s 2^s

  // The same sums relative to another maximum.
  void shift(float other) {
    const double by = (static_cast<double>(max) - other) * 1.4426950408889634;
    const double factor = std::exp2(by);
    if (by == 0) return;
    weighted = factor > 0 ? factor * (weighted + by * sum) : 0;
    sum *= factor;
    max = other;
  }

  void merge(Stats other) {
    if (other.max == -std::numeric_limits<float>::infinity()) {
      sum += other.sum;  // 0 or, with a NaN in the piece, NaN
      return;
    }
    if (max < other.max)
      shift(other.max);
    else
      other.shift(max);
    sum += other.sum;
    weighted += other.weighted;
  }

  // ln of the sum of e^(x - max).
  double log_sum() const { return std::log(sum); }

  // Entropy in bits: NaN for a row without a distribution.
  float entropy() const {
    if (!(max > -std::numeric_limits<float>::infinity()) || !(max < std::numeric_limits<float>::infinity()))
      return std::numeric_limits<float>::quiet_NaN();
    const double bits = std::log2(sum) - weighted / sum;
    return static_cast<float>(bits < 0 ? 0 : bits);
  }
};

}  // namespace decant
