// A small stand-in for the matrix: of some rows, the entries that matter, as they are at one g.
#pragma once

#include <string>
#include <vector>

#include "memory.hpp"

namespace sinkhorn {

// Where one block of rows writes its part; no two blocks share one.
//
// A row takes the fewest words: the k entries (dense), or those that matter and then their columns
// (sparse, fewer than k words).  An entry is exp((logits + g - about the row maximum) / epsilon).
struct SketchBlock {
  float* words;             // entries as float, columns as uint32_t in the same memory
  const float *hold, *cut;  // k, padded: exp(-move), exp(-reach - move); see Sketch::expect
  float least_cut;
  uint32_t* row_end;    // per row: the end of its words in this block
  float* weight;        // per row: a_i * n of the rows that it stands for
  float* curvature;     // per row: weight / (sum_k e_ik E_k)^2, at the last mass()
  int64_t k, capacity;  // columns of the matrix; words that fit, with kPad to spare
  int64_t planned;      // rows that will be offered
  int64_t used = 0, rows = 0, seen = 0;
  float pending = 0;  // weight of the rows passed over since the last kept one
};

struct Kernels;

// Rows of sparse weights e; with scalings E of the columns the plan is a_i e_ik E_k / sum_k (e E).
class Sketch {
 public:
  // Room for that many words of 4 bytes, over all rows.
  Sketch(int64_t k, int64_t words, const std::string& simd);

  // Entries matter when they may come within `reach` (in epsilon) of the largest of their row while
  // each g_j moves by at most move[j].
  void expect(const double* move, double reach);

  // Forgets what it holds.  Of a pass in `blocks` blocks of `rows` rows each, which share the
  // words, makes room for those from `first` to before `last`.
  void start(int64_t blocks, int64_t rows, int64_t first, int64_t last);
  SketchBlock& block(int64_t b) { return blocks_[size_t(b - first_)]; }

  int64_t words() const;
  int64_t rows() const;

  // With p_i the probabilities of row i at the scalings E, and w_i its weight:
  // sum_i w_i p_i, sum_i w_i p_i^2, sum_i w_i  (2 k + 1; here and below coarse parts of these sums,
  // and then fine ones; see exact.hpp).  In float32: masses are good to about 1e-7.
  void mass(const double* scalings, double weight, double* out, int threads);
  // sum_i w_i p_i <p_i, v> at the scalings of the last mass(), in float32.
  void second_moment(const double* scalings, const double* v, double weight, double* out,
                     int threads);

 private:
  template <class Work>
  void each_block(int threads, int64_t width, const double* factor, double bound, double* out,
                  Work work);

  int64_t k_, capacity_, first_ = 0, reserved_words_ = 0, reserved_rows_ = 0;
  bool started_ = false;
  const Kernels& kernels_;
  float least_cut_ = 0;
  Buffer<float> hold_, cut_, words_, weights_, curvatures_;
  Buffer<uint32_t> row_ends_;
  std::vector<SketchBlock> blocks_;
};

}  // namespace sinkhorn
