// What one thread does to one block of rows, and the table of such functions of one SIMD level.
#pragma once

#include "passes.hpp"

namespace sinkhorn {

// Scratch of one thread, k entries each, 64-byte aligned.
struct Scratch {
  double* shifted;  // logits + g of the current row
  void* weights;    // exp(.) of the current row, float or double
  void* partial;    // column sums of a short run of rows, float or double
};

struct Block {
  int64_t first, last;  // rows
  double* sum;          // k column sums of this block (Kind::log: relative to exp(top))
  double* top;          // k column maxima, Kind::log only
  double* f;            // n, or null
  int64_t* labels;      // n, or null
};

using BlockFn = BadRow (*)(const Rows&, const Point&, const Scratch&, const Block&);

struct Kernels {
  BlockFn pass[3][4];  // [Kind][Dtype]
};

const Kernels& plain_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace sinkhorn
