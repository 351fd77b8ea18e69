// Sums of doubles that come out the same in any order: of threads, and of processes.
//
// A number is split into a multiple of one grid and a multiple of a finer one.  Multiples of a grid
// add up without rounding while they stay below 2^53 of it, so there is no order to depend on.
#pragma once

#include <cmath>
#include <cstdint>

namespace sinkhorn {

class ExactSum {
 public:
  // For at most 256 numbers the absolute values of which add up to at most `bound`; with an error
  // of `bound` * 1e-28.
  explicit ExactSum(double bound) {
    int exponent;
    std::frexp(bound, &exponent);
    coarse_ = std::isfinite(bound) ? std::ldexp(1.5, exponent + 1) : bound;
    fine_ = std::ldexp(coarse_, -44);
  }

  // high += the coarse part of x, low += the fine one.
  void add(double x, double* high, double* low) const {
    const double part = (x + coarse_) - coarse_;
    *high += part;
    *low += ((x - part) + fine_) - fine_;
  }

  void add(const double* x, int64_t count, double* high, double* low) const {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) {
      const double part = (x[j] + coarse_) - coarse_;
      high[j] += part;
      low[j] += ((x[j] - part) + fine_) - fine_;
    }
  }

 private:
  double coarse_, fine_;  // 3/2 of a power of 2, the last bit of which is that of the grid
};

}  // namespace sinkhorn
