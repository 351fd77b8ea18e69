// The kernels for x86-64 with AVX-512 (F, BW, DQ, VL).
#include "block.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#define SINKHORN_AVX512 1
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#include "kernels.inl"

const sinkhorn::Kernels& sinkhorn::avx512_kernels() { return kKernels; }
#endif
