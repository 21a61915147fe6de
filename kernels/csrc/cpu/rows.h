// Statistics of whole rows, for the operators on logits.
#pragma once

#include <algorithm>

#include "stats.h"
#include "tensor.h"

namespace decant {

// Stats of tokens [from, to) of a row; the weighted sum only if asked for.
Stats gather(const void* row, Dtype dtype, int64_t from, int64_t to, bool weighted);

// Stats of a whole row, gathered in order by the calling thread.
Stats gather_row(const void* row, Dtype dtype, int64_t vocab, bool weighted);

// Calls work(task) for each of `count` tasks, on as many of torch's threads as are worth waking for the elements of work
// that a task takes.
template <typename Work>
void for_each(int64_t count, int64_t elements, const Work& work) {
  constexpr int64_t kWorthAThread = 32768;
  const int64_t grain = (kWorthAThread + elements - 1) / std::max<int64_t>(elements, 1);
  torch::stable::parallel_for(0, count, std::max<int64_t>(grain, 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(i);
  });
}

}  // namespace decant
