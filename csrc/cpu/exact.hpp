// Sums of doubles that come out the same in any order: of threads, and of processes.
//
// A number is split into a multiple of one grid and a multiple of a finer one.  Multiples of a grid
// add up without rounding while they stay below 2^53 of it, so there is no order to depend on.
#pragma once

#include <cmath>

namespace sinkhorn {

// Adding one of these and taking it off again rounds to a multiple of its grid.
struct Grids {
  double coarse, fine;
};

// For at most 256 numbers the absolute values of which add up to at most `bound`; what is lost is
// some 1e-28 of that.
inline Grids grids_for(double bound) {
  int exponent;
  std::frexp(bound, &exponent);
  const double coarse = std::isfinite(bound) ? std::ldexp(1.5, exponent + 1) : bound;
  return {coarse, std::ldexp(coarse, -44)};
}

}  // namespace sinkhorn
