// A 3×3 convolution of RRDBNet on tensor cores, fp16 in and out, fp32 between, with all that follows it fused in.
//
// Channels lie in planes of 16, so that what is read at once is contiguous. A plane has a border of zeros: one pixel to the left
// and above, and to the right and below as many as fill the last tile and one more. So nothing is masked when it is read, and a
// dense block's five convolutions write what they grow beside what they read: nothing is concatenated.
//
// A block of 256 threads makes 8×64 pixels of 32 output channels. It goes through the input channels in chunks of 16: while one
// is multiplied, the next is copied into shared memory, 10×66 pixels, once for all nine taps. A warp makes 4×16 pixels; each
// fragment of an input row serves the up to three output rows that it reaches.
//
// Compiled by NVRTC when the engine is built: no header, no compiler of the machine's own.

typedef unsigned int u32;
typedef unsigned short half_bits;

#ifndef STAGES
#define STAGES 3
#endif
enum { CHUNK = 16, TILE_ROWS = 8, TILE_COLUMNS = 64, OUTPUTS = 32, THREADS = 256 };
enum { IN_COLUMNS = TILE_COLUMNS + 2, IN_PIXELS = (TILE_ROWS + 2) * IN_COLUMNS, IN_BYTES = (IN_PIXELS * CHUNK * 2 + 255) / 256 * 256 };
enum { TAP_BYTES = OUTPUTS * CHUNK * 2, WEIGHT_BYTES = 9 * TAP_BYTES, STAGE_BYTES = IN_BYTES + WEIGHT_BYTES };
enum { GROW, DENSE, BLOCK, BODY, ENLARGE, LAST };

#ifndef EMULATED
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void wait_all_but() { asm volatile("cp.async.wait_group %0;" ::"n"(N)); }
__device__ __forceinline__ void load_matrices(u32* r, u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
__device__ __forceinline__ void multiply_add(float* c, const u32* a, const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ float unpack(u32 bits) {  // of the lower half
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((half_bits)bits));
  return r;
}
__device__ __forceinline__ float from_lane_xor(float f, int mask) {
  float r;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(r) : "f"(f), "r"(mask));
  return r;
}
#ifdef HOPPER
// Four warps multiply 64×16 in their registers by the 16×32 at `address`, whose slots are what Hopper calls a swizzle of 32 bytes.
__device__ __forceinline__ void begin_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void multiply_add_32(float (*c)[4], const u32* a, u32 address) {
  const unsigned long long rows_of_8 = 256 >> 4, swizzle_32 = 3;
  const unsigned long long b = (address >> 4 & 0x3fff) | 1ull << 16 | rows_of_8 << 32 | swizzle_32 << 62;
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, 1, 1, 1, 0;"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
        "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait_products_but() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
#endif
__device__ __forceinline__ int to_nearest(float f) {
  int r;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(r) : "f"(f));
  return r;
}
#endif

// Sixteen bytes of eight channels; the two of a pixel, or of an output's weights, change places in every other group of four,
// so that any eight neighbours lie in different banks.
__device__ __forceinline__ u32 slot(u32 index, u32 half) { return (index * 2 + (half ^ (index >> 2 & 1))) * 16; }

struct Convolution {
  const half_bits* x;        // (planes, rows, row_pixels, 16) fp16, of which `chunks` planes are read
  const half_bits* weights;  // (output group, chunk, tap, slot) fp16, in the order of shared memory
  const float* bias;         // fp32
  void* y;                   // as x, its planes from `offset` are written; LAST: (height, width, 3) uint8
  void* residual;            // (rows, row_pixels, 64) fp32; BLOCK adds to it, BODY reads it; LAST: an int, 1 after what is not finite
  int height, width, row_pixels, plane_pixels, x_row_pixels, x_plane_pixels, chunks, offset;
};

// ENLARGE reads x as if each pixel were four; height, width and row_pixels are those of y, and x has half as many.
template <int KIND> __device__ __forceinline__ void load_stage(const Convolution& p, u32 stage, int chunk, int top, int left, const half_bits* weights) {
  if (chunk < p.chunks) {
    int pixel = threadIdx.x >> 1, row = pixel / IN_COLUMNS, column = pixel - row * IN_COLUMNS;
    const int half = threadIdx.x & 1;
    const half_bits* x = p.x + (size_t)chunk * p.x_plane_pixels * CHUNK + half * 8;
    u32 to = stage + slot(pixel, half);
    for (; pixel < IN_PIXELS; pixel += THREADS / 2, to += THREADS / 2 * 32) {
      const int r = top + row, c = left + column;
      const size_t at = KIND == ENLARGE ? (size_t)((r + 1) >> 1) * p.x_row_pixels + ((c + 1) >> 1) : (size_t)r * p.row_pixels + c;
      copy16(to, x + at * CHUNK);
      row += THREADS / 2 / IN_COLUMNS;
      column += THREADS / 2 % IN_COLUMNS;
      if (column >= IN_COLUMNS) row++, column -= IN_COLUMNS;
    }
    const half_bits* from = weights + (size_t)chunk * (WEIGHT_BYTES / 2);
    for (int i = threadIdx.x; i < WEIGHT_BYTES / 16; i += THREADS) copy16(stage + IN_BYTES + i * 16, from + i * 8);
  }
  commit();
}

__device__ __forceinline__ unsigned char to_byte(float f, void* not_finite) {
  if (!(f - f == 0)) *(int*)not_finite = 1;
  return (unsigned char)to_nearest(fminf(fmaxf(f, 0.f), 1.f) * 255.f);
}

// Four neighbouring lanes have two channels each of four groups of eight: now each has the eight of one group.
__device__ __forceinline__ void gather_group(float* f, int lane) {  // f[group][2] of my two channels, to f[lane][2] of my group
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2)
#pragma unroll
    for (int low = 0; low < 4; low++) {
      if (low & mask) continue;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float &kept = f[low * 2 + i], &other = f[(low | mask) * 2 + i];
        const bool upper = lane & mask;
        const float received = from_lane_xor(upper ? kept : other, mask);
        (upper ? kept : other) = received;
      }
    }
}

struct __align__(16) Eight { u32 pairs[4]; };
struct __align__(16) Four { float values[4]; };

// The eight channels of a pixel from `channel`.
template <int KIND> __device__ __forceinline__ void store(const Convolution& p, int row, int column, int channel, float* f) {
  if (row >= p.height || column >= p.width) return;
  const size_t pixel = (size_t)(row + 1) * p.row_pixels + column + 1;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    f[i] += p.bias[channel + i];
    if (KIND == GROW || KIND == ENLARGE) f[i] = fmaxf(f[i], f[i] * 0.2f);
  }
  if (KIND == DENSE || KIND == BLOCK) {
    const Eight x = *(const Eight*)(p.x + ((size_t)(channel / CHUNK) * p.x_plane_pixels + pixel) * CHUNK + channel % CHUNK);
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = unpack(x.pairs[i / 2] >> i % 2 * 16) + 0.2f * f[i];
  }
  if (KIND == BLOCK || KIND == BODY) {
    Four* residual = (Four*)((float*)p.residual + pixel * 64 + channel);
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = residual[i / 4].values[i % 4] + (KIND == BLOCK ? 0.2f : 1.f) * f[i];
    if (KIND == BLOCK) {
      residual[0] = Four{{f[0], f[1], f[2], f[3]}};
      residual[1] = Four{{f[4], f[5], f[6], f[7]}};
    }
  }
  const Eight packed = {{pack(f[0], f[1]), pack(f[2], f[3]), pack(f[4], f[5]), pack(f[6], f[7])}};
  *(Eight*)((half_bits*)p.y + ((size_t)(p.offset + channel / CHUNK) * p.plane_pixels + pixel) * CHUNK + channel % CHUNK) = packed;
}

// The first lane has red and green, the second blue.
__device__ __forceinline__ void store_bytes(const Convolution& p, int row, int column, int lane, const float* f) {
  if (row >= p.height || column >= p.width || lane > 1) return;
  unsigned char* bytes = (unsigned char*)p.y + ((size_t)row * p.width + column) * 3 + lane * 2;
  bytes[0] = to_byte(f[0] + p.bias[lane * 2], p.residual);
  if (lane == 0) bytes[1] = to_byte(f[1] + p.bias[1], p.residual);
}

template <int KIND> __device__ __forceinline__ void convolve(const Convolution& p, char* memory) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warp_row = (warp >> 2) * 4, warp_column = (warp & 3) * 16;
  const int top = blockIdx.y * TILE_ROWS, left = blockIdx.x * TILE_COLUMNS, group = blockIdx.z;
  const half_bits* weights = p.weights + (size_t)group * p.chunks * (WEIGHT_BYTES / 2);
  const u32 stages = shared_address(memory);
  float sums[4][4][4] = {};  // output row, eight outputs, fragment

  for (int chunk = 0; chunk < STAGES - 1; chunk++) load_stage<KIND>(p, stages + chunk * STAGE_BYTES, chunk, top, left, weights);
  for (int chunk = 0; chunk < p.chunks; chunk++) {
    const u32 stage = stages + chunk % STAGES * STAGE_BYTES;
    wait_all_but<STAGES - 2>();
    __syncthreads();  // the chunk has come, and nobody reads the one before it any more: the next one may take its place
    const int next = chunk + STAGES - 1;
    load_stage<KIND>(p, stages + next % STAGES * STAGE_BYTES, next, top, left, weights);
#ifdef HOPPER
    u32 a[2][3][4];
#endif
#pragma unroll
    for (int dx = 0; dx < 3; dx++) {
      const u32 pixels = warp_row * IN_COLUMNS + warp_column + dx + (lane & 15), taps = stage + IN_BYTES + dx * TAP_BYTES;
#ifdef HOPPER
#pragma unroll
      for (int upper = 0; upper < 2; upper++) {  // three input rows are read while three are multiplied
        if (dx > 0) wait_products_but<1>();
#pragma unroll
        for (int i = 0; i < 3; i++) load_matrices(a[upper][i], stage + slot(pixels + (upper * 3 + i) * IN_COLUMNS, lane >> 4));
        begin_products();
#pragma unroll
        for (int i = upper * 3; i < upper * 3 + 3; i++)
#pragma unroll
          for (int dy = 0; dy < 3; dy++)
            if (i >= dy && i - dy < 4) multiply_add_32(sums[i - dy], a[upper][i % 3], taps + dy * 3 * TAP_BYTES);
        commit_products();
      }
      if (dx == 2) wait_products_but<0>();
#else
      u32 b[3][8];
#pragma unroll
      for (int dy = 0; dy < 3; dy++)
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
          const u32 output = pair * 16 + (lane & 7) + (lane >> 4 << 3);
          load_matrices(b[dy] + pair * 4, taps + dy * 3 * TAP_BYTES + slot(output, lane >> 3 & 1));
        }
#pragma unroll
      for (int i = 0; i < 6; i++) {
        u32 a[4];
        load_matrices(a, stage + slot(pixels + i * IN_COLUMNS, lane >> 4));
#pragma unroll
        for (int dy = 0; dy < 3; dy++)
#pragma unroll
          for (int n = 0; n < (KIND == LAST ? 1 : 4); n++)
            if (i >= dy && i - dy < 4) multiply_add(sums[i - dy][n], a, b[dy] + n * 2);
      }
#endif
    }
  }

#pragma unroll
  for (int row = 0; row < 4; row++)
#pragma unroll
    for (int lower = 0; lower < 2; lower++) {  // of the sixteen columns
      const int y = top + warp_row + row, x = left + warp_column + lower * 8 + (lane >> 2), quarter = lane & 3;
      float f[8];
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = sums[row][i / 2][lower * 2 + i % 2];
      if (KIND == LAST) {
        store_bytes(p, y, x, quarter, f);
      } else {
        gather_group(f, quarter);
        store<KIND>(p, y, x, group * OUTPUTS + quarter * 8, f);
      }
    }
}

extern "C" {
#define KERNEL(name, kind) \
  __global__ void __launch_bounds__(THREADS, 2) name(const Convolution p) { \
    extern __shared__ __align__(1024) char memory[]; \
    convolve<kind>(p, memory); \
  }
KERNEL(grow, GROW)    // conv1 … conv4: LeakyReLU
KERNEL(dense, DENSE)  // conv5: x + 0.2 · (…)
KERNEL(block, BLOCK)  // conv5 of a block's last: residual + 0.2 · (x + 0.2 · (…)), which is the next residual
KERNEL(body, BODY)    // conv_body: residual + (…)
KERNEL(enlarge, ENLARGE)  // conv_up1, conv_up2: nearest, LeakyReLU; conv_hr, which enlarges nothing, is a `grow`
KERNEL(last, LAST)    // conv_last: clamped to 0–1, rounded to bytes
}
