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

// The rows of a pass: one of each `stride` neighbours, spread by a fixed hash; of these, the ones
// from `first` to before `last`.
struct Sample {
  int64_t stride, first, last;

  int64_t row(int64_t j) const {
    if (stride == 1) return j;
    uint64_t h = uint64_t(j) * 0x9E3779B97F4A7C15u;  // Fibonacci hashing
    return j * stride + int64_t((h >> 32) % uint64_t(stride));
  }
};

class Sketch;

// What else a pass leaves behind; every pointer may be null.
struct Extras {
  double* f;        // n row potentials  (stride 1 only)
  int64_t* labels;  // n                 (stride 1 only)
  Sketch* sketch;   // filled with rows and their entries that matter
};

// The first row (in row order) that has no finite maximum, or -1.
using BadRow = int64_t;

// A pass over `count` rows is cut into blocks of nearly equal size, of so many rows each.
int64_t rows_per_block(int64_t count);

// One read of sampled rows, of whole blocks of `block_rows` or of a part of one.  The matrix may be
// spread over processes: row `origin` is the one at x.data, at.a, extras.f and extras.labels.
// out: their column masses times n and their weight, k + 1 coarse parts (see exact.hpp) and as many
// fine ones.  For Kind::log, for each block the k maxima of the logarithms of these masses, k sums
// relative to exp(maximum), and the weight.  The same bits for any `threads`.
BadRow run_pass(Rows x, Point at, Kind kind, const Sample& sample, int64_t block_rows,
                int64_t origin, const std::string& simd, int threads, double* out, Extras extras);

// Instruction sets this build has and this processor runs, best first; "plain" is always there.
std::vector<std::string> simd_levels();

int max_threads();

}  // namespace sinkhorn
