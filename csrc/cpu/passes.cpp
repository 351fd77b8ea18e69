// Cuts the rows into blocks that do not depend on the number of threads, runs them, and adds
// their column sums in a fixed order: the same bits for any number of threads.
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

int64_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// Through integers: the address may lie outside of any array.  Null stays null.
template <class T>
T* shifted(T* p, int64_t by) {
  return p ? reinterpret_cast<T*>(uintptr_t(p) + uintptr_t(by) * sizeof(T)) : nullptr;
}

// Adds the sums of the blocks: logarithms of the column masses, and the weight.
void add_blocks(const double* sums, int64_t blocks, int64_t k, double* out) {
  const int64_t width = k + 1;
  std::fill(out, out + width, 0.);
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t j = 0; j < width; ++j) out[j] += sums[b * width + j];
  for (int64_t j = 0; j < k; ++j) out[j] = std::log(out[j]);
}

// The same of blocks in the log domain: k maxima, k sums relative to these, and the weight.
void add_log_blocks(const double* sums, int64_t blocks, int64_t k, double* out) {
  const int64_t width = 2 * k + 1;
  for (int64_t j = 0; j < k; ++j) {
    double top = kLogZero, total = 0;
    for (int64_t b = 0; b < blocks; ++b) top = std::max(top, sums[b * width + j]);
    for (int64_t b = 0; b < blocks; ++b)
      total += sums[b * width + k + j] * std::exp(sums[b * width + j] - top);
    out[j] = top + std::log(total);
  }
  out[k] = 0;
  for (int64_t b = 0; b < blocks; ++b) out[k] += sums[b * width + 2 * k];
}

}  // namespace

int64_t rows_per_block(int64_t count) {
  // at most 128 blocks bound the memory for their sums; at least 256 rows amortise the reduction
  const int64_t most = std::max<int64_t>(256, (count + 127) / 128);
  const int64_t blocks = std::max<int64_t>(1, (count + most - 1) / most);
  return ((count + blocks - 1) / blocks + kRun - 1) / kRun * kRun;
}

BadRow run_pass(Rows x, Point at, Kind kind, const Sample& sample, int64_t block_rows,
                const std::string& simd, int threads, double* out, Extras extras) {
  const int64_t k = x.k, padded = (k + kPad - 1) / kPad * kPad;
  const int64_t first_block = sample.first / block_rows;
  const int64_t blocks = blocks_of(sample.first, sample.last, block_rows);
  // from here on addresses are those of row 0, wherever that is
  const int64_t back = -sample.origin;
  x.data = shifted(static_cast<const char*>(x.data), back * x.row_stride * size_of(x.dtype));
  at.a = shifted(at.a, back);
  extras.f = shifted(extras.f, back);
  extras.labels = shifted(extras.labels, back);
  if (extras.kept) extras.kept->start(sample.first, sample.last, block_rows, extras.share);
  Buffer<float> split = aligned<float>(2 * padded);
  std::fill(split.get(), split.get() + 2 * padded, 0.f);
  const Scaled g = scale(at, k, split.get(), split.get() + padded);
  if (kind == Kind::quick && x.dtype != Dtype::f64 && !g.usable) kind = Kind::exact;
  const BlockFn pass = kernels_of(simd).pass[int(kind)][int(x.dtype)];
  const bool log = kind == Kind::log;
  // per block: its column sums and its weight; in the log domain column maxima before them
  const int64_t width = (log ? 2 * k : k) + 1;
  std::vector<double> sums(size_t(blocks * width));
  std::vector<BadRow> bad(size_t(blocks), -1);
  threads = int(std::max<int64_t>(1, std::min<int64_t>(threads, blocks)));
  const int64_t rows_apart = x.col_stride == 1 ? 0 : padded;  // rows that must be gathered
  std::vector<Buffer<double>>
      memory;  // allocated here: an exception may not leave a parallel region
  for (int t = 0; t < threads; ++t) memory.push_back(aligned<double>(4 * padded + 2 * rows_apart));

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
    double* base = memory[size_t(omp_get_thread_num())].get();
    auto* const columns = reinterpret_cast<uint32_t*>(base + 3 * padded);
    const Scratch scratch{base,
                          base + padded,
                          base + 2 * padded,
                          columns,
                          reinterpret_cast<float*>(columns + padded),
                          base + 4 * padded};
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = (first_block + b) * block_rows;
      double* const mine = sums.data() + b * width;
      Block block{std::max(sample.first, begin),
                  std::min(sample.last, begin + block_rows),
                  mine + (log ? k : 0),
                  log ? mine : nullptr,
                  0.,
                  extras.kept ? &extras.kept->block(b) : nullptr};
      bad[size_t(b)] = pass(x, at, g, sample, extras, scratch, block);
      mine[width - 1] = block.weight;
    }
  }
  for (BadRow row : bad)
    if (row >= 0) return row;
  if (log)
    add_log_blocks(sums.data(), blocks, k, out);
  else
    add_blocks(sums.data(), blocks, k, out);
  for (int64_t j = 0; j < k; ++j) out[j] -= std::log(out[k]);
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
