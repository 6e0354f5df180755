// Runs models/engines/conv3x3.cu on a CPU: every thread of a block is a fiber, and what a warp does together waits for all of it.
// g++ -std=c++17 -O2 -U_FORTIFY_SOURCE -shared -fPIC -DSOURCE='"…/conv3x3.cu"' cuda_emulator.cpp

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define EMULATED
#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct Index { int x, y, z; };
static Index blockIdx;
char memory[1 << 17] __attribute__((aligned(1024)));

struct Fiber { ucontext_t context; jmp_buf at; Index thread; bool begun, done; };
static std::vector<Fiber> fibers;
static Fiber* current;
static jmp_buf scheduler;  // swapcontext would ask the kernel for the signal mask, a million times
#define threadIdx (current->thread)

struct Barrier { int arrived = 0; unsigned generation = 0; };
static Barrier warp_barriers[32], block_barrier;
static void yield() {
  if (!_setjmp(current->at)) _longjmp(scheduler, 1);
}
static void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}
static void wait(Barrier& barrier, int count) {
  const unsigned mine = barrier.generation;
  if (++barrier.arrived == count) { barrier.arrived = 0; barrier.generation++; return; }
  while (barrier.generation == mine) yield();
}
static void __syncthreads() { wait(block_barrier, (int)fibers.size()); }

typedef unsigned int u32;
struct Deposit { u32 address, a[4], b[2]; };
static Deposit deposits[32][2][32];  // warp, even and odd generations, lane
static Deposit* exchange(const Deposit& mine) {
  const int warp = threadIdx.x >> 5;
  Deposit* all = deposits[warp][warp_barriers[warp].generation & 1];
  all[threadIdx.x & 31] = mine;
  wait(warp_barriers[warp], 32);
  return all;
}
static float as_float(u32 bits) { uint16_t b = (uint16_t)bits; _Float16 h; memcpy(&h, &b, 2); return (float)h; }
static u32 as_half(float f) { _Float16 h = (_Float16)f; uint16_t b; memcpy(&b, &h, 2); return b; }

static u32 shared_address(const void* p) { return (u32)((const char*)p - memory); }
static void copy16(u32 to, const void* from) { if (to + 16 > sizeof memory || to % 16) abort(); memcpy(memory + to, from, 16); }
static void commit() {}
template <int N> static void wait_all_but() {}
static void load_matrices(u32* r, u32 address) {
  const Deposit* all = exchange({address, {}, {}});
  const int lane = threadIdx.x & 31;
  for (int i = 0; i < 4; i++) memcpy(r + i, memory + all[i * 8 + lane / 4].address + lane % 4 * 4, 4);
}
static void multiply_add(float* c, const u32* a, const u32* b) {
  Deposit mine{};
  memcpy(mine.a, a, 16);
  memcpy(mine.b, b, 8);
  const Deposit* all = exchange(mine);
  const int lane = threadIdx.x & 31;
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4, lower = i / 2, column = lane % 4 * 2 + i % 2;  // of the sixteen rows: row + 8 · lower
    for (int k = 0; k < 16; k++) {
      const u32 left = all[row * 4 + k % 8 / 2].a[lower + k / 8 * 2], right = all[column * 4 + k % 8 / 2].b[k / 8];
      c[i] += as_float(left >> k % 2 * 16) * as_float(right >> k % 2 * 16);
    }
  }
}
static u32 pack(float low, float high) { return as_half(low) | as_half(high) << 16; }
static float from_lane_xor(float f, int mask) {
  Deposit mine{};
  memcpy(&mine.address, &f, 4);
  const Deposit* all = exchange(mine);
  memcpy(&f, &all[(threadIdx.x & 31) ^ mask].address, 4);
  return f;
}
#ifdef HOPPER
static u32 slot(u32 index, u32 half);
static void begin_products() {}
static void commit_products() {}
template <int N> static void wait_products_but() {}
static void multiply_add_32(float (*c)[4], const u32* a, u32 address) {
  const int lane = threadIdx.x & 31;
  if (address % 256) abort();  // Hopper's swizzle is of addresses, ours of what lies there
  for (int n = 0; n < 4; n++) {
    u32 b[2];
    for (int half = 0; half < 2; half++) memcpy(b + half, memory + address + slot(n * 8 + lane / 4, half) + lane % 4 * 4, 4);
    multiply_add(c[n], a, b);
  }
}
#endif
static int to_nearest(float f) { return (int)nearbyintf(f); }
static float unpack(u32 bits) { return as_float(bits); }

#include SOURCE

static const Convolution* convolution;
static int chosen;
static void thread() {
  switch (chosen) {
    case GROW: grow(*convolution); break;
    case DENSE: dense(*convolution); break;
    case BLOCK: block(*convolution); break;
    case BODY: body(*convolution); break;
    case ENLARGE: enlarge(*convolution); break;
    default: last(*convolution);
  }
  current->done = true;
  _longjmp(scheduler, 1);
}

extern "C" void emulate(int kind, const Convolution* c, int columns, int rows, int groups) {
  convolution = c;
  chosen = kind;
  const size_t stack = 1 << 16;
  std::vector<char> stacks(THREADS * stack);
  for (blockIdx.z = 0; blockIdx.z < groups; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < rows; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < columns; blockIdx.x++) {
        fibers.assign(THREADS, Fiber{});
        for (int i = 0; i < THREADS; i++) {
          Fiber& fiber = fibers[i];
          fiber.thread = {i, 0, 0};
          getcontext(&fiber.context);
          fiber.context.uc_stack.ss_sp = stacks.data() + i * stack;
          fiber.context.uc_stack.ss_size = stack;
          makecontext(&fiber.context, thread, 0);
        }
        for (int left = THREADS; left;) {
          left = 0;
          for (Fiber& fiber : fibers)
            if (!fiber.done) left++, resume(fiber);
        }
      }
}
