// Part of winograd.cpp: the dense blocks.

// One strip of a dense block: its tile columns with a halo of one, which covers the five pixels that the convolutions reach, and the
// shape of its rings: the last transformed groups of rows, of each group of channels, and the pixels that the first four convolutions made.
struct Strip {
  int from, to, first, last, tiles;  // with halo; without, counted from `from`; of a row with halo
  int pixel_rows;
  size_t v_stride[GROUPS], v_row[GROUPS], m_stride, row, v, floats;

  Strip(const Layout& layout, int strip) {
    const int start = layout.first_column(strip), end = layout.first_column(strip + 1);
    from = std::max(start - 1, 0);
    to = std::min(end + 1, layout.tile_columns);
    first = start - from;
    last = end - from;
    tiles = to - from;
    pixel_rows = 2 * layout.rows * TILE + 1;  // a group, the one below it, and the last row of the one above
    row = (size_t)(tiles * TILE + 2) * GROWTH;
    v = 0;
    for (int g = 0; g < GROUPS; g++) {
      v_stride[g] = odd_lines((size_t)layout.rows * tiles * channels_of(g));
      v_row[g] = v_stride[g] * POSITIONS;
      v += v_row[g] * (GROUPS - g);
    }
    m_stride = odd_lines((size_t)layout.rows * tiles * GROWTH);
    floats = v + (DENSE - 1) * pixel_rows * row;
  }
  float* transformed(float* ring, int g, int group) const {
    for (int i = 0; i < g; i++) ring += v_row[i] * (GROUPS - i);
    return ring + (size_t)(group % (GROUPS - g)) * v_row[g];
  }
  float* pixels(float* ring, int g, int y) const { return ring + v + ((size_t)(g - 1) * pixel_rows + y % pixel_rows) * row; }
};

// The plan of all dense blocks. A unit is the next step of one strip of one block. Three planes take turns: A → B → C → A.
class Body {
 public:
  Body(const Network& network, const Layout& layout, float* const* planes, int threads)
      : network_(network), layout_(layout), planes_(planes), done_(network.dense_blocks * layout.strips), ring_(done_.size(), -1),
        busy_(done_.size()) {
    size_t widest = 0, m = 0, row = 0;
    for (int s = 0; s < layout.strips; s++) {
      strips_.emplace_back(layout, s);
      widest = std::max(widest, strips_[s].floats);
      m = std::max(m, strips_[s].m_stride * POSITIONS);
      row = std::max(row, strips_[s].row);
    }
    threads = std::min(threads, width());
    for (int i = 0; i < threads; i++) products_.emplace_back(new Buffer(m));
    for (int i = 0; i < threads + SPARE_RINGS; i++) rings_.emplace_back(new Buffer(widest)), free_.push_back(i);
    zeros_.reset(new Buffer(row));
  }

  bool complete() const { return first_ == (int)done_.size(); }
  int width() const { return divide_up(layout_.strips * layout_.steps, LAG); }

  bool take(int& unit) {
    if (unit < 0 || !ready(unit)) {
      unit = -1;
      const int end = std::min(begun_ + layout_.strips, (int)done_.size());  // nothing later can begin
      for (int i = first_; i < end && unit < 0; i++)
        if (ready(i)) unit = i;
      if (unit < 0) return false;
    }
    if (ring_[unit] < 0) ring_[unit] = free_.back(), free_.pop_back();
    begun_ = std::max(begun_, unit + 1);
    busy_[unit] = true;
    return true;
  }

  void finish(int unit) {
    busy_[unit] = false;
    if (++done_[unit] == layout_.steps) free_.push_back(ring_[unit]);
    while (first_ < (int)done_.size() && done_[first_] == layout_.steps) first_++;
  }

  double execute(int unit, int thread) const {
    const int block = unit / layout_.strips, strip = unit % layout_.strips, step = done_[unit];
    const Strip& s = strips_[strip];
    float *ring = rings_[ring_[unit]]->data(), *m = products_[thread]->data();
    const Convolution* convolutions = network_.dense(block);
    const float* source = planes_[block % 3];
    double macs = 0;
    if (step < layout_.groups) transform_source(s, source, step, ring);
    for (int k = 0; k < DENSE; k++) {
      const int group = step - k;
      if (group < 0 || group >= layout_.groups) continue;
      if (k) transform_grown(s, k, group, ring);
      if (k < DENSE - 1) grow(s, k, group, convolutions[k], ring, m);
      else end(s, group, convolutions[k], ring, m, source, block % 3 == 2 ? planes_[0] : nullptr, planes_[(block + 1) % 3]);
      macs += (double)(FEATURES + k * GROWTH) * 9 * (k < DENSE - 1 ? GROWTH : FEATURES) * layout_.pixel_rows_of(group);
    }
    return 2 * macs * layout_.width_of(strip);
  }

 private:
  // Its own block's rows lie in its ring. Of the block before, it reads its strip and the neighbours', to the first pixel row of the next
  // group. Whoever still reads what it writes over is two blocks behind or more, and has been passed by that rule already.
  bool ready(int unit) const {
    if (busy_[unit] || done_[unit] == layout_.steps || (ring_[unit] < 0 && free_.empty())) return false;
    if (unit < layout_.strips) return true;
    const int strip = unit % layout_.strips, before = unit - layout_.strips, needed = std::min(done_[unit] + LAG, layout_.steps);
    return done_[before] >= needed && (strip == 0 || done_[before - 1] >= needed) &&
           (strip == layout_.strips - 1 || done_[before + 1] >= needed);
  }

  void transform_source(const Strip& s, const float* source, int group, float* ring) const {
    float* to = s.transformed(ring, 0, group);
    for (int r = 0; r < layout_.rows_of(group); r++) {
      const float* rows[PATCH];
      for (int y = 0; y < PATCH; y++) rows[y] = source + layout_.pixel((group * layout_.rows + r) * TILE + y - 1, s.from * TILE - 1);
      transform_row(rows, s.tiles, FEATURES, to + (size_t)r * s.tiles * FEATURES, s.v_stride[0]);
    }
  }
  void transform_grown(const Strip& s, int g, int group, float* ring) const {
    float* to = s.transformed(ring, g, group);
    for (int r = 0; r < layout_.rows_of(group); r++) {
      const float* rows[PATCH];
      for (int i = 0; i < PATCH; i++) {
        const int y = (group * layout_.rows + r) * TILE + i - 1;
        rows[i] = y < 0 || y >= layout_.height ? zeros_->data() : s.pixels(ring, g, y);
      }
      transform_row(rows, s.tiles, GROWTH, to + (size_t)r * s.tiles * GROWTH, s.v_stride[g]);
    }
  }
  static void transform_row(const float* const* rows, int tiles, int channels, float* to, size_t stride) {
    for (int t = 0; t < tiles; t++)
      for (int c = 0; c < channels; c += LANES)
        input_tile(rows, (size_t)t * TILE * channels + c, channels, to + (size_t)t * channels + c, stride);
  }
  void multiply_groups(const Strip& s, int groups, int group, int first, int last, const float* u, float* ring, float* m) const {
    const float* v[GROUPS];
    for (int g = 0; g < groups; g++) v[g] = s.transformed(ring, g, group);
    multiply_all(v, s.v_stride, groups, first, last, u, m, s.m_stride);
  }

  // Convolutions 1 to 4: to the ring of pixels, with zeros around the picture's sides.
  void grow(const Strip& s, int k, int group, const Convolution& convolution, float* ring, float* m) const {
    const int rows = layout_.rows_of(group);
    multiply_groups(s, k + 1, group, 0, rows * s.tiles, convolution.u, ring, m);
    for (int r = 0; r < rows; r++) {
      float* to[TILE];
      for (int y = 0; y < TILE; y++) {
        float* row = s.pixels(ring, k + 1, (group * layout_.rows + r) * TILE + y);
        memset(row, 0, GROWTH * sizeof(float));
        memset(row + s.row - GROWTH, 0, GROWTH * sizeof(float));
        to[y] = row + GROWTH;
      }
      for (int c = 0; c < GROWTH; c += LANES)
        for (int t = 0; t < s.tiles; t++)
          grown_tile(m + (size_t)(r * s.tiles + t) * GROWTH + c, s.m_stride, to, (size_t)t * TILE * GROWTH + c,
                     layout_.width - (s.from + t) * TILE, convolution.bias + c);
    }
  }

  // The fifth: to the next plane, times 0.2 and with the block's input added; at the third block again, with the input of all three.
  void end(const Strip& s, int group, const Convolution& convolution, float* ring, float* m, const float* source, const float* residual,
           float* target) const {
    for (int half = 0; half < 2; half++) {
      const float* u = convolution.u + (size_t)half * POSITIONS * (FEATURES + 4 * GROWTH) * GROWTH;
      multiply_groups(s, GROUPS, group, s.first, (layout_.rows_of(group) - 1) * s.tiles + s.last, u, ring, m);
      for (int r = 0; r < layout_.rows_of(group); r++)
        for (int t = s.first; t < s.last; t++)
          for (int c = 0; c < GROWTH; c += LANES) {
            vec o[TILE][TILE];
            output_tile(m + (size_t)(r * s.tiles + t) * GROWTH + c, s.m_stride, o);
            const vec bias = load(convolution.bias + half * GROWTH + c), fifth = all(0.2f);
            const int top = (group * layout_.rows + r) * TILE, left = (s.from + t) * TILE;
            const int height = std::min<int>(TILE, layout_.height - top), width = std::min<int>(TILE, layout_.width - left);
            for (int y = 0; y < height; y++)
              for (int x = 0; x < width; x++) {
                const size_t at = layout_.pixel(top + y, left + x) + half * GROWTH + c;
                vec v = fma(o[y][x] + bias, fifth, load(source + at));
                if (residual) v = fma(v, fifth, load(residual + at));
                stream(target + at, v);
              }
          }
    }
    _mm_sfence();  // before another thread is told
  }

  const Network& network_;
  const Layout& layout_;
  float* const* const planes_;
  std::vector<Strip> strips_;
  std::vector<std::unique_ptr<Buffer>> rings_, products_;
  std::unique_ptr<Buffer> zeros_;
  std::vector<int> done_, ring_;  // of each block and strip: steps, and where its rings are
  std::vector<char> busy_;
  std::vector<int> free_;
  int first_ = 0, begun_ = 0;  // the first unit that is not finished; one past the last that has begun
};
