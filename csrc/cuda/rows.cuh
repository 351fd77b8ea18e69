// How a row is held by a group of threads, and the sum of its exponentials there.
#pragma once

#include "groups.cuh"
#include "passes.hpp"

namespace sinkhorn::cuda {

constexpr float kGrid = 1.f / 1024;
// |top| beyond this: high - top may no longer be exact, and the row takes the float64 way.
constexpr float kFastRange = 8192;
// Entries of a row that a thread holds at most, in float32 and in float64.
constexpr int kLargePer = 16, kExactPer = 8;
constexpr int kTinyLanes = 4, kHalfWarp = 16;
constexpr int kBlockThreads = 128, kChunkLanes = 256;
constexpr int kMostLanes = 512;  // more would leave a thread too few registers

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// The same loads in every turn of a loop are cheap (they hit the nearest cache); kept in registers
// from turn to turn they would cost more than there are.
__device__ __forceinline__ void keep_loads_here() { asm volatile("" ::: "memory"); }

// The rows of a sample: one of each `stride` neighbours (Fibonacci hashing), as on the CPU.
__device__ inline int64_t sampled_row(int64_t j, int64_t stride) {
  if (stride == 1) return j;
  const uint64_t hash = uint64_t(j) * 0x9E3779B97F4A7C15u;
  return j * stride + int64_t((hash >> 32) % uint64_t(stride));
}

// How a row is cut up. kSpan lanes of a warp hold a stretch of kSpan * kPer columns, in vectors of
// kVector neighbours: lane after lane, then round after round. Stretch follows stretch, warp by
// warp and chunk by chunk. That all but the start of a stretch is a constant keeps addresses cheap.
template <int kSpan_, int kPer_, int kVector_>
struct Cut {
  static constexpr int kSpan = kSpan_, kPer = kPer_, kVector = kVector_;

  // of slot 0 of a lane, and of the other slots relative to it
  __device__ static int first_column(int stretch, int lane) {
    return stretch * (kSpan * kPer) + lane * kVector;
  }
  __device__ static constexpr int column(int slot) {
    return slot / kVector * (kSpan * kVector) + slot % kVector;
  }
};

template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T entry[kVector];
};

// kVector entries of a padded vector, the first of them at an aligned place.
template <int kVector, class V>
__device__ Vector<V, kVector> load_entries(const V* p) {
  constexpr int kWidth = 16 / sizeof(V) < kVector ? 16 / sizeof(V) : kVector;
  Vector<V, kVector> out;
#pragma unroll
  for (int e = 0; e < kVector; e += kWidth)
    *reinterpret_cast<Vector<V, kWidth>*>(out.entry + e) =
        *reinterpret_cast<const Vector<V, kWidth>*>(p + e);
  return out;
}

// The part of the row that a thread holds begins at `first`; the vectors of a pass are padded.
template <class C>
struct Held {
  int first;  // column of slot 0
  int lanes;  // of the group

  __device__ int column(int slot) const { return first + C::column(slot); }
};

// What a row's entries sum to: weight_k = 2^(exponent_k - offset), in the registers of its group.
// Bad are NaN, +inf, -inf everywhere, and in float32 rows too large for it.
struct RowSum {
  double total, offset;
  bool bad;
};

// With `top` and high on one grid, high - top is exact, so an exponent is rounded once, at its own
// size: entries that matter keep all their bits, however large logits and g are.
template <class C, class X>
__device__ float weigh(const RowPass& p, Held<C> held, const X (&x)[C::kPer], float top,
                       float (&weight)[C::kPer]) {
  float total = 0;
#pragma unroll
  for (int j = 0; j < C::kPer; j += C::kVector) {
    const auto high = load_entries<C::kVector>(p.high + held.column(j));
    const auto low = load_entries<C::kVector>(p.low + held.column(j));
#pragma unroll
    for (int e = 0; e < C::kVector; ++e) {
      const float exponent = fmaf(float(x[j + e]), p.rate, high.entry[e] - top) + low.entry[e];
      weight[j + e] = exp2_approx(exponent);
      total += weight[j + e];
    }
    keep_loads_here();
  }
  return total;
}

template <class C, class X>
__device__ float search_top(const RowPass& p, Held<C> held, const X (&x)[C::kPer]) {
  float top = -INFINITY;
#pragma unroll
  for (int j = 0; j < C::kPer; j += C::kVector) {
    const auto high = load_entries<C::kVector>(p.high + held.column(j));
#pragma unroll
    for (int e = 0; e < C::kVector; ++e)
      top = fmaxf(top, fmaf(float(x[j + e]), p.rate, high.entry[e]));
    keep_loads_here();
  }
  return top;
}

__device__ inline float round_to_grid(float x) { return rintf(x / kGrid) * kGrid; }

// A thread's entries of a row, widened; 0 beyond its end, where g is -inf. With vectors, the last
// of them may reach beyond the end of the row: see RowPass::vectors.
template <class C, class T, class X>
__device__ void load_row(const T* row, int64_t col_stride, int k, Held<C> held, X (&x)[C::kPer]) {
  const int left = k - held.first;
  const int64_t apart = C::kVector > 1 ? 1 : col_stride, step = C::column(C::kVector) * apart;
  const T* at = row + held.first * apart;
#pragma unroll
  for (int j = 0; j < C::kPer; j += C::kVector, at += step) {
    Vector<T, C::kVector> v{};
    if (C::column(j) < left) v = *reinterpret_cast<const Vector<T, C::kVector>*>(at);
#pragma unroll
    for (int e = 0; e < C::kVector; ++e) x[j + e] = widen(v.entry[e]);
  }
  if (k % C::kVector != 0) {
    keep_loads_here();  // a branch, not a choice for each entry
#pragma unroll
    for (int j = 0; j < C::kPer; ++j)
      if (C::column(j) >= left) x[j] = 0;
  }
}

template <class C, class X>
__device__ RowSum sum_row(const RowPass& p, Held<C> held, const X (&x)[C::kPer], Boards& boards,
                          float (&weight)[C::kPer]) {
  const float found = reduce<C::kSpan>(search_top(p, held, x), held.lanes, boards, Larger());
  const float top = found == -INFINITY ? 0.f : round_to_grid(found);
  const float part = weigh(p, held, x, top, weight);
  const float total = reduce<C::kSpan>(part, held.lanes, boards, Sum());
  const bool odd = !(total > 0) || !(fabsf(top) <= kFastRange);
  return {total, top, odd};
}

template <class C, class X>
__device__ double weigh(const RowPass& p, Held<C> held, const X (&x)[C::kPer], double top,
                        double (&weight)[C::kPer]) {
  double total = 0;
#pragma unroll
  for (int j = 0; j < C::kPer; ++j) {
    weight[j] = exp2((double(x[j]) + p.g[held.column(j)] - top) * p.exact_rate);
    total += weight[j];
  }
  return total;
}

template <class C, class X>
__device__ RowSum sum_row(const RowPass& p, Held<C> held, const X (&x)[C::kPer], Boards& boards,
                          double (&weight)[C::kPer]) {
  double top = -INFINITY;
  bool bad = false;
#pragma unroll
  for (int j = 0; j < C::kPer; ++j) {
    bad |= !(x[j] < X(INFINITY));
    top = fmax(top, double(x[j]) + p.g[held.column(j)]);
  }
  top = reduce<C::kSpan>(bad ? double(INFINITY) : top, held.lanes, boards, Larger());
  bad = top == INFINITY;
  // a chunk may be forbidden altogether; a row that is has no finite sum in the end
  const double shift = bad ? double(NAN) : top == -INFINITY ? 0. : top;
  const double part = weigh(p, held, x, shift, weight);
  const double total = reduce<C::kSpan>(part, held.lanes, boards, Sum());
  return {total, shift * p.exact_rate, bad || !(total > 0)};
}

}  // namespace sinkhorn::cuda
