// A small stand-in for the matrix: of some rows, the entries that matter, as they are at one g.
#pragma once

#include <vector>

#include "memory.hpp"

namespace sinkhorn {

// Where one block of rows writes its part; no two blocks share one.
struct SketchBlock {
  uint32_t* column;   // of each entry
  float* entry;       // exp((logits + g - row maximum) / epsilon)
  uint32_t* row_end;  // per row: the end of its entries in this block
  float* weight;      // per row: a_i * n of the rows that it stands for
  float* scale;       // per row: weight / sum of its plan entries, at the last mass()
  int64_t capacity, planned;  // entries, rows that will be offered
  int64_t entries = 0, rows = 0, seen = 0;
  float pending = 0;  // weight of the rows passed over since the last kept one
};

// Rows of sparse weights e; with scalings E of the columns the plan is a_i e_ik E_k / sum_k (e E).
class Sketch {
 public:
  // capacity: entries, over all rows.
  Sketch(int64_t k, int64_t capacity) : k_(k), capacity_(capacity) {}

  // Forgets what it holds and makes room for `blocks` blocks of `rows` rows each.
  void start(int64_t blocks, int64_t rows);
  SketchBlock& block(int64_t b) { return blocks_[size_t(b)]; }

  int64_t entries() const;
  int64_t rows() const;

  // Column masses m and the sums s_k = sum_i a_i P_ik^2 / a_i^2 of the rows' plans at the scalings
  // E (k each, normalised to one mass); returns sum_i a_i log(sum_k e_ik E_k).
  double mass(const float* E, double* m, double* s, int threads);
  // out = E * sum_i a_i p_i <p_i, v>, with p_i the row's probabilities at the last mass(E).
  void second_moment(const float* E, const double* v, double* out, int threads);

 private:
  template <class Row>
  void each_group(int threads, int64_t width, Row row);

  int64_t k_, capacity_, reserved_rows_ = 0;
  double weight_ = 0;  // of all rows
  Buffer<uint32_t> columns_, row_ends_;
  Buffer<float> entries_, weights_, scales_, y_;
  std::vector<SketchBlock> blocks_;
  std::vector<double> sums_;
};

}  // namespace sinkhorn
