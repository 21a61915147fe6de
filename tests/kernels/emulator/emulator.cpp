// Runs the blocks of a kernel on the CPU; cuda_runtime.h says what that shows and what not.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

dim3 threadIdx, blockIdx;

// The section of all shared memory, as the linker bounds it.
extern "C" char __start_emulated_shared[], __stop_emulated_shared[];

// Leaves the running stack, after saving what a call must preserve, for the one saved in `to`.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kStack = 64 * 1024;

struct Fiber {
  void* stack;
  bool ready;
};

struct Warp {
  unsigned arrived;
  std::pair<Collective, int> call;
  uint64_t given[kWarp], exchanged[kWarp];
};

alignas(16) char stacks[kMaxThreads][kStack];
Fiber fibers[kMaxThreads];
Warp warps[kMaxThreads / kWarp];
unsigned current, block_size, living, at_barrier;
const std::function<void()>* body;
void* scheduler;
std::mt19937_64 schedule;

void wait() {
  fibers[current].ready = false;
  emulator_switch(&fibers[current].stack, scheduler);
}

void wake(unsigned first, unsigned count) {
  for (unsigned i = first; i < first + count; ++i) fibers[i].ready = true;
}

void run_thread() {
  (*body)();
  if (at_barrier) die("a thread ends while others wait at a barrier");
  --living;
  wait();
}

// A stack that emulator_switch can go to, to begin run_thread as a call would.
void* new_stack(unsigned thread) {
  void** top = reinterpret_cast<void**>(stacks[thread] + kStack);
  --top;  // where a call's stack is aligned to 16 bytes, but for the address to return to
  *--top = reinterpret_cast<void*>(&run_thread);
  return top - 6;  // the registers
}

// The numbers below `count`: ascending, descending or anyhow.
std::vector<unsigned> order(unsigned count) {
  std::vector<unsigned> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0);
  const unsigned kind = schedule() % 3;
  if (kind == 1) std::reverse(numbers.begin(), numbers.end());
  if (kind == 2) std::shuffle(numbers.begin(), numbers.end(), schedule);
  return numbers;
}

// Runs those of a warp's threads that can run, until they wait; whether there were any.
bool run_warp(unsigned warp, const std::vector<unsigned>& lanes) {
  bool ran = false;
  for (const unsigned lane : lanes) {
    current = warp * kWarp + lane;
    if (!fibers[current].ready) continue;
    ran = true;
    threadIdx = dim3(current, 0, 0);
    emulator_switch(&scheduler, fibers[current].stack);
  }
  return ran;
}

void run_block() {
  const int poison = schedule() % 2 ? 0xff : 0;
  std::memset(__start_emulated_shared, poison, __stop_emulated_shared - __start_emulated_shared);
  living = block_size;
  at_barrier = 0;
  for (unsigned i = 0; i < block_size; ++i) fibers[i] = {new_stack(i), true};
  for (Warp& warp : warps) warp.arrived = 0;
  const std::vector<unsigned> turns = order(block_size / kWarp), lanes = order(kWarp);
  const bool rushing = schedule() % 2;  // a warp then goes on until all of it wait for the block
  while (living) {
    bool ran = false;
    for (const unsigned warp : turns) {
      while (run_warp(warp, lanes)) {
        ran = true;
        if (!rushing) break;
      }
    }
    if (!ran) die("deadlock: a barrier or a warp's collective is not reached by all");
  }
}

}  // namespace

void die(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u, thread %u)\n", what, blockIdx.x, current);
  std::abort();
}

void launch(unsigned blocks, unsigned threads, const std::function<void()>& thread) {
  if (threads > kMaxThreads || threads % kWarp) die("a block is not 1 to 32 whole warps");
  block_size = threads;
  body = &thread;
  const bool descending = schedule() % 2;
  for (unsigned i = 0; i < blocks; ++i) {
    blockIdx = dim3(descending ? blocks - 1 - i : i, 0, 0);
    run_block();
  }
}

void barrier() {
  if (living != block_size) die("a barrier after a thread has ended");
  if (warps[current / kWarp].arrived) die("a barrier while others of the warp wait in a collective");
  if (++at_barrier < block_size) return wait();
  at_barrier = 0;
  wake(0, block_size);
}

const uint64_t* exchange(Collective collective, int offset, uint64_t value) {
  Warp& mine = warps[current / kWarp];
  const auto call = std::make_pair(collective, offset);
  if (mine.arrived == 0) mine.call = call;
  if (mine.call != call) die("the lanes of a warp call different collectives");
  mine.given[current % kWarp] = value;
  if (++mine.arrived < kWarp) {
    wait();
  } else {
    mine.arrived = 0;
    std::memcpy(mine.exchanged, mine.given, sizeof(mine.given));
    wake(current / kWarp * kWarp, kWarp);
  }
  return mine.exchanged;
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void emulator_seed(uint64_t seed) {
  emulator::schedule.seed(seed);
}
