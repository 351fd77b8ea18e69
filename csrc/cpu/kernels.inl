// The row kernels, written once and compiled once per SIMD level (see level_*.cpp).
// Everything is in an anonymous namespace: code of one level must never be linked into another.

namespace {

using namespace sinkhorn;

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

constexpr double kInf = __builtin_inf();

#include "simd.inl"

// exp(x) for x <= 0; relative error below 2e-7.  Adding 1.5 * 2^23 rounds to an integer
// and leaves that integer in the low bits.
inline float exp_nonpositive(float x) {
  float z = x * 1.44269504f + 12582912.f, n = z - 12582912.f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  float scale = bits_as<float>((bits_as<uint32_t>(z) + 127u) << 23);
  return x > -87.f ? p * scale : 0.f;
}

// The same in double: Taylor to degree 13 on |r| <= ln(2)/2, relative error below 1e-15.
inline double exp_nonpositive(double x) {
  double z = x * 1.4426950408889634 + 6755399441055744., n = z - 6755399441055744.;
  double r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6;
  double p = 1. / 6227020800.;
  p = p * r + 1. / 479001600.;
  p = p * r + 1. / 39916800.;
  p = p * r + 1. / 3628800.;
  p = p * r + 1. / 362880.;
  p = p * r + 1. / 40320.;
  p = p * r + 1. / 5040.;
  p = p * r + 1. / 720.;
  p = p * r + 1. / 120.;
  p = p * r + 1. / 24.;
  p = p * r + 1. / 6.;
  p = p * r + .5;
  p = p * r + 1.;
  p = p * r + 1.;
  double scale = bits_as<double>((bits_as<uint64_t>(z) + 1023u) << 52);
  return x > -708. ? p * scale : 0.;
}

// shifted = row + g; returns its maximum, or NaN when the row holds NaN, +inf or only -inf.
template <class T>
inline double shift_row(const T* row, int64_t stride, const double* g, int64_t k, double* shifted) {
  double top = -kInf;
  int64_t bad = 0;
  if (stride == 1) {
#pragma omp simd reduction(max : top) reduction(| : bad)
    for (int64_t j = 0; j < k; ++j) {
      double x = widen(row[j]), s = x + g[j];
      bad |= x < kInf ? 0 : 1;
      shifted[j] = s;
      top = s > top ? s : top;
    }
  } else {
    for (int64_t j = 0; j < k; ++j) {
      double x = widen(row[j * stride]), s = x + g[j];
      bad |= x < kInf ? 0 : 1;
      shifted[j] = s;
      top = s > top ? s : top;
    }
  }
  return bad || top == -kInf ? __builtin_nan("") : top;
}

// weights = exp((shifted - top) / epsilon); returns their sum.
template <class E>
inline double weigh_row(const double* shifted, double top, double rate, int64_t k, E* weights) {
  constexpr int64_t run = 512;  // a float sum is only trusted over a short run
  double total = 0;
  for (int64_t j0 = 0; j0 < k; j0 += run) {
    int64_t j1 = j0 + run < k ? j0 + run : k;
    E sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = j0; j < j1; ++j) {
      E w = exp_nonpositive(E((shifted[j] - top) * rate));
      weights[j] = w;
      sum += w;
    }
    total += sum;
  }
  return total;
}

inline int64_t first_equal(const double* shifted, double top, int64_t k) {
  int64_t j = 0;
  while (j + 1 < k && shifted[j] != top) ++j;
  return j;
}

inline void report_row(const Point& at, const Extras& extras, const double* shifted, int64_t i,
                       int64_t k, double top, double total, double log_a) {
  if (extras.labels) extras.labels[i] = first_equal(shifted, top, k);
  if (extras.f) extras.f[i] = at.epsilon * (log_a - __builtin_log(total)) - top;
}

template <class E>
inline void flush(const E* partial, double* sum, int64_t k) {
#pragma omp simd
  for (int64_t j = 0; j < k; ++j) sum[j] += partial[j];
}

#include "kept.inl"
// the kernels of whole rows use how a row is kept
#include "fast.inl"
// and those of minibatches, how a row is fetched
#include "codes.inl"

// Column masses times n: weights are then of order 1, far from float's underflow.
template <class T, class E>
BadRow mass_block(const Rows& x, const Point& at, const Scaled&, const Sample& sample,
                  const Extras& extras, const Scratch& scratch, Block& block) {
  const int64_t k = x.k;
  const double rate = 1. / at.epsilon, n = double(x.n), log_n = __builtin_log(n);
  E* weights = static_cast<E*>(scratch.weights);
  E* partial = static_cast<E*>(scratch.partial);
  for (int64_t s = block.first; s < block.last;) {
    const int64_t end = (s / kRun + 1) * kRun, stop = end < block.last ? end : block.last;
    __builtin_memset(partial, 0, sizeof(E) * size_t(k));
    for (; s < stop; ++s) {
      const int64_t i = sample.row(s);
      const T* row = static_cast<const T*>(x.data) + i * x.row_stride;
      double top = shift_row(row, x.col_stride, at.g, k, scratch.shifted);
      if (top != top) return i;
      double total = weigh_row<E>(scratch.shifted, top, rate, k, weights);
      const double weight = at.a ? at.a[i] * n : 1.;
      report_row(at, extras, scratch.shifted, i, k, top, total,
                 at.a ? __builtin_log(at.a[i]) : -log_n);
      E scale = E(weight / total);
#pragma omp simd
      for (int64_t j = 0; j < k; ++j) partial[j] += weights[j] * scale;
      block.weight += weight;
      if (is_kept(block.kept, s)) {
        float* narrow = reinterpret_cast<float*>(scratch.shifted);
        for (int64_t j = 0; j < k; ++j) narrow[j] = float(weights[j]);
        for (int64_t j = k; j % kPad; ++j) narrow[j] = 0;
        keep_row(*block.kept, narrow, float(weight), scratch.entries, scratch.columns);
      }
    }
    flush(partial, block.sum, k);
  }
  return -1;
}

// log of the column masses by a running log-sum-exp per column.
template <class T>
BadRow log_block(const Rows& x, const Point& at, const Scaled&, const Sample& sample, const Extras&,
                 const Scratch& scratch, Block& block) {
  const int64_t k = x.k;
  const double rate = 1. / at.epsilon, n = double(x.n);
  double* weights = static_cast<double*>(scratch.weights);
  for (int64_t j = 0; j < k; ++j) block.top[j] = kLogZero;
  for (int64_t s = block.first; s < block.last; ++s) {
    const int64_t i = sample.row(s);
    const T* row = static_cast<const T*>(x.data) + i * x.row_stride;
    double top = shift_row(row, x.col_stride, at.g, k, scratch.shifted);
    if (top != top) return i;
    double total = weigh_row<double>(scratch.shifted, top, rate, k, weights);
    const double weight = at.a ? at.a[i] * n : 1., offset = __builtin_log(weight / total);
    block.weight += weight;
#pragma omp simd
    for (int64_t j = 0; j < k; ++j) {
      double u = (scratch.shifted[j] - top) * rate + offset, old = block.top[j];
      double now = u > old ? u : old;
      block.sum[j] = block.sum[j] * exp_nonpositive(old - now) +
                     (u > kLogZero ? exp_nonpositive(u - now) : 0.);
      block.top[j] = now;
    }
  }
  return -1;
}

constexpr Kernels kKernels = {
    {
#if defined(SINKHORN_AVX512) || defined(SINKHORN_AVX2) || defined(__FMA__) || defined(__aarch64__)
        {mass_block<double, float>, fast_block<float>, fast_block<half>, fast_block<bfloat>},
#else  // without a fused multiply-add the exponents of fast_block would not be exact
        {mass_block<double, float>, mass_block<float, float>, mass_block<half, float>,
         mass_block<bfloat, float>},
#endif
        {mass_block<double, double>, mass_block<float, double>, mass_block<half, double>,
         mass_block<bfloat, double>},
        {log_block<double>, log_block<float>, log_block<half>, log_block<bfloat>},
    },
    kept_mass,
    kept_second_moment,
    {
        {first_codes<double>, first_codes<float>, first_codes<half>, first_codes<bfloat>},
        {next_codes<double>, next_codes<float>, next_codes<half>, next_codes<bfloat>},
        {last_codes<double>, last_codes<float>, last_codes<half>, last_codes<bfloat>},
    }};

}  // namespace
