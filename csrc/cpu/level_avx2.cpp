// The kernels for x86-64 with AVX2, FMA and F16C.
#include "block.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#define SINKHORN_AVX2 1
#pragma GCC target("avx2,fma,f16c")
#include "kernels.inl"

const sinkhorn::Kernels& sinkhorn::avx2_kernels() { return kKernels; }
#endif
