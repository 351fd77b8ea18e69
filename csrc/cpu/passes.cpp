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

void add_masses(const std::vector<double>& sums, int64_t blocks, int64_t k, double* out) {
  for (int64_t j = 0; j < k; ++j) {
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) total += sums[size_t(b * k + j)];
    out[j] = total;
  }
}

void add_log_masses(const std::vector<double>& sums, const std::vector<double>& tops,
                    int64_t blocks, int64_t k, double* out) {
  for (int64_t j = 0; j < k; ++j) {
    double top = -INFINITY, total = 0;
    for (int64_t b = 0; b < blocks; ++b) top = std::max(top, tops[size_t(b * k + j)]);
    for (int64_t b = 0; b < blocks; ++b)
      if (sums[size_t(b * k + j)] > 0)
        total += sums[size_t(b * k + j)] * std::exp(tops[size_t(b * k + j)] - top);
    out[j] = total > 0 ? top + std::log(total) : -INFINITY;
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

Blocks::Blocks(int64_t n, int64_t stride, int64_t first_row, int64_t last_row) : sample(n, stride) {
  const int64_t most = rows_per_block(sample.count);
  count = (sample.count + most - 1) / most;
  step = count ? (sample.count + count - 1) / count : 1;  // blocks of nearly equal size
  auto at_least = [&](int64_t row) {  // the first of the sample that does not lie before `row`
    int64_t s = std::min(row / stride, sample.count);
    while (s < sample.count && sample.row(s) < row) ++s;
    return s;
  };
  begin = at_least(first_row), end = at_least(last_row);
  first = begin / step, last = begin < end ? (end + step - 1) / step : first;
}

BadRow run_pass(const Rows& x, const Point& at, Kind kind, const Blocks& all, int64_t first,
                int64_t last, const std::string& simd, int threads, double* out,
                const Extras& extras) {
  const Sample& sample = all.sample;
  const int64_t k = x.k, step = all.step, blocks = last - first,
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
  threads = int(std::min<int64_t>(std::max(threads, 1), std::max<int64_t>(blocks, 1)));
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
      Block block{std::max(all.begin, (first + b) * step),
                  std::min(all.end, (first + b + 1) * step),
                  sums.data() + b * k,
                  log ? tops.data() + b * k : nullptr,
                  0.,
                  extras.sketch ? &extras.sketch->block(first - all.first + b) : nullptr};
      const int64_t into_run = (block.first - (first + b) * step) % kRun;
      if (into_run && !log) {  // then the runs that follow are those of the whole block
        Block head = block;
        head.last = block.first = std::min(block.last, block.first + kRun - into_run);
        bad[size_t(b)] = pass(x, at, g, sample, extras, scratch, head);
        block.weight = head.weight;
      }
      if (bad[size_t(b)] < 0 && block.first < block.last)
        bad[size_t(b)] = pass(x, at, g, sample, extras, scratch, block);
      weights[size_t(b)] = block.weight;
    }
  }
  for (BadRow row : bad)
    if (row >= 0) return row;
  double weight = 0;
  for (double w : weights) weight += w;
  if (log)
    add_log_masses(sums, tops, blocks, k, out);
  else
    add_masses(sums, blocks, k, out);
  out[k] = weight;
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
