#include "dispatch.cuh"

namespace sinkhorn::cuda {

void read_rows_bf16(const RowPass& p, Kind kind, Mode mode, dim3 grid, cudaStream_t stream) {
  read_rows_of<__nv_bfloat16>(p, kind, mode, grid, stream);
}

}  // namespace sinkhorn::cuda
