// The kernels of minibatch.hpp. A block sums along a row, or each of its threads down a column.
#pragma once

#include "minibatch.hpp"
#include "rows.cuh"
#include "slices.cuh"

namespace sinkhorn::cuda {

constexpr int kMinibatchThreads = 256;
// A column's mass is taken to be K times this at least: it may be 0 in float32, and then u is so
// small that the sum of K of them in a row does not overflow.
constexpr double kTiny = 1e-37;

__device__ inline float power_of_two(float x) { return exp2_approx(x); }
__device__ inline double power_of_two(double x) { return exp2(x); }

// u of a column, given kTiny * K.
template <class E>
__device__ E inverse(E mass, E least) {
  return E(1) / (mass < least ? least : mass);  // NaN stays
}

__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(double x, double& to) { to = x; }
__device__ inline void narrow(float x, __half& to) { to = __float2half_rn(x); }
__device__ inline void narrow(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }

__device__ inline int64_t rows_that_count(const Minibatch& of, int64_t batch) {
  const int64_t count = of.n_valid ? of.n_valid[batch] : of.n;
  return count < 0 ? 0 : count < of.n ? count : of.n;
}

template <class T>
__device__ const T* row_of(const Minibatch& of, int64_t batch, int64_t i) {
  return static_cast<const T*>(of.x) + batch * of.batch_stride + i * of.row_stride;
}

// A block for each row.
template <class T, class E>
__global__ void __launch_bounds__(kMinibatchThreads)
    minibatch_rows_kernel(const __grid_constant__ Minibatch of) {
  DYNAMIC_SHARED(double, shared);
  Boards boards{shared};
  const int64_t spot = blockIdx.x, batch = spot / of.n, i = spot % of.n;
  const bool counts = i < rows_that_count(of, batch);
  const T* row = row_of<T>(of, batch, i);
  const int64_t k = counts ? of.k : 0;
  const E rate = E(of.rate);
  if (!of.masses) {
    E top = -INFINITY;
    for (int64_t c = threadIdx.x; c < k; c += kMinibatchThreads)
      top = Larger()(E(widen(row[c * of.col_stride])), top);
    top = reduce<kWarp>(top, kMinibatchThreads, boards, Larger());
    if (threadIdx.x == 0) static_cast<E*>(of.tops)[spot] = top;
    return;
  }
  const double* masses = of.masses + batch * of.k;
  const E top = static_cast<const E*>(of.tops)[spot], least = E(kTiny * double(of.k));
  E total = 0;
  for (int64_t c = threadIdx.x; c < k; c += kMinibatchThreads) {
    const E d = (E(widen(row[c * of.col_stride])) - top) * rate;
    total += power_of_two(d) * inverse(E(masses[c]), least);
  }
  total = reduce<kWarp>(total, kMinibatchThreads, boards, Sum());
  if (threadIdx.x == 0) static_cast<E*>(of.scales)[spot] = E(1) / total;
}

// A block for each block of rows and stretch of columns.
template <class T, class E>
__global__ void __launch_bounds__(kMinibatchThreads)
    minibatch_columns_kernel(const __grid_constant__ Minibatch of) {
  const int64_t batch = blockIdx.x / of.blocks, block = blockIdx.x % of.blocks;
  const int64_t c = int64_t(blockIdx.y) * kMinibatchThreads + threadIdx.x;
  if (c >= of.k) return;
  const int64_t first = block * of.rows_per_block, count = rows_that_count(of, batch);
  const int64_t end = first + of.rows_per_block < of.n ? first + of.rows_per_block : of.n;
  const int64_t last = end < count ? end : count;
  const E rate = E(of.rate);
  const E least = E(kTiny * double(of.k));
  const E u = of.masses ? inverse(E(of.masses[batch * of.k + c]), least) : E(1);
  const E* tops = static_cast<const E*>(of.tops) + batch * of.n;
  const E* scales = static_cast<const E*>(of.scales) + batch * of.n;
  const E largest = of.largest ? static_cast<const E*>(of.largest)[batch] : E(0);
  T* const out = static_cast<T*>(of.out) + (of.out ? batch * of.out_batch_stride : 0);
  E total = 0;
#pragma unroll 4
  for (int64_t i = first; i < last; ++i) {
    const E x = E(widen(row_of<T>(of, batch, i)[c * of.col_stride]));
    const E entry = power_of_two((x - (of.largest ? largest : tops[i])) * rate);
    const E scale = of.largest ? E(1) : scales[i];
    total += entry * scale;
    if (of.out) narrow(entry * u * scale, out[i * of.out_row_stride + c * of.out_col_stride]);
  }
  if (of.sums) static_cast<E*>(of.sums)[(batch * of.blocks + block) * of.k + c] = total;
  if (of.out)
    for (int64_t i = first > last ? first : last; i < end; ++i)
      narrow(E(0), out[i * of.out_row_stride + c * of.out_col_stride]);
}

template <class E>
__global__ void __launch_bounds__(kColumnThreads)
    minibatch_finish_kernel(const E* sums, int64_t blocks, int64_t k, double* masses) {
  DYNAMIC_SHARED(double, shared);
  const int64_t c = int64_t(blockIdx.y) * kColumns + threadIdx.x % kColumns, batch = blockIdx.x;
  const int slice = int(threadIdx.x) / kColumns;
  double part = 0;
  if (c < k)
    for (int64_t s = slice; s < blocks; s += kSlices) part += sums[(batch * blocks + s) * k + c];
  const double total = over_slices(part, shared, Sum());
  if (slice == 0 && c < k) masses[batch * k + c] = total;
}

}  // namespace sinkhorn::cuda
