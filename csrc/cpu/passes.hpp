// The passes over rows that a solve needs: raw pointers, sizes and strides only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace sinkhorn {

enum class Dtype { f64, f32, f16, bf16 };

// An N x K matrix as it lies in memory; strides count elements and may be negative.  Of rows that
// are spread over processes only some lie here: `data`, and all other pointers to something per
// row, are where row 0 would be.
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

// quick: float32 exponentials of (nearly) exact exponents.
// exact: float64 throughout.  log: float64 in the log domain, for masses that underflow.
enum class Kind { quick, exact, log };

// The rows of a pass: one of each `stride` neighbours, spread by a fixed hash.
struct Sample {
  int64_t stride, count;

  Sample(int64_t n, int64_t every) : stride(every), count(n / every) {}

  int64_t row(int64_t j) const {
    if (stride == 1) return j;
    uint64_t h = uint64_t(j) * 0x9E3779B97F4A7C15u;  // Fibonacci hashing
    return j * stride + int64_t((h >> 32) % uint64_t(stride));
  }
};

// How the rows of a pass are cut into blocks, whatever the number of threads or processes, and
// which of them have rows here, from `first_row` up to `last_row`.
struct Blocks {
  Sample sample;
  int64_t count, step;  // all blocks, and rows of the sample in each but the last
  int64_t begin, end;   // of the sample: what lies here
  int64_t first, last;  // blocks with rows here
  Blocks(int64_t n, int64_t stride, int64_t first_row, int64_t last_row);
  // The first block here began, or the last one goes on, in another process.
  bool joins() const { return begin < end && begin > first * step; }
  bool goes_on() const { return begin < end && end < std::min(sample.count, last * step); }
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

// One read of the sampled rows in the blocks from `first` up to `last`.  out (k): their column
// masses, or the logarithms of these for Kind::log, and the total mass after these; in units of
// 1/n. The same bits for any `threads`.
BadRow run_pass(const Rows& x, const Point& at, Kind kind, const Blocks& blocks, int64_t first,
                int64_t last, const std::string& simd, int threads, double* out,
                const Extras& extras);

// Instruction sets this build has and this processor runs, best first; "plain" is always there.
std::vector<std::string> simd_levels();

int max_threads();

}  // namespace sinkhorn
