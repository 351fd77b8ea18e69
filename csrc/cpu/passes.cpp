// Cuts the rows into blocks that do not depend on the number of threads, runs them, and adds
// their column sums in block order: the same bits for any number of threads.
#include "passes.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "block.hpp"
#include "flush.hpp"
#include "memory.hpp"

namespace sinkhorn {

const Kernels& kernels_of(const std::string& simd) {
#if defined(__x86_64__)
  if (simd == "avx512") return avx512_kernels();
  if (simd == "avx2") return avx2_kernels();
#endif
  if (simd == "plain") return plain_kernels();
  throw std::invalid_argument("no kernels for SIMD level " + simd);
}

namespace {

// At most 128 blocks bound the memory for their sums; at least 256 rows amortise the reduction.
int64_t rows_per_block(int64_t n) { return std::max<int64_t>(256, (n + 127) / 128); }

void add_masses(const std::vector<double>& sums, int64_t blocks, int64_t k, double weight,
                double* out) {
  for (int64_t j = 0; j < k; ++j) {
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) total += sums[size_t(b * k + j)];
    out[j] = total / weight;
  }
}

void add_log_masses(const std::vector<double>& sums, const std::vector<double>& tops,
                    int64_t blocks, int64_t k, double weight, double* out) {
  for (int64_t j = 0; j < k; ++j) {
    double top = tops[size_t(j)], total = 0;
    for (int64_t b = 1; b < blocks; ++b) top = std::max(top, tops[size_t(b * k + j)]);
    for (int64_t b = 0; b < blocks; ++b)
      total += sums[size_t(b * k + j)] * std::exp(tops[size_t(b * k + j)] - top);
    out[j] = top + std::log(total / weight);
  }
}

// Splits g for the float32 kernel.
Scaled scale(const Point& at, int64_t k, float* high, float* low) {
  const double exact_rate = 1.4426950408889634 / at.epsilon;
  Scaled g{high, low, float(exact_rate), exact_rate > 1e-30 && exact_rate < 1e30};
  for (int64_t j = 0; j < k; ++j) {
    // with the same rounded rate for logits and g, rounding it only changes epsilon by 6e-8
    const double h = at.g[j] * double(g.rate);
    high[j] = h == -INFINITY ? -INFINITY : float(std::nearbyint(h * 1024) / 1024);
    low[j] = h == -INFINITY ? 0 : float(h - double(high[j]));
    g.usable = g.usable && (h == -INFINITY || std::fabs(h) <= 8192);
  }
  return g;
}

}  // namespace

BadRow run_pass(const Rows& x, const Point& at, Kind kind, int64_t stride, const std::string& simd,
                int threads, double* out, const Extras& extras) {
  const Sample sample(x.n, stride);
  const int64_t k = x.k, most = rows_per_block(sample.count);
  const int64_t blocks = (sample.count + most - 1) / most;
  const int64_t step = (sample.count + blocks - 1) / blocks,  // blocks of nearly equal size
      padded = (k + kPad - 1) / kPad * kPad;
  Buffer<float> split = aligned<float>(2 * padded);
  std::fill(split.get(), split.get() + 2 * padded, 0.f);
  const Scaled g = scale(at, k, split.get(), split.get() + padded);
  if (kind == Kind::quick && x.dtype != Dtype::f64 && !g.usable) kind = Kind::exact;
  const BlockFn pass = kernels_of(simd).pass[int(kind)][int(x.dtype)];
  const bool log = kind == Kind::log;
  std::vector<double> sums(size_t(blocks * k), 0.), tops(log ? size_t(blocks * k) : 0);
  std::vector<double> weights(size_t(blocks), 0.);
  std::vector<BadRow> bad(size_t(blocks), -1);
  if (extras.sketch) extras.sketch->start(blocks, step);
  threads = int(std::min<int64_t>(std::max(threads, 1), blocks));
  const int64_t rows_apart = x.col_stride == 1 ? 0 : padded;  // rows that must be gathered
  std::vector<Buffer<double>>
      memory;  // allocated here: an exception may not leave a parallel region
  for (int t = 0; t < threads; ++t) memory.push_back(aligned<double>(4 * padded + 2 * rows_apart));

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
    double* base = memory[size_t(omp_get_thread_num())].get();
    const Scratch scratch{base, base + padded, base + 2 * padded,
                          reinterpret_cast<uint32_t*>(base + 3 * padded), base + 4 * padded};
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
      Block block{b * step,
                  std::min(sample.count, (b + 1) * step),
                  sums.data() + b * k,
                  log ? tops.data() + b * k : nullptr,
                  0.,
                  extras.sketch ? &extras.sketch->block(b) : nullptr};
      bad[size_t(b)] = pass(x, at, g, sample, extras, scratch, block);
      weights[size_t(b)] = block.weight;
    }
  }
  for (BadRow row : bad)
    if (row >= 0) return row;
  double weight = 0;
  for (double w : weights) weight += w;
  if (log)
    add_log_masses(sums, tops, blocks, k, weight, out);
  else
    add_masses(sums, blocks, k, weight, out);
  return -1;
}

std::vector<std::string> simd_levels() {
  std::vector<std::string> levels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    levels.push_back("avx512");
  if (avx2) levels.push_back("avx2");
#endif
  levels.push_back("plain");
  return levels;
}

int max_threads() { return omp_get_max_threads(); }

}  // namespace sinkhorn
