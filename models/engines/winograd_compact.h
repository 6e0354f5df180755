// Part of winograd.cpp: SRVGGNetCompact, 3×3 convolutions with PReLU one after the other. The last one's 48 outputs are the differences of
// 4 × 4 pixels from the pixel that they enlarge.
//
// Each convolution runs over the whole picture, from one plane to the other: what it reads and writes takes far less time than the products.

struct Compact {
  enum { OUTPUTS = 48, SCALE = 4 };

  std::unique_ptr<Buffer> memory;
  std::vector<Convolution> convolutions;
};

// The last convolution's weights with its outputs in the order of the result's rows, and filled up to 64 with zeros.
std::vector<float> in_order_of_rows(const float* values, size_t of_each) {
  std::vector<float> ordered(FEATURES * of_each);
  for (int c = 0; c < 3; c++)
    for (int y = 0; y < Compact::SCALE; y++)
      for (int x = 0; x < Compact::SCALE; x++)
        memcpy(&ordered[((y * Compact::SCALE + x) * 3 + c) * of_each], values + ((c * Compact::SCALE + y) * Compact::SCALE + x) * of_each,
               of_each * sizeof(float));
  return ordered;
}

// The result's pixels of `count` pixels: differences, 64 floats each, and RGB, to four rows of `levels` + 1 grey levels. NaN becomes 0.
template <class Level>
void render(const float* differences, const float* pixels, int count, float levels, Level* const* rows) {
  const __m128 zero = _mm_setzero_ps(), one = _mm_set1_ps(1.0f), factor = _mm_set1_ps(levels);
  for (int x = 0; x < count; x++, differences += FEATURES, pixels += 3) {
    const float r = pixels[0], g = pixels[1], b = pixels[2];
    const __m128 base[3] = {_mm_setr_ps(r, g, b, r), _mm_setr_ps(g, b, r, g), _mm_setr_ps(b, r, g, b)};
    for (int y = 0; y < Compact::SCALE; y++) {
      __m128i v[3];
      for (int i = 0; i < 3; i++) {
        const __m128 sum = _mm_loadu_ps(differences + (y * 3 + i) * 4) + base[i];
        v[i] = _mm_cvtps_epi32(_mm_min_ps(_mm_max_ps(sum, zero), one) * factor);  // max gives its second for NaN; halves to even
      }
      __m128i words[2] = {_mm_packus_epi32(v[0], v[1]), _mm_packus_epi32(v[2], v[2])};
      if (sizeof(Level) == 1) words[0] = _mm_packus_epi16(words[0], words[1]);
      memcpy(rows[y] + (size_t)x * 12, words, 12 * sizeof(Level));
    }
  }
}

// A pass: its two planes, which every convolution swaps, and what it needs of each thread.
class CompactPass {
 public:
  CompactPass(const Compact& network, const float* image, int height, int width, Crew& crew, int threads)
      : network_(network), layout_(height, width), image_(image), crew_(crew), parts_(divide_up(layout_.tile_columns, ROW_TILES)),
        a_(layout_.plane()), b_(layout_.plane()) {
    for (int i = 0; i < threads; i++) scratch_.emplace_back(new Buffer(scratch_floats()));
  }
  static size_t scratch_floats() { return row_floats(ROW_TILES) + (size_t)TILE * ROW_TILES * TILE * FEATURES; }

  // All but the last convolution; false if it was stopped.
  bool run() {
    const Convolution& first = network_.convolutions.front();
    bool going = for_each(crew_, layout_.tile_rows, [&](int row, int) {
      first_rows(first, 3, layout_, image_, to_, row);
      const int bottom = std::min((row + 1) * TILE, layout_.height);
      for (int y = row * TILE; y < bottom; y++) activate(to_ + layout_.pixel(y, 0), layout_.width, first.slopes);
      return flops(3, layout_.width * (bottom - row * TILE));
    });
    for (size_t i = 1; going && i + 1 < network_.convolutions.size(); i++) {
      std::swap(from_, to_);
      const Convolution& convolution = network_.convolutions[i];
      going = for_each(crew_, layout_.tile_rows * parts_, [&](int unit, int thread) {
        const Unit u(*this, unit);
        float* rows[TILE];
        for (int y = 0; y < TILE; y++) rows[y] = u.top + y < layout_.height ? to_ + layout_.pixel(u.top + y, u.left) : nullptr;
        convolve(convolution, u, rows, scratch_[thread]->data());
        return flops(FEATURES, u.pixels());
      });
    }
    std::swap(from_, to_);
    return going;
  }

  // The last one, for the pixels within `inner`, whose first goes to `out`.
  template <class Level>
  bool finish(const Region& inner, float levels, uint8_t* out, size_t out_row) {
    const Convolution& last = network_.convolutions.back();
    return for_each(crew_, layout_.tile_rows * parts_, [&](int unit, int thread) {
      const Unit u(*this, unit);
      const double work = 2.0 * 9 * FEATURES * Compact::OUTPUTS * u.pixels();
      const int left = std::max(u.left, inner.left), right = std::min(u.right, inner.right);
      if (left >= right || u.top >= inner.bottom || u.bottom <= inner.top) return work;  // of a halo
      float *scratch = scratch_[thread]->data(), *rows[TILE];
      for (int y = 0; y < TILE; y++) rows[y] = scratch + row_floats(ROW_TILES) + (size_t)y * ROW_TILES * TILE * FEATURES;
      convolve(last, u, rows, scratch);
      for (int y = std::max(u.top, inner.top); y < std::min(u.bottom, inner.bottom); y++) {
        Level* to[Compact::SCALE];
        for (int i = 0; i < Compact::SCALE; i++) to[i] = (Level*)(out + ((y - inner.top) * 4 + i) * out_row) + (size_t)(left - inner.left) * 12;
        const float* pixels = image_ + ((size_t)(y + 1) * (layout_.width + 2) + left + 1) * 3;
        render(rows[y - u.top] + (size_t)(left - u.left) * FEATURES, pixels, right - left, levels, to);
      }
      return work;
    });
  }

 private:
  struct Unit {  // tiles of one row
    int from, to, top, bottom, left, right;
    Unit(const CompactPass& pass, int unit) {
      const Layout& layout = pass.layout_;
      const int row = unit / pass.parts_, part = unit % pass.parts_;
      from = (int)((long)part * layout.tile_columns / pass.parts_);
      to = (int)((long)(part + 1) * layout.tile_columns / pass.parts_);
      top = row * TILE, bottom = std::min(top + TILE, layout.height);
      left = from * TILE, right = std::min(to * TILE, layout.width);
    }
    int pixels() const { return (bottom - top) * (right - left); }
  };

  static double flops(int inputs, int pixels) { return 2.0 * 9 * inputs * FEATURES * pixels; }
  static void activate(float* p, int pixels, const float* slopes) {
    for (int x = 0; x < pixels; x++, p += FEATURES)
      for (int c = 0; c < FEATURES; c += LANES) store(p + c, prelu(load(p + c), load(slopes + c)));
  }
  void convolve(const Convolution& convolution, const Unit& u, float* const* to, float* scratch) const {
    const float* rows[PATCH];
    for (int y = 0; y < PATCH; y++) rows[y] = from_ + layout_.pixel(u.top + y - 1, u.left - 1);
    convolve_row(rows, u.to - u.from, layout_.width - u.left, convolution, to, nullptr, scratch);
  }

  const Compact& network_;
  const Layout layout_;
  const float* const image_;
  Crew& crew_;
  const int parts_;
  Buffer a_, b_;
  float *from_ = a_.data(), *to_ = b_.data();
  std::vector<std::unique_ptr<Buffer>> scratch_;
};

extern "C" {

// Packs SRVGGNetCompact: weights[i] as [out][in][3][3], biases[i] as [out], slopes[i] as [64] behind all but the last. Null if memory is out.
Compact* compact_create(int count, const float* const* weights, const float* const* biases, const float* const* slopes, int threads) try {
  std::unique_ptr<Compact> network(new Compact);
  const size_t direct = (size_t)9 * 3 * FEATURES, floats = odd_lines((size_t)POSITIONS * FEATURES * FEATURES);
  network->memory.reset(new Buffer(direct + (count - 1) * floats + (size_t)count * 2 * FEATURES));
  float* p = network->memory->data();
  for (int i = 0; i < count; i++, p += 2 * FEATURES) {
    float* u = p;
    p += i ? floats : direct;
    network->convolutions.push_back({u, p, i + 1 < count ? p + FEATURES : nullptr});
  }
  Crew crew(threads, [](double, void*) { return 0; }, nullptr);
  for_each(crew, count, [&](int i, int) {
    const Convolution& c = network->convolutions[i];
    if (i + 1 < count) {
      memcpy(c.bias, biases[i], FEATURES * sizeof(float));
      memcpy(c.slopes, slopes[i], FEATURES * sizeof(float));
    } else {
      memcpy(c.bias, in_order_of_rows(biases[i], 1).data(), FEATURES * sizeof(float));
    }
    if (i == 0)
      for (int o = 0; o < FEATURES; o++)
        for (int j = 0; j < 3; j++)
          for (int tap = 0; tap < 9; tap++) c.u[(tap * 3 + j) * FEATURES + o] = weights[i][(o * 3 + j) * 9 + tap];
    else if (i + 1 < count) pack(weights[i], FEATURES, FEATURES, c.u);
    else pack(in_order_of_rows(weights[i], (size_t)FEATURES * 9).data(), FEATURES, FEATURES, c.u);
    return 0.0;
  });
  return network.release();
} catch (...) {
  return nullptr;
}

void compact_destroy(const Compact* network) { delete network; }

// What a pass over so many pixels allocates, in bytes.
size_t compact_bytes(int height, int width, int threads) {
  return (2 * Layout(height, width).plane() + CompactPass::scratch_floats() * threads) * sizeof(float);
}

// The whole network, as winograd_run; a sample of the result has one byte or two.
int compact_run(const Compact* network, const float* image, int height, int width, const int* inner, uint8_t* out, size_t out_row,
                int sample_bytes, int threads, int (*tell)(double, void*), void* context) try {
  Crew crew(threads, tell, context);
  CompactPass pass(*network, image, height, width, crew, threads);
  const Region region = {inner[0], inner[1], inner[2], inner[3]};
  if (!pass.run()) return 1;
  const bool is_done = sample_bytes == 1 ? pass.finish<uint8_t>(region, 255.0f, out, out_row)
                                         : pass.finish<uint16_t>(region, 65535.0f, out, out_row);
  return is_done && crew.report() ? 0 : 1;
} catch (const std::bad_alloc&) {
  return 2;
} catch (...) {
  return 3;
}

}  // extern "C"
