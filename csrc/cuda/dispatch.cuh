// From what a read asks for to the kernel that does it; one source file per dtype includes this, so
// that they compile side by side.
#pragma once

#include <stdexcept>

#include "read_rows.cuh"

namespace sinkhorn::cuda {

template <class T, class E, class C>
void queue_read(const RowPass& p, Mode mode, dim3 grid, cudaStream_t stream) {
  const bool full = p.labels || p.f || p.kept.count;
  auto run = [&](auto kernel) {
    const size_t shared = Boards::kBytes + BlockSums<C, E>::bytes(p.tile.lanes, p.tile.threads);
    allow_shared(kernel, shared);
    launch(kernel, grid, dim3(unsigned(p.tile.threads)), shared, stream, p);
  };
  if (mode == Mode::whole && full) return run(read_rows_kernel<T, E, C, Mode::whole, true>);
  if (mode == Mode::whole) return run(read_rows_kernel<T, E, C, Mode::whole, false>);
  if (mode == Mode::fill) return run(read_rows_kernel<T, E, C, Mode::fill, false>);
  if constexpr (C::kSpan == kWarp && C::kPer == (sizeof(E) == 8 ? kExactPer : kLargePer)) {
    const bool stats = mode == Mode::stats;
    if (p.kept.count)
      return stats ? run(read_rows_kernel<T, E, C, Mode::stats, true>)
                   : run(read_rows_kernel<T, E, C, Mode::apply, true>);
    return stats ? run(read_rows_kernel<T, E, C, Mode::stats, false>)
                 : run(read_rows_kernel<T, E, C, Mode::apply, false>);
  }
  throw std::logic_error("short rows are not read in chunks");
}

template <class T, class E, int kVector>
void cut_rows(const RowPass& p, Mode mode, dim3 grid, cudaStream_t stream) {
  const int lanes = p.tile.lanes, per = p.tile.per;
  if (lanes == kTinyLanes)
    return queue_read<T, E, Cut<kTinyLanes, 8, kVector>>(p, mode, grid, stream);
  if (lanes == kHalfWarp)
    return queue_read<T, E, Cut<kHalfWarp, 8, kVector>>(p, mode, grid, stream);
  if (per == 8) return queue_read<T, E, Cut<kWarp, 8, kVector>>(p, mode, grid, stream);
  if constexpr (sizeof(E) == sizeof(float))
    return queue_read<T, E, Cut<kWarp, kLargePer, kVector>>(p, mode, grid, stream);
}

template <class T>
void read_rows_of(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream) {
  constexpr int kVector = 16 / sizeof(T);
  if constexpr (sizeof(T) == sizeof(double)) {
    p.vectors ? cut_rows<T, double, kVector>(p, mode, grid, stream)
              : cut_rows<T, double, 1>(p, mode, grid, stream);
  } else if (kind == Kind::exact) {
    cut_rows<T, double, 1>(p, mode, grid, stream);  // rare, and not bound by memory
  } else {
    p.vectors ? cut_rows<T, float, kVector>(p, mode, grid, stream)
              : cut_rows<T, float, 1>(p, mode, grid, stream);
  }
}

void read_rows_f64(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream);
void read_rows_f32(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream);
void read_rows_f16(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream);
void read_rows_bf16(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream);

}  // namespace sinkhorn::cuda
