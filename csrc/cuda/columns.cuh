// What is done column by column: the split of g, the sums of the slabs, and masses in the log
// domain.
#pragma once

#include "rows.cuh"
#include "slices.cuh"

namespace sinkhorn::cuda {

// A mass (in units of the mean row's) below this has lost entries to underflow.
constexpr double kUnderflow = 1e-25;

__global__ void __launch_bounds__(256)
    prepare_kernel(const double* g, int64_t k, int64_t padded, double epsilon, double* padded_g,
                   float* high, float* low) {
  const int64_t c = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (c >= padded) return;
  const double rate = double(float(1.4426950408889634 / epsilon)), value = c < k ? g[c] : -INFINITY;
  // with the same rounded rate for logits and g, rounding it only changes epsilon by 6e-8
  const double scaled = value * rate, coarse = rint(scaled / kGrid) * kGrid;
  const bool forbidden = scaled == -INFINITY;
  const bool usable = rate > 1e-30 && rate < 1e30 && (forbidden || fabs(scaled) <= kFastRange);
  padded_g[c] = value;
  high[c] = usable ? float(coarse) : NAN;
  low[c] = forbidden ? 0.f : float(scaled - coarse);
}

__device__ inline double sum_of_slabs(Slabs slabs, int64_t width, int64_t column, int slice,
                                      double* shared) {
  double part = 0;
  for (int64_t s = slice; s < slabs.count; s += kSlices) part += slabs.sums[s * width + column];
  return over_slices(part, shared, Sum());
}

__global__ void __launch_bounds__(kColumnThreads)
    finish_kernel(Slabs quick, Slabs exact, const int* odd, int64_t k, double n, const double* g,
                  double* out, int* gate) {
  DYNAMIC_SHARED(double, shared);
  const Slabs slabs = odd && *odd == 0 ? quick : exact;
  const int64_t c = int64_t(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  const int slice = int(threadIdx.x) / kColumns;
  const double total = sum_of_slabs(slabs, k + 1, c < k ? c : k, slice, shared);
  const double weight = sum_of_slabs(slabs, k + 1, k, slice, shared);
  if (slice > 0 || c > k) return;
  if (c == k) {
    out[k] = weight;
    return;
  }
  const double mass = total / weight;
  out[c] = log(mass);
  if (g[c] > -INFINITY && mass * n < kUnderflow) atomicOr(gate, 1);
}

// log2 of a sum of powers of two, term by term.
struct LogSum {
  double top = -INFINITY, total = 0;

  __device__ void add(double log_term, double factor) {
    if (log_term == -INFINITY) return;
    if (log_term <= top) {
      total += factor * exp2(log_term - top);
    } else {
      total = total * exp2(top - log_term) + factor;
      top = log_term;
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    read_log_kernel(const __grid_constant__ RowPass p, double* tops, double* totals) {
  if (*p.gate == 0) return;
  DYNAMIC_SHARED(double, shared);
  const int64_t c = int64_t(blockIdx.y) * kColumns + threadIdx.x % kColumns;
  const int slice = int(threadIdx.x) / kColumns;
  const int64_t first = blockIdx.x * p.rows_per_block;
  const int64_t last = first + p.rows_per_block < p.count ? first + p.rows_per_block : p.count;
  LogSum sum;
  if (c < p.k)
    for (int64_t j = first + slice; j < last; j += kSlices) {
      const int64_t i = sampled_row(j, p.stride);
      const double x = widen(static_cast<const T*>(p.x)[i * p.row_stride + c * p.col_stride]);
      sum.add((x + p.g[c] + p.f[i]) * p.exact_rate, 1.);
    }
  const double top = over_slices(sum.top, shared, Larger());
  const double part = sum.top == -INFINITY ? 0. : sum.total * exp2(sum.top - top);
  const double total = over_slices(part, shared, Sum());
  if (slice > 0 || c >= p.k) return;
  tops[blockIdx.x * p.k + c] = top;
  totals[blockIdx.x * p.k + c] = total;
}

__global__ void __launch_bounds__(256)
    finish_log_kernel(const double* tops, const double* totals, int64_t slabs, int64_t k, double n,
                      const int* gate, double* out) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (*gate == 0 || c >= k) return;
  LogSum sum;
  for (int64_t s = 0; s < slabs; ++s) sum.add(tops[s * k + c], totals[s * k + c]);
  // f holds the weights of the rows as parts of 1, the slabs held n times that
  out[c] = log(sum.total) + sum.top * 0.6931471805599453 - log(out[k] / n);
}

}  // namespace sinkhorn::cuda
