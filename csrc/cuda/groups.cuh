// Threads that share a row: a power of two of neighbours, inside a warp or all of a block.
#pragma once

#include "platform.cuh"

namespace sinkhorn::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

// A place for one value of each warp; two of them in turn, so that one barrier per use is enough.
struct Boards {
  static constexpr int kBytes = 2 * kWarp * 8;

  double* memory;
  int turn = 0;

  template <class V>
  __device__ V* next() {
    static_assert(sizeof(V) <= 8, "a board holds 8 bytes a warp");
    turn ^= 1;
    return reinterpret_cast<V*>(memory + turn * kWarp);
  }
};

struct Larger {
  template <class V>
  __device__ V operator()(V x, V y) const {
    return x > y ? x : y;
  }
};

struct Sum {
  template <class V>
  __device__ V operator()(V x, V y) const {
    return x + y;
  }
};

// The value of `op` over the lanes of a group, the same in all of them. kSpan of these are in one
// warp; a group of several warps is the whole block. All threads of the block must call it.
template <int kSpan, class V, class Op>
__device__ V reduce(V v, int lanes, Boards& boards, Op op) {
#pragma unroll
  for (int offset = kSpan / 2; offset > 0; offset /= 2)
    v = op(v, __shfl_xor_sync(kAllLanes, v, offset));
  if (kSpan < kWarp || lanes == kWarp) return v;
  V* board = boards.next<V>();
  if (threadIdx.x % kWarp == 0) board[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = board[0];
  for (int w = 1; w < lanes / kWarp; ++w) v = op(v, board[w]);
  return v;
}

// The sum over the lanes before this one, and in `total` over all.
template <int kSpan>
__device__ int scan(int v, int lanes, Boards& boards, int* total) {
  const int lane = int(threadIdx.x) % kSpan;
  int sum = v;
#pragma unroll
  for (int offset = 1; offset < kSpan; offset *= 2) {
    const int below = __shfl_up_sync(kAllLanes, sum, offset, kSpan);
    if (lane >= offset) sum += below;
  }
  *total = __shfl_sync(kAllLanes, sum, kSpan - 1, kSpan);
  int before = sum - v;
  if (kSpan < kWarp || lanes == kWarp) return before;
  int* board = boards.next<int>();
  const int warp = int(threadIdx.x) / kWarp;
  if (lane == 0) board[warp] = *total;
  __syncthreads();
  *total = 0;
  for (int w = 0; w < lanes / kWarp; ++w) {
    if (w < warp) before += board[w];
    *total += board[w];
  }
  return before;
}

}  // namespace sinkhorn::cuda
