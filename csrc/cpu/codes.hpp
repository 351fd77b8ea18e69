// The step of SwAV and DINOv2 on minibatches (sinkhorn_ot/entropic/codes.py), as three passes over
// the rows: `codes_first`, n_iter - 1 times `codes_next`, `codes_last`.
//
// The iterates are diag(v) Q diag(u), with Q_ik = exp((score_ik - top_i) / epsilon) and top_i the
// largest score of the row. Nothing of that is kept but top, and the K masses of the columns of
// diag(v) Q, of which u is the inverse: what a pass needs of Q it makes of the scores anew, which
// takes less time than to write and read it.
#pragma once

#include "passes.hpp"

namespace sinkhorn {

// Batches of n rows that lie alike.
struct Minibatch {
  Rows rows;  // of the first batch
  int64_t batches, batch_stride;
  const int64_t* n_valid;  // how many of the first rows of each batch count; null: all
  double epsilon;
};

// A column's mass is taken to be K times this at least: it may be 0 in float32, and then u is so
// small that the sum of K of them in a row does not overflow.
constexpr double kTiny = 1e-37;

// The masses (batches, k) with v_i = exp((top_i - largest) / epsilon), the tops (batches, n) and
// the largest score of each batch.
void codes_first(const Minibatch& of, double* tops, double* masses, double* largest,
                 const std::string& simd, int threads);

// From masses to the next ones: v_i is the inverse of the sum of row i of Q diag(u).
void codes_next(const Minibatch& of, double* tops, double* masses, const std::string& simd,
                int threads);

// The codes diag(v) Q diag(u), and 0 in the rows that do not count. `out` may be the scores.
void codes_last(const Minibatch& of, double* tops, double* masses, const Minibatch& out,
                const std::string& simd, int threads);

}  // namespace sinkhorn
