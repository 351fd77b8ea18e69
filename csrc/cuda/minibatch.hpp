// The step of SwAV and DINOv2 on a GPU, as three kernels over batches of rows of scores.
//
// Q is made anew of the scores wherever it is needed; sinkhorn_ot/backends/minibatch.py has the
// formulas. "Numbers" are float64 where the scores are, else float32.
#pragma once

#include "passes.hpp"

namespace sinkhorn::cuda {

struct Minibatch {
  const void* x;  // (batches, n, k)
  int64_t batches, n, k, batch_stride, row_stride, col_stride;
  double rate;             // that turns a score into an exponent of 2
  const int64_t* n_valid;  // (batches), how many of the first rows count, or null
  int64_t rows_per_block, blocks;
  const double* masses;  // (batches, k), or null: of the first pass
  void* tops;            // (batches, n), numbers
  void* scales;          // (batches, n), numbers: v
  const void* largest;   // (batches), numbers: of the first pass, or null
  void* sums;            // (batches, blocks, k), numbers, or null
  void* out;             // (batches, n, k), or null
  int64_t out_batch_stride, out_row_stride, out_col_stride;
};

// Without masses the largest score of each row, and -inf where it does not count; with them v.
void minibatch_rows(const Minibatch& of, Dtype dtype, void* stream);

// Sums of the columns of diag(v) Q for each block of rows, or the codes into `out`.
void minibatch_columns(const Minibatch& of, Dtype dtype, void* stream);

// Adds the sums of the blocks, in float64.
void minibatch_finish(const void* sums, Dtype dtype, int64_t batches, int64_t blocks, int64_t k,
                      double* masses, void* stream);

}  // namespace sinkhorn::cuda
