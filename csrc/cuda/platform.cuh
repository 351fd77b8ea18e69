// What the kernels take from CUDA; a build for the host finds the same names in cuda_host.hpp.
#pragma once

#include <cstdint>

#ifdef SINKHORN_HOST
#include <cmath>
#include <string>

#include "cuda_host.hpp"

#define __maxnreg__(...)
#define __grid_constant__

namespace sinkhorn::cuda {

template <class Kernel>
std::string missing_device(Kernel) {
  return "";
}

template <class Kernel>
void allow_shared(Kernel, size_t) {}

}  // namespace sinkhorn::cuda
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#define DYNAMIC_SHARED(type, name)                         \
  extern __shared__ __align__(16) unsigned char name##_[]; \
  type* const name = reinterpret_cast<type*>(name##_)

namespace sinkhorn::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": CUDA error " + std::to_string(int(error)) +
                             " (" + cudaGetErrorString(error) + ")");
}

// More than 48 KB of shared memory must be asked for.
template <class Kernel>
void allow_shared(Kernel kernel, size_t bytes) {
  if (bytes > size_t(48) << 10)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
          "shared memory");
}

// Queues a kernel on a stream; returns at once.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... args) {
  [&](std::remove_const_t<P>... values) {
    void* addresses[] = {&values...};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, addresses,
                           shared_bytes, stream),
          "launch");
  }(args...);
}

template <class Kernel>
std::string missing_device(Kernel kernel) {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) {
    cudaFuncAttributes attributes;  // fails if the kernels were built for other GPUs
    const cudaError_t built =
        cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
    return built == cudaSuccess ? "" : cudaGetErrorString(built);
  }
  cudaDriverGetVersion(&driver);
  if (driver == 0) return "no NVIDIA driver is installed";
  return error == cudaSuccess ? "the NVIDIA driver sees no GPU" : cudaGetErrorString(error);
}

}  // namespace sinkhorn::cuda
#endif

namespace sinkhorn::cuda {

// 2^x in float: relative error about 2e-7, 0 where it would be denormal.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef SINKHORN_HOST
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.f : y;  // NaN stays
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

}  // namespace sinkhorn::cuda
