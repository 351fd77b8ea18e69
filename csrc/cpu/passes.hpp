// The passes over rows that a Sinkhorn solve needs: raw pointers, sizes and strides only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sinkhorn {

enum class Dtype { f64, f32, f16, bf16 };

// An N x K matrix as it lies in memory; strides count elements and may be negative.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t n, k;
  int64_t row_stride, col_stride;
};

// What is fixed during one pass.  `a` may be null: every row then has mass 1/n.
struct Point {
  const double* g;
  const double* a;
  double epsilon;
};

// mass: float32 exponentials, float64 everywhere else.  exact: float64 throughout.
// log_mass: float64 in the log domain, for columns whose mass underflows.
enum class Kind { quick, exact, log };

// The first row (in row order) that has no finite maximum, or -1.
using BadRow = int64_t;

// One read of the matrix.  out (k): column masses, or their logarithms for Kind::log.
// f and labels (n each) may be null; both need Kind::exact.  The same bits for any `threads`.
BadRow run_pass(const Rows& x, const Point& at, Kind kind, const std::string& simd, int threads,
                double* out, double* f, int64_t* labels);

// Instruction sets this build has and this processor runs, best first; "plain" is always there.
std::vector<std::string> simd_levels();

int max_threads();

}  // namespace sinkhorn
