// What one thread does to one block of rows, and the table of such functions of one SIMD level.
#pragma once

#include <type_traits>

#include "codes.hpp"
#include "kept.hpp"
#include "passes.hpp"

namespace sinkhorn {

// Widest vector of any level in floats; scratch rows are padded to it.
constexpr int64_t kPad = 16;

// g for the float32 kernel, in units of log(2) * epsilon: rate * g = high + low, where `high` lies
// on a grid so coarse that high - top is exact for every row top on that grid.
struct Scaled {
  const float *high, *low;  // k, padded with zeros
  float rate;
  bool usable;  // false: out of the range in which the above holds
};

// Scratch of one thread, 64-byte aligned, padded to kPad entries.
struct Scratch {
  double* shifted;    // k: logits + g of the current row
  void* weights;      // k doubles or 2 k floats: exp(.) of the rows in hand
  void* partial;      // k: column sums of a short run of rows, double or float
  uint32_t* columns;  // k: of the entries of a row that is kept
  float* entries;     // k: these entries
  void* rows;         // 4 k floats: rows whose columns are not contiguous are copied here
};

// Stands for log(0) in the log-domain sums, where -inf - -inf would be NaN.
constexpr double kLogZero = -1e300;

struct Block {
  int64_t first, last;  // of the sample
  double* sum;          // k column sums of this block (Kind::log: relative to exp(top))
  double* top;          // k column maxima, Kind::log only
  double weight;        // total weight of the rows
  KeptBlock* kept;      // or null
};

using BlockFn = BadRow (*)(const Rows&, const Point&, const Scaled&, const Sample&, const Extras&,
                           const Scratch&, Block&);

// A block of rows of one batch in the passes of codes.hpp. Numbers are float64 where the scores
// are, else float32; u and the sums are padded with zeros to kPad of them.
struct CodesBlock {
  int64_t first, last;
  double epsilon;
  double* tops;   // of the batch
  const void* u;  // of the batch
  void* sums;     // of the block
  double top;     // what the sums of codes_first are relative to
  Rows out;       // of the batch
};

// Scratch of one thread, padded likewise.
struct CodesScratch {
  void* entries;  // k numbers of a row
  void* copy;     // k scores: rows whose columns are not contiguous are copied here
};

enum class CodesStage { first, next, last };

using CodesFn = void (*)(const Rows&, CodesBlock&, const CodesScratch&);

struct Kernels {
  BlockFn pass[3][4];  // [Kind][Dtype]
  // Parts of the operations of `Kept`; see kept.inl.
  void (*kept_mass)(KeptBlock&, const float* scalings, double* sums);
  void (*kept_second_moment)(KeptBlock&, const float* y, double* sums);
  CodesFn codes[3][4];  // [CodesStage][Dtype]
};

// The kernels of a level that `simd_levels` names.
const Kernels& kernels_of(const std::string& simd);

const Kernels& plain_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace sinkhorn
