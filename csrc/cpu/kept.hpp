// Kept entries: of some rows the large entries, as they were at the g of one read.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "memory.hpp"

namespace sinkhorn {

struct Kernels;

// A kept row: its entries as float and then their columns as int32_t, or without columns all k
// entries. An entry is exp((logits + g - about the row maximum) / epsilon).
struct KeptRow {
  uint32_t begin, words;  // where it lies in the pool; 2 words an entry, or k
  float weight;           // a_i * n
  float curvature;        // weight / (sum_k e_k E_k)^2, of the scalings E of the last mass()
};

// Words for all blocks, handed out in chunks. Which block gets which chunk depends on the threads;
// how many are asked for does not, so neither does whether they suffice.
struct Pool {
  float* words;
  int64_t chunk, chunks;
  std::atomic<int64_t> asked{0};
};

// What one block of rows keeps.
struct KeptBlock {
  Pool* pool;
  KeptRow* row;
  int64_t room;  // for rows
  int64_t k;
  uint64_t threshold;  // rows are kept whose hash is below it
  float least;         // entries below this are left out
  int64_t rows = 0, words = 0;
  int64_t at = 0, end = 0;  // what is left of the chunk in hand
  bool fits = true;
};

class Kept {
 public:
  // Room for that many words of 4 bytes. Entries are kept down to exp(-reach) of the largest of
  // their row.
  Kept(int64_t k, int64_t words, double reach, const std::string& simd);

  // Forgets all, and prepares for the rows of a pass from `first` to before `last`, in blocks of
  // `block_rows`; a part `share` of them is to be kept.
  void start(int64_t first, int64_t last, int64_t block_rows, double share);
  KeptBlock& block(int64_t b) { return blocks_[size_t(b)]; }

  // Whether all fitted. If not, nothing is kept, and the numbers below are what was asked for.
  bool fits() const;
  int64_t rows() const;
  int64_t words() const;

  // With E the scalings of the columns, p_i = e_i E / <e_i, E> and w_i the weight of row i:
  // sum_i w_i p_i, sum_i w_i p_i^2, sum_i w_i (2 k + 1). In float32 but for the sums over rows.
  void mass(const double* scalings, double* out, int threads);
  // sum_i w_i p_i <p_i, v> (k), at the scalings of the last mass().
  void second_moment(const double* scalings, const double* v, double* out, int threads);

 private:
  template <class Work>
  void each_block(int threads, int64_t width, double* out, Work work);

  int64_t k_, capacity_, reserved_rows_ = 0;
  float least_;
  const Kernels& kernels_;
  Pool pool_;
  Buffer<float> words_;
  Buffer<KeptRow> rows_;
  std::vector<KeptBlock> blocks_;
};

}  // namespace sinkhorn
