// Cuts the rows into blocks that do not depend on the number of threads, runs them, and adds
// their column sums in block order: the same bits for any number of threads.
#include "passes.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#include "block.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace sinkhorn {
namespace {

// Denormal results cost a hundred cycles each and mean nothing here: flushed inside, restored
// after.  Denormal logits below float64 are kept, as they widen to normal numbers.
class FlushToZero {
 public:
#if defined(__x86_64__)
  FlushToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | _MM_FLUSH_ZERO_ON); }
  ~FlushToZero() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushToZero() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t(1) << 24)));
  }
  ~FlushToZero() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<double, Free>;

Buffer aligned(int64_t doubles) {
  size_t bytes = (size_t(doubles) * sizeof(double) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes ? bytes : 64);
  if (!p) throw std::bad_alloc();
  return Buffer(static_cast<double*>(p));
}

const Kernels& kernels(const std::string& simd) {
#if defined(__x86_64__)
  if (simd == "avx512") return avx512_kernels();
  if (simd == "avx2") return avx2_kernels();
#endif
  if (simd == "plain") return plain_kernels();
  throw std::invalid_argument("no kernels for SIMD level " + simd);
}

// At most 128 blocks bound the memory for their sums; at least 256 rows amortise the reduction.
int64_t rows_per_block(int64_t n) { return std::max<int64_t>(256, (n + 127) / 128); }

void add_masses(const std::vector<double>& sums, int64_t blocks, int64_t n, int64_t k,
                double* out) {
  for (int64_t j = 0; j < k; ++j) {
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) total += sums[size_t(b * k + j)];
    out[j] = total / double(n);
  }
}

void add_log_masses(const std::vector<double>& sums, const std::vector<double>& tops,
                    int64_t blocks, int64_t k, double* out) {
  for (int64_t j = 0; j < k; ++j) {
    double top = tops[size_t(j)], total = 0;
    for (int64_t b = 1; b < blocks; ++b) top = std::max(top, tops[size_t(b * k + j)]);
    for (int64_t b = 0; b < blocks; ++b)
      total += sums[size_t(b * k + j)] * std::exp(tops[size_t(b * k + j)] - top);
    out[j] = top + std::log(total);
  }
}

}  // namespace

BadRow run_pass(const Rows& x, const Point& at, Kind kind, const std::string& simd, int threads,
                double* out, double* f, int64_t* labels) {
  const BlockFn pass = kernels(simd).pass[int(kind)][int(x.dtype)];
  const int64_t k = x.k, step = rows_per_block(x.n), blocks = (x.n + step - 1) / step;
  const bool log = kind == Kind::log;
  std::vector<double> sums(size_t(blocks * k), 0.), tops(log ? size_t(blocks * k) : 0);
  std::vector<BadRow> bad(size_t(blocks), -1);
  threads = int(std::min<int64_t>(std::max(threads, 1), blocks));
  std::vector<Buffer> memory;  // allocated here: an exception may not leave a parallel region
  const int64_t padded = (k + 7) / 8 * 8;
  for (int t = 0; t < threads; ++t) memory.push_back(aligned(3 * padded));

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
    double* base = memory[size_t(omp_get_thread_num())].get();
    const Scratch scratch{base, base + padded, base + 2 * padded};
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
      const Block block{b * step,
                        std::min(x.n, (b + 1) * step),
                        sums.data() + b * k,
                        log ? tops.data() + b * k : nullptr,
                        f,
                        labels};
      bad[size_t(b)] = pass(x, at, scratch, block);
    }
  }
  for (BadRow row : bad)
    if (row >= 0) return row;
  if (log)
    add_log_masses(sums, tops, blocks, k, out);
  else
    add_masses(sums, blocks, x.n, k, out);
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
