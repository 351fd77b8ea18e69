// The kernels for x86-64 with AVX2, FMA and F16C.
#include "block.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#define SINKHORN_AVX2 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
// clang-format off: after the target is set
#include "widen.hpp"
#include "kernels.inl"
// clang-format on
#if defined(__clang__)
#pragma clang attribute pop
#endif

const sinkhorn::Kernels& sinkhorn::avx2_kernels() { return kKernels; }
#endif
