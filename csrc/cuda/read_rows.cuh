// One read of the rows: every row lives in the registers of one group of threads, which owns the
// same columns of every row and sums them there. A long row is cut into chunks; see Mode.
#pragma once

#include "rows.cuh"

namespace sinkhorn::cuda {

// Entries this close to the largest (log2) may be the largest in float64.
constexpr float kNearTop = 1.f / 256;
constexpr int kRun = 64;             // rows of a group after which float64 takes over its sums
constexpr float kSmallest = 1e-37f;  // kept entries below this would be flushed anyhow

// A label, as it goes from lane to lane: the larger value, or the lower column of equal ones.
struct Best {
  double value;
  int64_t column;
};

// The float64 maximum among the entries that float32 cannot tell apart.
template <class C, class T, class E>
__device__ Best decide(const RowPass& p, const T* row, Held<C> held, Boards& boards,
                       const E (&weight)[C::kPer]) {
  const E near = E(0.9972960908) /* 2^-kNearTop */;
  unsigned candidates = 0;
#pragma unroll
  for (int j = 0; j < C::kPer; ++j) candidates |= unsigned(weight[j] >= near) << j;
  Best best{-INFINITY, 0};
  for (; candidates; candidates &= candidates - 1) {
    const int64_t c = held.column(__ffs(int(candidates)) - 1);
    const double value = widen(row[c * p.col_stride]) + p.g[c];
    if (value > best.value || (value == best.value && c < best.column)) best = {value, c};
  }
  const double top = reduce<C::kSpan>(best.value, held.lanes, boards, Larger());
  // the lowest column among the lanes that have it
  const int64_t minus = best.value == top ? -best.column : INT64_MIN;
  return {top, -reduce<C::kSpan>(minus, held.lanes, boards, Larger())};
}

// Rows that float32 cannot do make the float64 kernels behind this one start; these tell which row
// it is that nothing can be done with.
__device__ inline void report(const RowPass& p, int64_t i) {
  if (p.odd)
    atomicOr(p.odd, 1);
  else
    atomicMin(p.bad_row, static_cast<long long>(i));
}

// Which of a thread's entries are large enough to be kept beside the largest of their row, as bits.
template <class C, class E>
__device__ unsigned matter(const KeptRows& to, float top, const E (&weight)[C::kPer]) {
  const float least = fmaxf(to.least * top, kSmallest);
  unsigned bits = 0;
#pragma unroll
  for (int j = 0; j < C::kPer; ++j) bits |= unsigned(float(weight[j]) >= least) << j;
  return bits;
}

// The largest weight of a group.
template <class C, class E>
__device__ float largest(Held<C> held, Boards& boards, const E (&weight)[C::kPer]) {
  float top = 0;
#pragma unroll
  for (int e = 0; e < C::kPer; ++e) top = fmaxf(top, float(weight[e]));
  return reduce<C::kSpan>(top, held.lanes, boards, Larger());
}

// Which piece of a row the block holds, or begins with.
__device__ inline int64_t piece(const KeptRows& to, int64_t j) {
  return j * to.pieces + blockIdx.y * to.step;
}

template <class C, class E>
__device__ void count_row(const KeptRows& to, int64_t j, bool writes, float top, Held<C> held,
                          Boards& boards, const E (&weight)[C::kPer]) {
  const int count = reduce<C::kSpan>(__popc(matter<C>(to, top, weight)), held.lanes, boards, Sum());
  if (writes) to.count[piece(to, j)] = count;
}

// Writes as many entries of a row as were counted: probabilities, their columns and their row.
template <class C, class E>
__device__ void fill_row(const RowPass& p, int64_t j, bool active, int member, Held<C> held,
                         Boards& boards, const E (&weight)[C::kPer]) {
  const KeptRows& to = p.kept;
  const unsigned bits = matter<C>(to, to.top[j], weight);
  int total;
  const int64_t at_row = piece(to, j);
  const int64_t end = active ? to.end[at_row] : 0, begin = active ? to.begin[at_row] : 0;
  int64_t at = begin + scan<C::kSpan>(__popc(bits), held.lanes, boards, &total);
#pragma unroll
  for (int e = 0; e < C::kPer; ++e)
    if ((bits >> e & 1) && at < end) {
      to.entry[at] = float(weight[e]);
      to.column[at] = int32_t(held.column(e));
      to.row[at++] = int32_t(j);
    }
  // an entry on the very edge may have been counted, with another rounding, and not be found again
  for (at = begin + total + member; at < end; at += held.lanes) {
    to.entry[at] = 0;
    to.column[at] = 0;
    to.row[at] = int32_t(j);
  }
}

// A block's float64 sums in shared memory, and the board on which its groups, if there are several,
// put what they have.
template <class C, class E>
struct BlockSums {
  static constexpr size_t bytes(int lanes, int threads) {
    const int entries = threads > lanes ? threads * C::kPer : 0;
    return size_t(lanes) * C::kPer * sizeof(double) + size_t(entries) * sizeof(E);
  }

  double* total;  // of each column of the chunk
  Held<C> held;
  int groups, mine;  // mine: where the thread's columns begin in a chunk

  __device__ BlockSums(double* memory, Held<C> held)
      : total(memory), held(held), groups(int(blockDim.x) / held.lanes) {
    const int member = int(threadIdx.x) % held.lanes;
    mine = C::first_column(member / C::kSpan, member % C::kSpan);
    for (int c = int(threadIdx.x); c < held.lanes * C::kPer; c += int(blockDim.x)) total[c] = 0;
    __syncthreads();
  }

  // Adds the sums of all threads, group after group; they start again from zero.
  __device__ void take(E (&sum)[C::kPer]) {
    const int width = held.lanes * C::kPer;
    E* const board = reinterpret_cast<E*>(total + width);
#pragma unroll
    for (int j = 0; j < C::kPer; ++j) {
      if (groups > 1)
        board[int(threadIdx.x) / held.lanes * width + mine + C::column(j)] = sum[j];
      else
        total[mine + C::column(j)] += double(sum[j]);
      sum[j] = 0;
    }
    if (groups == 1) return;
    __syncthreads();
#pragma unroll 1
    for (int c = int(threadIdx.x); c < width; c += int(blockDim.x)) {
      double all = 0;
#pragma unroll 4
      for (int q = 0; q < groups; ++q) all += double(board[q * width + c]);
      total[c] += all;
    }
    __syncthreads();
  }
};

// As few registers as leave no spills: warps that wait for memory are what hides its latency. 64
// let half of a multiprocessor's warps run, 96 nearly a third, 128 a quarter: for float64, and the
// one or two reads of a solve that make labels or keep entries.
constexpr int registers(bool rare, int per) { return rare ? 128 : per <= 8 ? 64 : 96; }

// A block takes rows_per_block neighbours of the sample, its groups one row each at a time.
//
// kFull: labels, f or counts of entries may be asked for, of chunks the counts only. E: the type
// of the exponentials.
template <class T, class E, class C, Mode kMode, bool kFull>
__global__ void __maxnreg__((registers(kFull || kMode == Mode::fill || sizeof(E) == 8, C::kPer)))
    read_rows_kernel(const __grid_constant__ RowPass p) {
  if (p.gate && *p.gate == 0) return;
  constexpr bool kSums = kMode == Mode::whole || kMode == Mode::apply;
  DYNAMIC_SHARED(double, shared);
  Boards boards{shared};
  const int lanes = p.tile.lanes, groups = int(blockDim.x) / lanes;
  const int group = int(threadIdx.x) / lanes, member = int(threadIdx.x) % lanes;
  const bool leader = member == 0;
  const int stretch = (int(blockIdx.y) * lanes + member) / C::kSpan;
  const Held<C> held{C::first_column(stretch, member % C::kSpan), lanes};
  const int64_t first = blockIdx.x * p.rows_per_block;
  const int rows = int(p.count - first < p.rows_per_block ? p.count - first : p.rows_per_block);
  BlockSums<C, E> sums(shared + Boards::kBytes / sizeof(double), held);
  double row_weights = 0;
  E sum[C::kPer] = {};

  int turns = 0;
  for (int turn = 0; turn < rows; turn += groups) {
    const bool active = turn + group < rows;  // others keep the barriers company
    const int64_t j = first + turn + (active ? group : 0);
    if constexpr (kMode == Mode::fill) {
      const int64_t at = piece(p.kept, j);
      bool wanted = p.kept.begin[at] < p.kept.end[at];
      if (lanes <= kWarp) wanted = __any_sync(kAllLanes, wanted);
      if (!wanted) continue;
    }
    const int64_t i = sampled_row(j, p.stride);
    const T* const row = static_cast<const T*>(p.x) + i * p.row_stride;
    const E row_weight = active ? (p.a ? E(p.a[i] * p.n) : E(1)) : E(0);
    decltype(widen(T())) x[C::kPer];
    E weight[C::kPer], scale;
    load_row(row, p.col_stride, int(p.k), held, x);

    if constexpr (kMode == Mode::apply || kMode == Mode::fill) {
      const double log_sum = p.log_sum[j];
      if constexpr (sizeof(E) == sizeof(float)) {
        const float top = round_to_grid(float(log_sum));
        weigh(p, held, x, top, weight);
        scale = exp2_approx(float(top - log_sum));
      } else {
        weigh(p, held, x, log_sum / p.exact_rate, weight);
        scale = 1;
      }
#pragma unroll
      for (int e = 0; e < C::kPer; ++e) weight[e] *= scale;
      scale = row_weight;
      if constexpr (kFull)
        count_row(p.kept, j, active && leader, p.kept.top[j], held, boards, weight);
      if constexpr (kMode == Mode::fill) fill_row(p, j, active, member, held, boards, weight);
    } else {
      const RowSum found = sum_row(p, held, x, boards, weight);
      scale = row_weight / E(found.total);
      if constexpr (kMode == Mode::stats) {
        const int64_t at = j * gridDim.y + blockIdx.y;
        if (active && leader) p.log_sum[at] = found.offset + log2(found.total);
        if (p.odd && found.bad && found.total != 0) report(p, i);
        if constexpr (kFull) {
          const float top = largest(held, boards, weight);
          if (active && leader) p.kept.chunk_top[at] = found.offset + log2(double(top));
        }
        if (p.best) {
          const Best best = decide(p, row, held, boards, weight);
          if (active && leader) p.best[at] = best.value, p.best_column[at] = best.column;
        }
      } else if (found.bad && leader) {
        report(p, i);
      }
      if constexpr (kFull && kMode == Mode::whole) {
        if (p.kept.count) {
          const float top = largest(held, boards, weight);
          count_row(p.kept, j, active && leader, top, held, boards, weight);
          if (active && leader) {
            p.kept.top[j] = top / float(found.total);
            p.log_sum[j] = found.offset + log2(found.total);
          }
        }
        if (p.labels) {
          const Best best = decide(p, row, held, boards, weight);
          if (active && leader) p.labels[i] = found.bad ? -1 : best.column;
        }
        if (p.f && active && leader) {
          const double log_a = p.a ? log(p.a[i]) : -log(p.n);
          p.f[i] = p.epsilon * log_a - (log2(found.total) + found.offset) / p.exact_rate;
        }
      }
    }
    if constexpr (kSums) {
#pragma unroll
      for (int e = 0; e < C::kPer; ++e) sum[e] += weight[e] * scale;
      row_weights += row_weight;
      if (++turns == kRun) {
        sums.take(sum);
        turns = 0;
      }
    }
    keep_loads_here();
  }
  if constexpr (kSums) {
    sums.take(sum);
    __syncthreads();  // nobody looks at the boards any more
    double* const weights = boards.memory;
    if (leader) weights[group] = row_weights;
    __syncthreads();
    const int chunk = int(blockIdx.y) * lanes * C::kPer;
    double* const slab = p.sums + blockIdx.x * (p.k + 1) + chunk;
    for (int c = int(threadIdx.x); c < lanes * C::kPer && chunk + c < p.k; c += int(blockDim.x))
      slab[c] = (kMode == Mode::apply ? slab[c] : 0.) + sums.total[c];
    if (blockIdx.y > 0 || threadIdx.x > 0) return;
    double total = kMode == Mode::apply ? slab[p.k] : 0.;
    for (int q = 0; q < groups; ++q) total += weights[q];
    slab[p.k] = total;
  }
}

}  // namespace sinkhorn::cuda
