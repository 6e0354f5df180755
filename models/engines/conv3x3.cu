// A 3×3 convolution of RRDBNet on tensor cores, fp16 in and out, fp32 between, with all that follows it fused in.
//
// Pixels lie in NHWC, `pitch` channels apart, in a plane with a border of zeros: one pixel to the left and above, and to the
// right and below as many as fill the last tile and one more. So nothing is masked when it is read, and a dense block's five
// convolutions write what they grow beside what they read: nothing is concatenated.
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
enum { IN_COLUMNS = TILE_COLUMNS + 2, IN_PIXELS = (TILE_ROWS + 2) * IN_COLUMNS, IN_BYTES = IN_PIXELS * CHUNK * 2 };
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
  const half_bits* x;        // (rows, row_pixels, pitch) fp16; channels 0 … 16 · chunks − 1 are read
  const half_bits* weights;  // (output group, chunk, tap, slot) fp16, in the order of shared memory
  const float* bias;         // fp32
  void* y;                   // as x, its channels from `offset` are written; LAST: (height, width, 3) uint8
  void* residual;            // (rows, row_pixels, 64) fp32; BLOCK adds to it, BODY reads it; LAST: an int, 1 after what is not finite
  int height, width, row_pixels, x_row_pixels, pitch, chunks, offset;
};

// ENLARGE reads x as if each pixel were four, and its height, width and row_pixels are those of y: x has half as many.
template <int KIND> __device__ __forceinline__ void load_stage(const Convolution& p, u32 stage, int chunk, int top, int left, const half_bits* weights) {
  const int x_row_pixels = KIND == ENLARGE ? p.x_row_pixels : p.row_pixels;
  if (chunk < p.chunks) {
  for (int i = threadIdx.x; i < IN_PIXELS * 2; i += THREADS) {
    const int pixel = i >> 1, half = i & 1, row = pixel / IN_COLUMNS, column = pixel - row * IN_COLUMNS;
    const int y = top + row, x = left + column;
    const size_t at = KIND == ENLARGE ? (size_t)((y + 1) >> 1) * x_row_pixels + ((x + 1) >> 1) : (size_t)y * x_row_pixels + x;
    const half_bits* from = p.x + at * p.pitch + chunk * CHUNK + half * 8;
    copy16(stage + slot(pixel, half), from);
  }
  for (int i = threadIdx.x; i < WEIGHT_BYTES / 16; i += THREADS)
    copy16(stage + IN_BYTES + i * 16, weights + (size_t)chunk * (WEIGHT_BYTES / 2) + i * 8);
  }
  commit();
}

__device__ __forceinline__ unsigned char to_byte(float f, void* not_finite) {
  if (!(f - f == 0)) *(int*)not_finite = 1;
  return (unsigned char)to_nearest(fminf(fmaxf(f, 0.f), 1.f) * 255.f);
}

template <int KIND> __device__ __forceinline__ void store_pair(const Convolution& p, int row, int column, int channel, float a, float b) {
  if (row >= p.height || column >= p.width) return;
  const size_t pixel = (size_t)(row + 1) * p.row_pixels + column + 1;
  a += p.bias[channel];
  b += p.bias[channel + 1];
  if (KIND == LAST) {
    if (channel > 2) return;
    unsigned char* bytes = (unsigned char*)p.y + ((size_t)row * p.width + column) * 3 + channel;
    bytes[0] = to_byte(a, p.residual);
    if (channel == 0) bytes[1] = to_byte(b, p.residual);
    return;
  }
  if (KIND == GROW || KIND == ENLARGE) {
    a = a > 0 ? a : a * 0.2f;
    b = b > 0 ? b : b * 0.2f;
  } else if (KIND == BODY) {
    const float* r = (const float*)p.residual + pixel * 64 + channel;
    a += r[0];
    b += r[1];
  } else {
    const u32 x = *(const u32*)(p.x + pixel * p.pitch + channel);
    a = unpack(x) + 0.2f * a;
    b = unpack(x >> 16) + 0.2f * b;
    if (KIND == BLOCK) {
      float* r = (float*)p.residual + pixel * 64 + channel;
      r[0] = a = r[0] + 0.2f * a;
      r[1] = b = r[1] + 0.2f * b;
    }
  }
  *(u32*)((half_bits*)p.y + pixel * p.pitch + p.offset + channel) = pack(a, b);
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
#pragma unroll
    for (int dx = 0; dx < 3; dx++) {
      u32 b[3][8];
#pragma unroll
      for (int dy = 0; dy < 3; dy++)
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
          const u32 output = pair * 16 + (lane & 7) + (lane >> 4 << 3);
          load_matrices(b[dy] + pair * 4, stage + IN_BYTES + (dy * 3 + dx) * TAP_BYTES + slot(output, lane >> 3 & 1));
        }
#pragma unroll
      for (int i = 0; i < 6; i++) {
        u32 a[4];
        load_matrices(a, stage + slot((warp_row + i) * IN_COLUMNS + warp_column + dx + (lane & 15), lane >> 4));
#pragma unroll
        for (int dy = 0; dy < 3; dy++) {
          const int row = i - dy;
          if (row < 0 || row > 3) continue;
#pragma unroll
          for (int n = 0; n < (KIND == LAST ? 1 : 4); n++) multiply_add(sums[row][n], a, b[dy] + n * 2);
        }
      }
    }
  }

#pragma unroll
  for (int row = 0; row < 4; row++)
#pragma unroll
    for (int n = 0; n < (KIND == LAST ? 1 : 4); n++) {
      const int channel = group * OUTPUTS + n * 8 + (lane & 3) * 2, column = left + warp_column + (lane >> 2);
      const float* s = sums[row][n];
      store_pair<KIND>(p, top + warp_row + row, column, channel, s[0], s[1]);
      store_pair<KIND>(p, top + warp_row + row, column + 8, channel, s[2], s[3]);
    }
}

extern "C" {
#define KERNEL(name, kind) \
  __global__ void __launch_bounds__(THREADS, 2) name(const Convolution p) { \
    extern __shared__ __align__(128) char memory[]; \
    convolve<kind>(p, memory); \
  }
KERNEL(grow, GROW)    // conv1 … conv4: LeakyReLU
KERNEL(dense, DENSE)  // conv5: x + 0.2 · (…)
KERNEL(block, BLOCK)  // conv5 of a block's last: residual + 0.2 · (x + 0.2 · (…)), which is the next residual
KERNEL(body, BODY)    // conv_body: residual + (…)
KERNEL(enlarge, ENLARGE)  // conv_up1, conv_up2: nearest, LeakyReLU; conv_hr, which enlarges nothing, is a `grow`
KERNEL(last, LAST)    // conv_last: clamped to 0–1, rounded to bytes
}
