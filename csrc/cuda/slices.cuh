// Sums down the columns: a block takes a few columns, and in slices the rows of each.
#pragma once

#include "groups.cuh"

namespace sinkhorn::cuda {

constexpr int kColumns = 32, kSlices = 8;  // of a block
constexpr int kColumnThreads = kColumns * kSlices;

// The slices of a column, added in order; the same in all of them.
template <class Op>
__device__ double over_slices(double v, double* shared, Op op) {
  __syncthreads();
  shared[threadIdx.x] = v;
  __syncthreads();
  const int column = int(threadIdx.x) % kColumns;
  v = shared[column];
  for (int s = 1; s < kSlices; ++s) v = op(v, shared[s * kColumns + column]);
  return v;
}

}  // namespace sinkhorn::cuda
