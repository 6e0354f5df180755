// Runs the engine for CPUs over sizes at its edges, for `make sanitize`, where sanitizers watch it.
//
// A small network with random weights. All that the engine reads and writes is allocated to the byte, so that AddressSanitizer sees
// one step beyond. Any number of threads must give the same bytes, and a pass that is stopped must end.
#include "../models/engines/winograd.cpp"

#include <cstdio>
#include <random>

namespace {

constexpr int BLOCKS = 1, CHANNELS_X4 = 3, CHANNELS_X2 = 12;  // x2plus sees squares of 2 × 2 pixels as one of 12 channels
#ifdef __SANITIZE_THREAD__  // ten times as slow, and the threads share a small picture as they do a long one
constexpr int LONGEST = 300;
#else
constexpr int LONGEST = 4000;
#endif
std::minstd_rand generator(1);

std::vector<float> random_floats(size_t n, float from, float to) {
  std::uniform_real_distribution<float> distribution(from, to);
  std::vector<float> floats(n);
  for (float& f : floats) f = distribution(generator);
  return floats;
}

// RRDBNet's convolutions, in the order of its modules.
Network* random_network(int channels) {
  std::vector<std::pair<int, int>> shapes = {{channels, 64}};
  for (int i = 0; i < BLOCKS * 3; i++)
    for (int grown = 0; grown < 5; grown++) shapes.push_back({64 + 32 * grown, grown == 4 ? 64 : 32});
  for (int i = 0; i < 4; i++) shapes.push_back({64, 64});
  shapes.push_back({64, 3});
  std::vector<std::vector<float>> weights, biases;
  std::vector<const float*> of_weights, of_biases;
  for (const auto& [in, out] : shapes) {
    weights.push_back(random_floats(9 * in * out, -0.05f, 0.05f));
    biases.push_back(random_floats(out, -0.05f, 0.05f));
  }
  for (const auto& floats : weights) of_weights.push_back(floats.data());
  for (const auto& floats : biases) of_biases.push_back(floats.data());
  return winograd_create(BLOCKS, channels, of_weights.data(), of_biases.data(), 2);
}

Compact* random_compact() {
  constexpr int COUNT = 4;
  std::vector<std::vector<float>> weights, biases, slopes;
  std::vector<const float*> of_weights, of_biases, of_slopes;
  for (int i = 0; i < COUNT; i++) {
    const int in = i ? 64 : 3, out = i < COUNT - 1 ? 64 : 48;
    weights.push_back(random_floats(9 * in * out, -0.05f, 0.05f));
    biases.push_back(random_floats(out, -0.05f, 0.05f));
    slopes.push_back(random_floats(i < COUNT - 1 ? 64 : 0, -0.1f, 1.5f));
  }
  for (int i = 0; i < COUNT; i++)
    of_weights.push_back(weights[i].data()), of_biases.push_back(biases[i].data()), of_slopes.push_back(slopes[i].data());
  return compact_create(COUNT, of_weights.data(), of_biases.data(), of_slopes.data(), 2);
}

// Counts down, and stops the pass at 0.
int count_down(double, void* calls) { return --*static_cast<int*>(calls) == 0; }

auto run_of(const Network*) { return winograd_run; }
auto run_of(const Compact*) { return compact_run; }

template <class Any>
int run(const Any* network, const std::vector<float>& image, int height, int width, int margin, int sample_bytes, int threads, int calls,
        std::vector<uint8_t>& out) {
  const int inner[] = {std::min(margin, height - 1), height, std::min(margin, width - 1), width};
  const size_t out_row = (size_t)(inner[3] - inner[2]) * 4 * 3 * sample_bytes;
  std::vector<uint8_t>(out_row * (inner[1] - inner[0]) * 4).swap(out);
  return run_of(network)(network, image.data(), height, width, inner, out.data(), out_row, sample_bytes, threads, count_down, &calls);
}

using Sizes = std::vector<std::pair<int, int>>;

template <class Any>
bool check(const Any* network, int channels, const Sizes& sizes) {
  if (!network) return puts("no network"), false;
  for (const auto& [width, height] : sizes) {
    std::vector<float> image((size_t)(height + 2) * (width + 2) * channels);
    const std::vector<float> pixels = random_floats((size_t)height * width * channels, 0, 1);
    for (int y = 0; y < height; y++)
      std::copy_n(&pixels[(size_t)y * width * channels], width * channels, &image[((size_t)(y + 1) * (width + 2) + 1) * channels]);
    std::vector<uint8_t> one, more, stopped;
    for (int margin : {0, 5}) {
      for (int sample_bytes : {1, 2}) {
        if (run(network, image, height, width, margin, sample_bytes, 1, 0, one)) return puts("a pass failed"), false;
        if (run(network, image, height, width, margin, sample_bytes, 3, 0, more)) return puts("a pass failed"), false;
        if (one != more) return printf("%dx%d: other bytes with 3 threads than with 1\n", width, height), false;
      }
      if (height < 10 || width < 10) break;
    }
    const int status = run(network, image, height, width, 0, 1, 2, 1, stopped);
    if (status > 1) return printf("%dx%d: stopped with status %d\n", width, height, status), false;
  }
  return true;
}

}  // namespace

int main() {
  const Sizes edges = {{1, 1}, {1, LONGEST}, {LONGEST, 1}, {71, 30}, {300, 40}};
  for (int channels : {CHANNELS_X4, CHANNELS_X2}) {
    Network* network = random_network(channels);
    if (!check(network, channels, channels == CHANNELS_X4 ? edges : Sizes{{6, 7}})) return 1;
    winograd_destroy(network);
  }
  Compact* compact = random_compact();
  if (!check(compact, CHANNELS_X4, edges)) return 1;
  compact_destroy(compact);
  return 0;
}
