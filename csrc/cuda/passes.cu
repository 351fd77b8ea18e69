#include "columns.cuh"
#include "dispatch.cuh"
#include "passes.hpp"
#include "segments.cuh"

namespace sinkhorn::cuda {

namespace {

unsigned blocks_for(int64_t work, int64_t each) { return unsigned((work + each - 1) / each); }

constexpr size_t kSliceBytes = kColumnThreads * sizeof(double);

}  // namespace

std::string why_not() { return missing_device(finish_kernel); }

Tile tile_of(int64_t k, Kind kind) {
  auto tile = [k](int lanes, int per) {
    const int64_t chunk = int64_t(lanes) * per;
    return Tile{lanes, per, lanes > kWarp ? lanes : kBlockThreads, (k + chunk - 1) / chunk};
  };
  if (k <= kTinyLanes * 8) return tile(kTinyLanes, 8);
  if (k <= kHalfWarp * 8) return tile(kHalfWarp, 8);
  const int per = kind == Kind::exact || k <= kWarp * 8 ? 8 : kLargePer;
  int lanes = kWarp;
  while (int64_t(lanes) * per < k && lanes < kMostLanes) lanes *= 2;
  return tile(int64_t(lanes) * per < k ? kChunkLanes : lanes, per);
}

void prepare(const double* g, int64_t k, int64_t padded, double epsilon, double* padded_g,
             float* high, float* low, void* stream) {
  launch(prepare_kernel, dim3(blocks_for(padded, 256)), dim3(256), 0,
         static_cast<cudaStream_t>(stream), g, k, padded, epsilon, padded_g, high, low);
}

void read_rows(RowPass p, Dtype dtype, Kind kind, Mode mode, int64_t blocks, void* stream) {
  p.exact_rate = 1.4426950408889634 / p.epsilon;
  p.rate = float(p.exact_rate);
  // prepare() used the rounded rate: logits and g must be scaled alike
  if (kind == Kind::quick && dtype != Dtype::f64) p.exact_rate = p.rate;
  const dim3 grid(unsigned(blocks), unsigned(p.tile.chunks));
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case Dtype::f64:
      return read_rows_f64(p, kind, mode, grid, queue);
    case Dtype::f32:
      return read_rows_f32(p, kind, mode, grid, queue);
    case Dtype::f16:
      return read_rows_f16(p, kind, mode, grid, queue);
    case Dtype::bf16:
      return read_rows_bf16(p, kind, mode, grid, queue);
  }
}

void finish(Slabs quick, Slabs exact, const int* odd, int64_t k, double n, const double* g,
            double* out, int* gate, void* stream) {
  launch(finish_kernel, dim3(blocks_for(k + 1, kColumns)), dim3(kColumnThreads), kSliceBytes,
         static_cast<cudaStream_t>(stream), quick, exact, odd, k, n, g, out, gate);
}

void read_log(const RowPass& pass, Dtype dtype, int64_t blocks, double* tops, double* totals,
              void* stream) {
  RowPass p = pass;
  p.exact_rate = 1.4426950408889634 / p.epsilon;
  auto run = [&](auto kernel) {
    launch(kernel, dim3(unsigned(blocks), blocks_for(p.k, kColumns)), dim3(kColumnThreads),
           kSliceBytes, static_cast<cudaStream_t>(stream), p, tops, totals);
  };
  switch (dtype) {
    case Dtype::f64:
      return run(read_log_kernel<double>);
    case Dtype::f32:
      return run(read_log_kernel<float>);
    case Dtype::f16:
      return run(read_log_kernel<__half>);
    case Dtype::bf16:
      return run(read_log_kernel<__nv_bfloat16>);
  }
}

void finish_log(const double* tops, const double* totals, int64_t slabs, int64_t k, double n,
                const int* gate, double* out, void* stream) {
  launch(finish_log_kernel, dim3(blocks_for(k, 256)), dim3(256), 0,
         static_cast<cudaStream_t>(stream), tops, totals, slabs, k, n, gate, out);
}

void add_segments(const int64_t* begin, const int64_t* end, int64_t segments, const float* value,
                  const int32_t* index, const double* p, const double* q, double* first,
                  double* second, int threads, void* stream) {
  launch(add_segments_kernel, dim3(blocks_for(segments, kSegmentThreads / threads)),
         dim3(kSegmentThreads), size_t(Boards::kBytes), static_cast<cudaStream_t>(stream), begin,
         end, segments, value, index, p, q, first, second, threads);
}

}  // namespace sinkhorn::cuda
