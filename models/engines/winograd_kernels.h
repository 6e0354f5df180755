// Arithmetic of winograd.cpp on vectors of 16 (AVX-512) or 8 (AVX2) channels. Every sum is written out, with its fused multiply-adds,
// and each lane is one channel's, so that both builds give the same bits; winograd.cpp forbids the compiler to fuse more.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_TWICE _Pragma("GCC unroll 2")
#endif

#ifdef __AVX512F__
typedef __m512 vec;
enum { LANES = 16, MOST_TILES = 14 };  // a product's sums of 14 tiles and 2 vectors fill 28 of 32 registers
INLINE vec load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, vec v) { _mm512_storeu_ps(p, v); }
INLINE void stream(float* p, vec v) { _mm512_stream_ps(p, v); }
INLINE vec all(float f) { return _mm512_set1_ps(f); }
INLINE vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec smaller(vec a, vec b) { return _mm512_min_ps(a, b); }
#else
typedef __m256 vec;
enum { LANES = 8, MOST_TILES = 6 };  // 12 of 16 registers
INLINE vec load(const float* p) { return _mm256_loadu_ps(p); }
INLINE void store(float* p, vec v) { _mm256_storeu_ps(p, v); }
INLINE void stream(float* p, vec v) { _mm256_storeu_ps(p, v); }  // half a cache line: better left to the cache
INLINE vec all(float f) { return _mm256_set1_ps(f); }
INLINE vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec smaller(vec a, vec b) { return _mm256_min_ps(a, b); }
#endif
INLINE void prefetch(const float* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
INLINE vec fma(float a, vec b, vec c) { return fma(all(a), b, c); }
INLINE vec leaky_relu(vec v) { return larger(v, v * all(0.2f)); }
INLINE vec prelu(vec v, vec slope) { return fma(slope, smaller(v, all(0.0f)), larger(v, all(0.0f))); }

enum {
  TILE = 6,                        // pixels of a tile's side, of what a convolution puts out
  PATCH = TILE + 2,                // of what it reads
  POSITIONS = PATCH * PATCH,       // products of a tile
  FEATURES = 64,
  GROWTH = 32,
  U_AHEAD = 32,                    // rows of transformed weights that are fetched ahead
  PAIR = 2 * LANES,                // outputs that one pass of a product makes
};

// One line of the transforms for the points 0, ±1, ±2, ±1/2 and infinity, which are scaled so that the factors below are exact.
INLINE void transform_input(const vec* r, vec* o) {
  o[0] = fma(5.25f, r[4] - r[2], r[0] - r[6]);
  o[7] = fma(5.25f, r[3] - r[5], r[7] - r[1]);
  vec even = fma(-4.25f, r[4], r[2] + r[6]), odd = fma(-4.25f, r[3], r[1] + r[5]);
  o[1] = even + odd;
  o[2] = even - odd;
  even = fma(0.25f, r[2], fma(-1.25f, r[4], r[6]));
  odd = fma(2.0f, r[5], fma(-2.5f, r[3], r[1] * all(0.5f)));
  o[3] = even + odd;
  o[4] = even - odd;
  even = fma(4.0f, r[2], fma(-5.0f, r[4], r[6]));
  odd = fma(0.5f, r[5], fma(-2.5f, r[3], r[1] + r[1]));
  o[5] = even + odd;
  o[6] = even - odd;
}
INLINE void transform_output(const vec* m, vec* o) {
  const vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4], e = m[5] + m[6], f = m[5] - m[6];
  o[0] = fma(32.0f, e, m[0] + a + c);
  o[1] = fma(16.0f, f, fma(2.0f, d, b));
  o[2] = fma(8.0f, e, fma(4.0f, c, a));
  o[3] = fma(4.0f, f, fma(8.0f, d, b));
  o[4] = fma(2.0f, e, fma(16.0f, c, a));
  o[5] = fma(32.0f, d, m[7] + b + f);
}

// LANES channels of one patch, at rows[y] + at, pixels `channels` floats apart, to its 64 positions, `stride` floats apart.
NOINLINE void input_tile(const float* const* rows, size_t at, size_t channels, float* to, size_t stride) {
  vec t[PATCH][PATCH];
  UNROLL for (int y = 0; y < PATCH; y++) {
    vec r[PATCH];
    const float* p = rows[y] + at;
    UNROLL for (int x = 0; x < PATCH; x++) r[x] = load(p + x * channels);
    transform_input(r, t[y]);
  }
  UNROLL for (int x = 0; x < PATCH; x++) {
    vec r[PATCH], o[PATCH];
    UNROLL for (int y = 0; y < PATCH; y++) r[y] = t[y][x];
    transform_input(r, o);
    UNROLL for (int y = 0; y < PATCH; y++) store(to + (y * PATCH + x) * stride, o[y]);
  }
}

// The 64 positions of LANES outputs of one tile back to its pixels.
INLINE void output_tile(const float* m, size_t stride, vec (*o)[TILE]) {
  vec t[TILE][PATCH];
  UNROLL for (int x = 0; x < PATCH; x++) {
    vec r[PATCH], q[TILE];
    UNROLL for (int y = 0; y < PATCH; y++) r[y] = load(m + (y * PATCH + x) * stride);
    transform_output(r, q);
    UNROLL for (int y = 0; y < TILE; y++) t[y][x] = q[y];
  }
  UNROLL for (int y = 0; y < TILE; y++) transform_output(t[y], o[y]);
}

// The same for a convolution of 32 outputs, with bias and LeakyReLU, to rows[y] + at; zeros from pixel `valid` on.
NOINLINE void grown_tile(const float* m, size_t stride, float* const* rows, size_t at, int valid, const float* bias) {
  vec o[TILE][TILE];
  output_tile(m, stride, o);
  const vec b = load(bias);
  UNROLL for (int y = 0; y < TILE; y++) {
    UNROLL for (int x = 0; x < TILE; x++) store(rows[y] + at + x * GROWTH, x < valid ? leaky_relu(o[y][x] + b) : all(0.0f));
  }
}

// sums[tile][output] += v[tile][channel] * u[channel][output], for CHANNELS channels; returns where u goes on. `next` is read after this.
template <int TILES, int CHANNELS>
INLINE const float* multiply_group(vec (*sums)[2], const float* v, const float* u, const float* next) {
  UNROLL_TWICE for (int c = 0; c < CHANNELS; c++, u += GROWTH) {
    const vec u0 = load(u), u1 = load(u + LANES);
    prefetch(u + U_AHEAD * GROWTH);
    prefetch(u + U_AHEAD * GROWTH + 16);
    if (TILES * CHANNELS > 16 * c) prefetch(next + c * 16);
    UNROLL for (int i = 0; i < TILES; i++) {
      const vec b = all(v[i * CHANNELS + c]);
      sums[i][0] = fma(b, u0, sums[i][0]);
      sums[i][1] = fma(b, u1, sums[i][1]);
    }
  }
  return u;
}
// At one position, TILES tiles of a convolution whose input is `groups` groups of channels: 64, then 32 each.
template <int TILES>
NOINLINE void multiply(const float* const* v, int groups, const float* u, float* m, const float* const* next) {
  for (int pass = 0; pass < GROWTH / PAIR; pass++, u += PAIR, m += PAIR) {
    vec sums[TILES][2];
    UNROLL for (int i = 0; i < TILES; i++) sums[i][0] = sums[i][1] = all(0.0f);
    const float* rest = multiply_group<TILES, FEATURES>(sums, v[0], u, next[0]);
    for (int g = 1; g < groups; g++) rest = multiply_group<TILES, GROWTH>(sums, v[g], rest, next[g]);
    UNROLL for (int i = 0; i < TILES; i++) {
      store(m + i * GROWTH, sums[i][0]);
      store(m + i * GROWTH + LANES, sums[i][1]);
    }
  }
}
typedef void (*Multiply)(const float* const*, int, const float*, float*, const float* const*);
static const Multiply MULTIPLY[] = {
    nullptr, multiply<1>, multiply<2>, multiply<3>, multiply<4>, multiply<5>, multiply<6>,
#ifdef __AVX512F__
    multiply<7>, multiply<8>, multiply<9>, multiply<10>, multiply<11>, multiply<12>, multiply<13>, multiply<14>,
#endif
};

// 32 outputs of the tiles [first, last) at all positions. v[g], v_stride[g]: the transformed groups and their positions' distance.
static void multiply_all(const float* const* v, const size_t* v_stride, int groups, int first, int last, const float* u, float* m,
                         size_t m_stride) {
  const int tiles = last - first, parts = (tiles + MOST_TILES - 1) / MOST_TILES;
  const size_t u_stride = (size_t)(FEATURES + GROWTH * (groups - 1)) * GROWTH;
  const float *at[5], *next[5];
  for (int g = 0; g < groups; g++) next[g] = v[g] + (size_t)first * (g ? GROWTH : FEATURES);
  for (int position = 0; position < POSITIONS; position++, u += u_stride)
    for (int i = 0, from = first; i < parts; i++) {
      const int to = first + (i + 1) * tiles / parts;
      const bool is_last = i == parts - 1;
      for (int g = 0; g < groups; g++) {
        at[g] = next[g];
        next[g] = v[g] + (position + is_last) * v_stride[g] + (size_t)(is_last ? first : to) * (g ? GROWTH : FEATURES);
      }
      MULTIPLY[to - from](at, groups, u, m + position * m_stride + (size_t)from * GROWTH, next);
      from = to;
    }
}

// conv_first, directly: N pixels from rows[3], each one's left neighbour first, `channels` floats a pixel; w[row][3 * channels][64].
template <int N>
NOINLINE void first_pixels(const float* const* rows, int channels, const float* w, const float* bias, float* to) {
  for (int o = 0; o < FEATURES; o += PAIR) {
    vec sums[N][2];
    UNROLL for (int i = 0; i < N; i++) sums[i][0] = load(bias + o), sums[i][1] = load(bias + o + LANES);
    const float* u = w + o;
    for (int y = 0; y < 3; y++)
      for (int c = 0; c < 3 * channels; c++, u += FEATURES) {
        const vec u0 = load(u), u1 = load(u + LANES);
        UNROLL for (int i = 0; i < N; i++) {
          const vec b = all(rows[y][i * channels + c]);
          sums[i][0] = fma(b, u0, sums[i][0]);
          sums[i][1] = fma(b, u1, sums[i][1]);
        }
      }
    UNROLL for (int i = 0; i < N; i++) store(to + i * FEATURES + o, sums[i][0]), store(to + i * FEATURES + o + LANES, sums[i][1]);
  }
}

// conv_last, directly: N pixels from rows[3], each one's left neighbour first, to RGB bytes; w[row][column][3][64]. NaN becomes 0.
template <int N>
NOINLINE void last_pixels(const float* const* rows, const float* w, const float* bias, uint8_t* to) {
  constexpr int PARTS = 16 / LANES;  // 16 sums of four channels each, in either build
  vec sums[N][3][PARTS];
  UNROLL for (int i = 0; i < N; i++) for (int k = 0; k < 3; k++) for (int l = 0; l < PARTS; l++) sums[i][k][l] = all(0.0f);
  for (int y = 0; y < 3; y++)
    for (int x = 0; x < 3; x++, w += 3 * FEATURES)
      for (int c = 0; c < FEATURES; c += 16)
        UNROLL for (int l = 0; l < PARTS; l++) {
          const float* u = w + c + l * LANES;
          const vec u0 = load(u), u1 = load(u + FEATURES), u2 = load(u + 2 * FEATURES);
          UNROLL for (int i = 0; i < N; i++) {
            const vec v = load(rows[y] + (i + x) * FEATURES + c + l * LANES);
            sums[i][0][l] = fma(v, u0, sums[i][0][l]);
            sums[i][1][l] = fma(v, u1, sums[i][1][l]);
            sums[i][2][l] = fma(v, u2, sums[i][2][l]);
          }
        }
  UNROLL for (int i = 0; i < N; i++) {
    __m128 quarter[3];
    for (int k = 0; k < 3; k++) {
#ifdef __AVX512F__
      const __m256 half = _mm512_castps512_ps256(sums[i][k][0]) + _mm512_extractf32x8_ps(sums[i][k][0], 1);
#else
      const __m256 half = sums[i][k][0] + sums[i][k][1];
#endif
      quarter[k] = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
    }
    __m128 v = _mm_hadd_ps(_mm_hadd_ps(quarter[0], quarter[1]), _mm_hadd_ps(quarter[2], quarter[2])) + _mm_loadu_ps(bias);
    v = _mm_min_ps(_mm_max_ps(v, _mm_setzero_ps()), _mm_set1_ps(1.0f)) * _mm_set1_ps(255.0f);  // max gives its second for NaN
    __m128i levels = _mm_cvtps_epi32(v);  // to the nearest, halves to even
    levels = _mm_packus_epi16(_mm_packus_epi32(levels, levels), levels);
    const int rgb = _mm_cvtsi128_si32(levels);
    memcpy(to + i * 3, &rgb, 3);
  }
}
