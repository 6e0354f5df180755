// Part of winograd.cpp: the end of RRDBNet, for one rectangle of the features, in rings of few rows.

struct Region {
  int top, bottom, left, right;
};

class Upsampler {
 public:
  enum { UNIT_HEIGHT = 64, UNIT_WIDTH = 32, RING = 3 * TILE };

  Upsampler(const Network& network, const Layout& layout, const float* features)
      : network_(network), layout_(layout), features_(features) {}

  static size_t floats() {  // of scratch, for the largest unit
    const int widest = UNIT_WIDTH * 4 + 8, tiles = divide_up(widest, TILE) + 1;
    return row_length(tiles) * (1 + PATCH + 3 * RING) + row_floats(tiles);
  }

  // The pixels of `unit` of the features to 4 × 4 times as many bytes; `out` is where the first goes, `out_row` the bytes of a row.
  void run(const Region& unit, uint8_t* out, size_t out_row, float* scratch) const {
    State s;
    const int height = 4 * layout_.height, width = 4 * layout_.width;
    // What each stage must make, in its own pixels: one more around than the next reads; the enlarging ones begin at even pixels.
    Region r = {std::max(4 * unit.top - 1, 0), std::min(4 * unit.bottom + 1, height), std::max(4 * unit.left - 1, 0),
                std::min(4 * unit.right + 1, width)};
    s.stages[2].set(r);
    r = {std::max(r.top - 1, 0) & ~1, std::min(r.bottom + 1, height), std::max(r.left - 1, 0) & ~1, std::min(r.right + 1, width)};
    s.stages[1].set(r);
    r = {std::max(r.top / 2 - 1, 0) & ~1, std::min((r.bottom - 1) / 2 + 2, height / 2), std::max(r.left / 2 - 1, 0) & ~1,
         std::min((r.right - 1) / 2 + 2, width / 2)};
    s.stages[0].set(r);
    size_t longest = 0;
    for (const Stage& stage : s.stages) longest = std::max(longest, stage.length);
    s.zeros = scratch;
    float* p = scratch + longest;
    for (Stage& stage : s.stages) stage.rows = p, p += stage.length * RING;
    memset(scratch, 0, (p - scratch) * sizeof(float));
    s.enlarged = p;
    s.enlarged_length = longest;
    s.scratch = p + longest * PATCH;
    for (int y = 4 * unit.top; y < 4 * unit.bottom; y++, out += out_row) {
      make(s, 2, y + 2);
      const float* rows[3];
      for (int i = 0; i < 3; i++) rows[i] = source(s, 3, y - 1 + i) + (size_t)(4 * unit.left - s.stages[2].region.left) * FEATURES;
      last_row(rows, 4 * (unit.right - unit.left), out);
    }
  }

 private:
  static size_t row_length(int tiles) { return (size_t)(tiles * TILE + 2 * TILE) * FEATURES; }

  struct Stage {  // conv_up1, conv_up2 or conv_hr
    Region region;
    int tiles, made;  // of a row; the row to be made next
    size_t length;
    float* rows;
    void set(const Region& r) {
      region = r;
      made = r.top;
      tiles = divide_up(r.right - r.left, TILE);
      length = row_length(tiles);
    }
    float* row(int y) const { return rows + (size_t)(y % RING) * length; }  // from the pixel left of the region on
  };
  struct State {
    Stage stages[3];
    float *zeros, *enlarged, *scratch;
    size_t enlarged_length;
  };

  // Row y of what a stage reads; zeros outside.
  const float* source(const State& s, int stage, int y) const {
    if (stage == 0) return y < 0 || y >= layout_.height ? s.zeros : features_ + layout_.pixel(y, -1);
    const Stage& before = s.stages[stage - 1];
    return y < before.region.top || y >= before.region.bottom ? s.zeros : before.row(y);
  }

  void make(State& s, int number, int until) const {
    Stage& stage = s.stages[number];
    for (until = std::min(until, stage.region.bottom); stage.made < until; stage.made += TILE) {
      const int top = stage.made;
      if (number) make(s, number - 1, (number == 2 ? top + TILE : (top + TILE) >> 1) + 1);
      const float* rows[PATCH];
      float* to[TILE];
      for (int i = 0; i < PATCH; i++) {
        const int y = top - 1 + i;
        if (number == 2) rows[i] = source(s, 2, y) + (size_t)(stage.region.left - s.stages[1].region.left) * FEATURES;
        else if (i && y >> 1 == (y - 1) >> 1) rows[i] = rows[i - 1];
        else rows[i] = enlarge(s, number, y >> 1, s.enlarged + i * s.enlarged_length);
      }
      for (int y = 0; y < TILE; y++) to[y] = top + y < stage.region.bottom ? stage.row(top + y) + FEATURES : nullptr;
      convolve_row(rows, stage.tiles, stage.region.right - stage.region.left, network_.around()[1 + number], to, nullptr, s.scratch, true);
    }
  }

  // Row y of what conv_up1 or conv_up2 reads, each pixel twice.
  const float* enlarge(const State& s, int number, int y, float* to) const {
    const float* from = source(s, number, y);
    if (from == s.zeros) return from;
    const Stage& stage = s.stages[number];
    const int left = number ? s.stages[number - 1].region.left : 0, right = number ? s.stages[number - 1].region.right : layout_.width;
    float* at = to;
    for (int i = stage.region.left - 1; i < stage.region.left + stage.tiles * TILE + 1; i++, at += FEATURES) {
      const int x = i >> 1;
      if (x < left || x >= right) memset(at, 0, FEATURES * sizeof(float));
      else memcpy(at, from + (size_t)(x - left + 1) * FEATURES, FEATURES * sizeof(float));
    }
    return to;
  }

  void last_row(const float** rows, int pixels, uint8_t* out) const {
    constexpr int N = LANES == 16 ? 8 : 2;
    for (int x = 0; x < pixels;) {
      const int n = x + N <= pixels ? N : 2;  // they are a multiple of 4
      (n == N ? last_pixels<N> : last_pixels<2>)(rows, network_.last().u, network_.last().bias, out + x * 3);
      for (int i = 0; i < 3; i++) rows[i] += n * FEATURES;
      x += n;
    }
  }

  const Network& network_;
  const Layout& layout_;
  const float* const features_;
};
