// The sums over kept entries: rows and columns of a sparse matrix times a vector.
#pragma once

#include "groups.cuh"

namespace sinkhorn::cuda {

constexpr int kSegmentThreads = 256;

__global__ void __launch_bounds__(kSegmentThreads)
    add_segments_kernel(const int64_t* begin, const int64_t* end, int64_t segments,
                        const float* value, const int32_t* index, const double* p, const double* q,
                        double* first, double* second, int threads) {
  DYNAMIC_SHARED(double, shared);
  Boards boards{shared};
  const int lane = int(threadIdx.x) % threads, groups = int(blockDim.x) / threads;
  const int64_t segment = int64_t(blockIdx.x) * groups + threadIdx.x / threads;
  double sum = 0, squares = 0;
  if (segment < segments)
    for (int64_t j = begin[segment] + lane; j < end[segment]; j += threads) {
      const double v = value[j];
      sum += v * p[index[j]];
      if (q) squares += v * v * q[index[j]];
    }
  sum = reduce<kWarp>(sum, threads, boards, Sum());
  if (q) squares = reduce<kWarp>(squares, threads, boards, Sum());
  if (lane > 0 || segment >= segments) return;
  first[segment] = sum;
  if (q) second[segment] = squares;
}

}  // namespace sinkhorn::cuda
