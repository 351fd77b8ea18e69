// The passes over rows that a solve needs: raw pointers, sizes and strides only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sinkhorn {

enum class Dtype { f64, f32, f16, bf16 };

// Some rows of an N x K matrix as they lie in memory; strides count elements and may be negative.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t n, k;  // of the matrix
  int64_t row_stride, col_stride;
};

// What is fixed during one pass.  `a` may be null: every row then has mass 1/n.
struct Point {
  const double* g;
  const double* a;
  double epsilon;
};

// quick: float32 exponentials of (nearly) exact exponents.
// exact: float64 throughout.  log: float64 in the log domain, for masses that underflow.
enum class Kind { quick, exact, log };

// Fibonacci hashing: the upper bits of consecutive numbers are spread evenly and have no period.
inline uint64_t hash_of(int64_t j) { return uint64_t(j) * 0x9E3779B97F4A7C15u; }

// Rows whose column masses are summed in the precision of their exponentials, before float64 takes
// over. Runs begin at multiples of this, wherever rows are shared out: only the sum of a run that
// is cut rounds otherwise.
constexpr int64_t kRun = 64;

// The rows of a pass: one of each `stride` neighbours, spread by a hash; of these, the ones from
// `first` to before `last`. The matrix may be spread over processes: rows are counted over all of
// them, and `origin` is the one that lies first here.
struct Sample {
  int64_t stride, first, last, origin;

  int64_t row(int64_t j) const {
    if (stride == 1) return j;
    return j * stride + int64_t((hash_of(j) >> 32) % uint64_t(stride));
  }
};

class Kept;

// What else a pass leaves behind; every pointer may be null.
struct Extras {
  double* f;        // row potentials  (stride 1 only)
  int64_t* labels;  //                 (stride 1 only)
  Kept* kept;       // filled with large entries of a part `share` of the rows
  double share;
};

// The first row (in row order) that has no finite maximum, or -1.
using BadRow = int64_t;

// A pass over `count` rows is cut into blocks of so many rows, multiples of kRun.
int64_t rows_per_block(int64_t count);

// How many blocks the rows from `first` to before `last` lie in.
inline int64_t blocks_of(int64_t first, int64_t last, int64_t block_rows) {
  return first < last ? (last + block_rows - 1) / block_rows - first / block_rows : 0;
}

// One read of the rows that a sample has here. out: the logarithms of the column masses, for a
// total of 1, and the weight of the rows, k + 1 numbers in all. The same bits for any `threads`.
BadRow run_pass(Rows x, Point at, Kind kind, const Sample& sample, int64_t block_rows,
                const std::string& simd, int threads, double* out, Extras extras);

// Instruction sets this build has and this processor runs, best first; "plain" is always there.
std::vector<std::string> simd_levels();

int max_threads();

}  // namespace sinkhorn
