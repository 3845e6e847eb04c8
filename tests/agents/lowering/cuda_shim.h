// CUDA C as host C++: the threads of a block are fibers of one thread that change at barriers and warp exchanges.
// Blocks run one after the other, and so do warps as far as they get, in ascending or in descending order: a missing
// barrier shows.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <functional>
#include <memory>
#include <vector>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __restrict__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))

struct Position { unsigned x, y, z; };
static Position threadIdx, blockIdx, blockDim, gridDim;
static constexpr int SHARED_BYTES = 227 << 10;
__attribute__((aligned(16))) unsigned char shared[SHARED_BYTES];

namespace shim {
constexpr size_t STACK = 256 << 10;
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};  // not filled: most of its pages are never touched
  int waits = 0;  // 0 for nothing, 1 for its warp, 2 for the block, 3: it has ended
  char value[8];
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static int current, trapped;
static const std::function<void()>* body;
static void run() {
  (*body)();
  fibers[current].waits = 3;
  swapcontext(&fibers[current].context, &scheduler);
}
static void wait(int what) {
  Fiber& own = fibers[current];
  own.waits = what;
  swapcontext(&own.context, &scheduler);
}
static void fail(const char* why) {
  fprintf(stderr, "%s\n", why);
  abort();
}
// Lets threads go on if all of them wait for the same.
static bool release(int begin, int end, int what) {
  for (int t = begin; t < end; t++)
    if (fibers[t].waits != what) return false;
  for (int t = begin; t < end; t++) fibers[t].waits = 0;
  return true;
}
// Runs a warp as far as it gets without the others.
static void warp(int begin, int end, bool descending) {
  do {
    for (int n = 0; n < end - begin && !trapped; n++) {
      const int t = descending ? end - 1 - n : begin + n;
      if (fibers[t].waits != 0) continue;
      current = t;
      threadIdx.x = t;
      swapcontext(&scheduler, &fibers[t].context);
    }
  } while (!trapped && release(begin, end, 1));
}
static void block(int threads, bool descending) {
  for (int t = 0; t < threads; t++) {
    Fiber& f = fibers[t];
    f.waits = 0;
    getcontext(&f.context);
    f.context.uc_stack = {f.stack.get(), 0, STACK};
    f.context.uc_link = &scheduler;
    makecontext(&f.context, run, 0);
  }
  do {
    for (int n = 0; n < threads && !trapped; n += 32) {
      const int begin = descending ? threads - 32 - n : n;
      warp(begin, begin + 32, descending);
    }
  } while (!trapped && release(0, threads, 2));
  for (int t = 0; t < threads && !trapped; t++)
    if (fibers[t].waits != 3) fail("threads of a block wait at different barriers");
}
// Returns 1 if the kernel trapped.
static int launch(const std::function<void()>& f, int64_t blocks, int threads, int shared_bytes, int descending) {
  if (shared_bytes > SHARED_BYTES) fail("too much shared memory");
  body = &f;
  if ((int)fibers.size() < threads) fibers.resize(threads);
  blockDim = {(unsigned)threads, 1, 1};
  gridDim = {(unsigned)blocks, 1, 1};
  trapped = 0;
  for (int64_t b = 0; b < blocks && !trapped; b++) {
    blockIdx.x = (unsigned)(descending ? blocks - 1 - b : b);
    memset(shared, 0xff, SHARED_BYTES);
    block(threads, descending);
  }
  return trapped;
}
template <class T> T exchange(T x, int from) {
  memcpy(fibers[current].value, &x, sizeof x);
  wait(1);
  T y;
  memcpy(&y, fibers[from].value, sizeof y);
  wait(1);
  return y;
}
}  // namespace shim

inline void __syncthreads() { shim::wait(2); }
inline void __trap() {
  shim::trapped = 1;
  shim::wait(2);
}
template <class T> T __shfl_xor_sync(unsigned, T x, int by) { return shim::exchange(x, shim::current ^ by); }
template <class T> T __shfl_up_sync(unsigned, T x, int by, int width) {
  const int t = shim::current;
  return shim::exchange(x, t % width >= by ? t - by : t);
}
template <class T> T __shfl_sync(unsigned, T x, int from, int width) {
  const int t = shim::current;
  return shim::exchange(x, t - t % width + from % width);
}
