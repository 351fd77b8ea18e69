#include "dispatch.cuh"

namespace sinkhorn::cuda {

void read_rows_f32(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream) {
  read_rows_of<float>(p, kind, mode, grid, stream);
}

}  // namespace sinkhorn::cuda
