// The kernels for x86-64 with AVX-512 (F, BW, DQ, VL).
#include "block.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#define SINKHORN_AVX512 1
#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
// clang-format off: after the target is set
#include "widen.hpp"
#include "kernels.inl"
// clang-format on
#if defined(__clang__)
#pragma clang attribute pop
#endif

const sinkhorn::Kernels& sinkhorn::avx512_kernels() { return kKernels; }
#endif
