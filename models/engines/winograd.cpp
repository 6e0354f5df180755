// RRDBNet, and SRVGGNetCompact, on x86-64, in fp32, by Winograd's F(6×6, 3×3): 64 products for 36 pixels where a convolution has 324.
//
// Built twice; the flags after -O3 are what makes both builds give the same bits:
//   g++ -std=c++17 -O3 -ffp-contract=off -fno-math-errno -mavx2 -mfma                                -shared -fPIC -pthread
//   g++ -std=c++17 -O3 -ffp-contract=off -fno-math-errno -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -shared -fPIC -pthread
//
// A dense block is five convolutions, of which each reads what all before it made. Here each group of channels is transformed once, and
// nothing is concatenated. A block is a strip of tiles that is worked off from top to bottom: in step t, convolution k (from 0) makes
// group t - k of tile rows, so that only a few transformed rows are alive, in rings. A step needs of the block before it only some steps
// more than its own number; so threads work on successive blocks of the same picture, some rows apart, none waits for another at the end
// of a block, and what must wait sleeps. What a step computes depends on the picture's size alone, never on the threads.
#include <sys/mman.h>

#include <memory>
#include <new>
#include <vector>

#include "winograd_crew.h"
#include "winograd_kernels.h"

#if defined(__SANITIZE_ADDRESS__)
#define CHECKED_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECKED_HEAP 1
#endif
#endif

namespace {

enum {
  DENSE = 5,          // convolutions of a dense block
  GROUPS = 5,         // groups of channels that it transforms: its input, and what the first four made
  LAG = DENSE + 1,    // steps that a block must be ahead of the next one
};
constexpr double DENSE_FLOPS = 2 * 239616, AROUND_FLOPS = 2 * 38592, UPSAMPLER_FLOPS = 2 * 1354752;  // a pixel of the features

// How a pass is cut. Chosen by measurement: narrower strips, and more rows a step, cost more than what they save in the caches.
enum {
  STRIP_TILES = 48,   // most columns of tiles of a strip
  LEAST_STRIP = 12,   // fewest, where a flat picture is cut into more strips
  STEP_TILES = 32,    // tiles of a step of a narrow picture
  PARALLEL = 3,       // threads that any picture should keep busy, but for tiny ones; where it is more, their halos cost as much
  SPARE_RINGS = 1,    // a thread that must wait with its block can begin another
  ROW_TILES = 28,     // most columns of tiles of a unit of conv_body or SRVGGNetCompact
};

int divide_up(int a, int b) { return (a + b - 1) / b; }
int channels_of(int group) { return group ? GROWTH : FEATURES; }
size_t odd_lines(size_t floats) { return ((floats / 16) | 1) * 16; }  // rows of so many floats do not share cache sets

// Floats, zeroed, on a cache line. They come from the kernel and go back to it at once.
class Buffer {
 public:
  explicit Buffer(size_t floats) : bytes_(floats * sizeof(float) + HUGE) {
#ifdef CHECKED_HEAP
    base_ = ::operator new(floats * sizeof(float), std::align_val_t(64));
    memset(base_, 0, floats * sizeof(float));
    data_ = (float*)base_;
#else
    base_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    madvise(base_, bytes_, MADV_HUGEPAGE);  // fewer faults, where the kernel grants it
    data_ = (float*)(((uintptr_t)base_ + HUGE - 1) / HUGE * HUGE);
#endif
  }
  ~Buffer() {
#ifdef CHECKED_HEAP
    ::operator delete(base_, std::align_val_t(64));
#else
    munmap(base_, bytes_);
#endif
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  float* data() const { return data_; }

 private:
  static constexpr size_t HUGE = 2u << 20;
  size_t bytes_;
  void* base_;
  float* data_;
};

struct Convolution {
  float* u;  // [half of the outputs][position][input][32], or as first_pixels and last_pixels want it
  float* bias;
  float* slopes = nullptr;  // of the PReLU behind it, or null where its block knows what follows
};

struct Network {
  int channels, dense_blocks;
  std::unique_ptr<Buffer> memory;
  std::vector<Convolution> convolutions;  // in the order of RRDBNet's modules
  const Convolution& first() const { return convolutions.front(); }
  const Convolution* dense(int block) const { return &convolutions[1 + block * DENSE]; }
  const Convolution* around() const { return &convolutions[1 + dense_blocks * DENSE]; }  // conv_body, conv_up1, conv_up2, conv_hr
  const Convolution& last() const { return convolutions.back(); }
};

// weight[out][in][3][3] to u, in double precision.
void pack(const float* weight, int out, int in, float* u) {
  static const double G[PATCH][3] = {
      {1, 0, 0},
      {-2. / 9, -2. / 9, -2. / 9}, {-2. / 9, 2. / 9, -2. / 9},
      {1. / 90, 1. / 45, 2. / 45}, {1. / 90, -1. / 45, 2. / 45},
      {1. / 45, 1. / 90, 1. / 180}, {1. / 45, -1. / 90, 1. / 180},
      {0, 0, 1},
  };
  for (int half = 0; half < out / GROWTH; half++, u += (size_t)POSITIONS * in * GROWTH)
    for (int i = 0; i < in; i++) {
      double w[9][GROWTH], t[PATCH][3][GROWTH];
      for (int o = 0; o < GROWTH; o++)
        for (int tap = 0; tap < 9; tap++) w[tap][o] = weight[((size_t)(half * GROWTH + o) * in + i) * 9 + tap];
      for (int p = 0; p < PATCH; p++)
        for (int x = 0; x < 3; x++)
          for (int o = 0; o < GROWTH; o++) t[p][x][o] = G[p][0] * w[x][o] + G[p][1] * w[3 + x][o] + G[p][2] * w[6 + x][o];
      for (int p = 0; p < PATCH; p++)
        for (int q = 0; q < PATCH; q++) {
          float* to = u + ((size_t)(p * PATCH + q) * in + i) * GROWTH;
          for (int o = 0; o < GROWTH; o++) to[o] = (float)(t[p][0][o] * G[q][0] + t[p][1][o] * G[q][1] + t[p][2][o] * G[q][2]);
        }
    }
}

// The size of a pass, and how it is cut.
struct Layout {
  const int height, width, tile_rows, tile_columns;
  int strips, rows, groups, steps;  // side by side; tile rows of a group; groups; steps of a block
  size_t plane_row;                 // floats of a plane's row: the tiles, and a pixel around

  Layout(int height, int width)
      : height(height), width(width), tile_rows(divide_up(height, TILE)), tile_columns(divide_up(width, TILE)) {
    plane_row = (size_t)(tile_columns * TILE + 2) * FEATURES;
    strips = divide_up(tile_columns, STRIP_TILES);
    while (strips * (tile_rows + DENSE - 1) < PARALLEL * LAG && tile_columns / (strips + 1) >= LEAST_STRIP) strips++;
    const int least_groups = std::max(PARALLEL * LAG / strips - (DENSE - 1), 1);
    rows = std::max(1, std::min(STEP_TILES / divide_up(tile_columns, strips), tile_rows / least_groups));
    groups = divide_up(tile_rows, rows);
    steps = groups + DENSE - 1;
  }
  size_t plane() const { return plane_row * (tile_rows * TILE + 2); }
  size_t pixel(int y, int x) const { return (y + 1) * plane_row + (size_t)(x + 1) * FEATURES; }
  int first_column(int strip) const { return (int)((long)strip * tile_columns / strips); }
  int rows_of(int group) const { return std::min(rows, tile_rows - group * rows); }
  int pixel_rows_of(int group) const { return std::min(rows * TILE, height - group * rows * TILE); }
  int width_of(int strip) const { return std::min(first_column(strip + 1) * TILE, width) - first_column(strip) * TILE; }
};

#include "winograd_body.h"

// A convolution of 64 channels for one row of tiles. rows: of the input's pixels, from the one left of the first tile; to[y]: where the row
// y goes, nowhere if null; `added`: what is added to it, or null.
size_t row_floats(int tiles) { return (odd_lines((size_t)tiles * FEATURES) + odd_lines((size_t)tiles * GROWTH)) * POSITIONS; }
void convolve_row(const float* const* rows, int tiles, int width, const Convolution& convolution, float* const* to,
                  const float* const* added, float* v, bool leaky = false) {
  const size_t v_stride = odd_lines((size_t)tiles * FEATURES), m_stride = odd_lines((size_t)tiles * GROWTH);
  float* m = v + v_stride * POSITIONS;
  for (int t = 0; t < tiles; t++)
    for (int c = 0; c < FEATURES; c += LANES)
      input_tile(rows, (size_t)t * TILE * FEATURES + c, FEATURES, v + (size_t)t * FEATURES + c, v_stride);
  for (int half = 0; half < 2; half++) {
    multiply_all(&v, &v_stride, 1, 0, tiles, convolution.u + (size_t)half * POSITIONS * FEATURES * GROWTH, m, m_stride);
    for (int t = 0; t < tiles; t++)
      for (int c = 0; c < GROWTH; c += LANES) {
        vec o[TILE][TILE];
        output_tile(m + (size_t)t * GROWTH + c, m_stride, o);
        const vec bias = load(convolution.bias + half * GROWTH + c);
        for (int y = 0; y < TILE; y++)
          for (int x = 0; to[y] && x < std::min<int>(TILE, width - t * TILE); x++) {
            const size_t at = (size_t)(t * TILE + x) * FEATURES + half * GROWTH + c;
            vec value = o[y][x] + bias;
            if (leaky) value = leaky_relu(value);
            if (convolution.slopes) value = prelu(value, load(convolution.slopes + half * GROWTH + c));
            if (added) value = value + load(added[y] + at);
            store(to[y] + at, value);
          }
      }
  }
}

// conv_first of the rows of one group of tiles, to a plane.
void first_rows(const Convolution& first, int channels, const Layout& layout, const float* image, float* plane, int tile_row) {
  const size_t row = (size_t)(layout.width + 2) * channels;
  for (int y = tile_row * TILE; y < std::min((tile_row + 1) * TILE, layout.height); y++) {
    constexpr int N = MOST_TILES;
    float* to = plane + layout.pixel(y, 0);
    for (int x = 0; x < layout.width;) {
      const float* at = image + y * row + (size_t)x * channels;
      const float* rows[3] = {at, at + row, at + 2 * row};
      const int n = x + N <= layout.width ? N : 1;
      (n == N ? first_pixels<N> : first_pixels<1>)(rows, channels, first.u, first.bias, to + (size_t)x * FEATURES);
      x += n;
    }
  }
}

// conv_body of one row of tiles, between two columns of them; what conv_first made is in `plane`, where the sum goes.
void body_row(const Network& network, const Layout& layout, const float* features, float* plane, int tile_row, int from, int to,
              float* scratch) {
  const float* rows[PATCH];
  float* out[TILE];
  const int top = tile_row * TILE, left = from * TILE;
  for (int y = 0; y < PATCH; y++) rows[y] = features + layout.pixel(top + y - 1, left - 1);
  for (int y = 0; y < TILE; y++) out[y] = top + y < layout.height ? plane + layout.pixel(top + y, left) : nullptr;
  convolve_row(rows, to - from, layout.width - left, network.around()[0], out, out, scratch);
}

#include "winograd_upsampler.h"
#include "winograd_compact.h"

}  // namespace

#ifndef SOURCES_SHA256
#define SOURCES_SHA256 ""
#endif

extern "C" {

// What the library was built from: the Python side runs no other.
const char* winograd_sources() { return SOURCES_SHA256; }

// Packs what RRDBNet has: weights[i] as [out][in][3][3], biases[i] as [out], in the order of its modules. Null if memory is out.
Network* winograd_create(int blocks, int channels, const float* const* weights, const float* const* biases, int threads) try {
  std::unique_ptr<Network> network(new Network{channels, blocks * 3, nullptr, {}});
  const int last = network->dense_blocks * DENSE + 5, around = last - 4;
  const auto inputs = [&](int i) { return i == 0 ? channels : i < around ? FEATURES + (i - 1) % DENSE * GROWTH : +FEATURES; };
  const auto outputs = [&](int i) { return i == last ? 3 : i > 0 && i < around && i % DENSE ? +GROWTH : +FEATURES; };
  const auto is_direct = [&](int i) { return i == 0 || i == last; };
  const auto floats = [&](int i) { return odd_lines((size_t)(is_direct(i) ? 9 : POSITIONS) * inputs(i) * outputs(i)); };
  size_t needed = 0;
  for (int i = 0; i <= last; i++) needed += floats(i) + FEATURES;
  network->memory.reset(new Buffer(needed));
  float* p = network->memory->data();
  for (int i = 0; i <= last; i++, p += FEATURES) {
    float* u = p;
    network->convolutions.push_back({u, p += floats(i)});
  }
  Crew crew(threads, [](double, void*) { return 0; }, nullptr);
  for_each(crew, last + 1, [&](int i, int) {
    const Convolution& c = network->convolutions[i];
    const int in = inputs(i), out = outputs(i);
    memcpy(c.bias, biases[i], out * sizeof(float));
    if (!is_direct(i)) pack(weights[i], out, in, c.u);
    else
      for (int o = 0; o < out; o++)
        for (int j = 0; j < in; j++)
          for (int tap = 0; tap < 9; tap++)
            c.u[i == last ? (tap * out + o) * in + j : (tap * in + j) * out + o] = weights[i][(o * in + j) * 9 + tap];
    return 0.0;
  });
  return network.release();
} catch (...) {
  return nullptr;
}

void winograd_destroy(const Network* network) { delete network; }

// What a pass over so many pixels allocates, in bytes.
size_t winograd_bytes(int height, int width, int threads) {
  const Layout layout(height, width);
  size_t widest = 0, m = 0;
  for (int s = 0; s < layout.strips; s++) {
    const Strip strip(layout, s);
    widest = std::max(widest, strip.floats);
    m = std::max(m, strip.m_stride * POSITIONS);
  }
  const size_t most = std::min(threads, divide_up(layout.strips * layout.steps, LAG));
  const size_t body = widest * (most + SPARE_RINGS) + m * most, upsampler = Upsampler::floats() * threads;
  return (3 * layout.plane() + std::max(body, upsampler)) * sizeof(float);
}

// The whole network. image: (height + 2, width + 2, channels) floats in 0–1 with zeros around; inner: top, bottom, left, right of what is
// wanted, in pixels of the features; out: where its first pixel goes, RGB of sample_bytes (1 or 2) a sample, with out_row bytes a row.
// tell(FLOPs since it was last called, context) runs on the calling thread only, some 50 times a second; if it returns non-zero, the pass
// ends soon.
// Returns 0, 1 if tell stopped it, 2 if memory is out, 3 for any other error.
int winograd_run(const Network* network, const float* image, int height, int width, const int* inner, uint8_t* out, size_t out_row,
                 int sample_bytes, int threads, int (*tell)(double, void*), void* context) try {
  const Layout layout(height, width);
  Crew crew(threads, tell, context);
  Buffer a(layout.plane()), b(layout.plane());
  {
    Buffer c(layout.plane());
    float* const planes[] = {a.data(), b.data(), c.data()};
    Body body(*network, layout, planes, threads);
    const auto first = [&](float* plane) {
      return for_each(crew, layout.tile_rows, [&, plane](int row, int) {
        first_rows(network->first(), network->channels, layout, image, plane, row);
        return 0.0;
      });
    };
    if (!first(a.data()) || !crew.run(body) || !first(b.data())) return 1;
  }
  std::vector<std::unique_ptr<Buffer>> scratch;
  for (int i = 0; i < threads; i++) scratch.emplace_back(new Buffer(std::max(Upsampler::floats(), row_floats(ROW_TILES))));
  const int parts = divide_up(layout.tile_columns, ROW_TILES);
  const bool is_done = for_each(crew, layout.tile_rows * parts, [&](int unit, int thread) {
    const int row = unit / parts, part = unit % parts;
    const int from = part * layout.tile_columns / parts, to = (part + 1) * layout.tile_columns / parts;
    body_row(*network, layout, a.data(), b.data(), row, from, to, scratch[thread]->data());
    return AROUND_FLOPS * std::min<int>(TILE, height - row * TILE) * (std::min(to * TILE, width) - from * TILE);
  });
  if (!is_done) return 1;
  const Upsampler upsampler(*network, layout, b.data());
  const int top = inner[0], left = inner[2], rows = inner[1] - top, columns = inner[3] - left;
  const int bands = divide_up(rows, Upsampler::UNIT_HEIGHT), strips = divide_up(columns, Upsampler::UNIT_WIDTH);
  const bool is_upsampled = for_each(crew, bands * strips, [&](int unit, int thread) {
    const int band = unit / strips, strip = unit % strips;
    const Region region = {(int)((long)band * rows / bands), (int)((long)(band + 1) * rows / bands),
                           (int)((long)strip * columns / strips), (int)((long)(strip + 1) * columns / strips)};
    uint8_t* to = out + (size_t)region.top * 4 * out_row + (size_t)region.left * 4 * 3;
    upsampler.run({top + region.top, top + region.bottom, left + region.left, left + region.right}, to, out_row,
                  scratch[thread]->data());
    return UPSAMPLER_FLOPS * (region.bottom - region.top) * (region.right - region.left);
  });
  return is_upsampled && crew.report() ? 0 : 1;
} catch (const std::bad_alloc&) {
  return 2;
} catch (...) {
  return 3;
}

}  // extern "C"
