// The passes over rows on a GPU: device pointers, sizes, strides and a stream.
//
// Nothing here waits for the device: every function queues its kernels and returns. The sums of
// a read go to one slab per block, and `finish` adds the slabs in a fixed order: no atomic touches
// a float, and the same input gives the same bits.
#pragma once

#include <cstdint>
#include <string>

namespace sinkhorn::cuda {

enum class Dtype { f64, f32, f16, bf16 };

// quick: float32 exponentials of (nearly) exact exponents; exact: float64 throughout.
enum class Kind { quick, exact };

// whole: rows that one group of threads can hold. Longer ones are read twice, chunk by chunk:
// `stats` finds the log of each chunk's sum, `apply` adds the masses. `whole` and `apply` count
// the entries to be kept.
// fill: puts these where they belong, once it is known how many there are.
enum class Mode { whole, stats, apply, fill };

// How a row is held: by `lanes` threads with `per` entries each, in blocks of `threads`; rows that
// are longer than lanes * per are cut into chunks of that size.
struct Tile {
  int lanes, per, threads;
  int64_t chunks;
};

// What a read finds out of the entries to be kept, and where a second one puts them. Rows are
// counted in `pieces`, the shortest chunks that any kernel cuts them into; a chunk is `step` of
// them, and counts for the first.
struct KeptRows {
  float least;                 // an entry is kept if it is this part of its row's largest, or more
  float* top;                  // per row: the largest probability
  double* chunk_top;           // (count, chunks) of Mode::stats: log2 of that, not yet divided
  int64_t pieces, step;        // of a row, and of a chunk
  int32_t* count;              // per piece: entries that are large enough; null: keep none
  const int64_t *begin, *end;  // per piece: where its entries go; nowhere if begin == end
  float* entry;                // per entry: its probability, column and row
  int32_t *column, *row;
};

// The slabs of a read: (count, k + 1), the masses times n and the weight of the rows.
struct Slabs {
  const double* sums;
  int64_t count;
};

struct RowPass {
  const void* x;
  int64_t k, row_stride, col_stride;
  bool vectors;  // rows start at multiples of 16 bytes, and that is how far one may read
  double n;
  const double* g;          // padded to whole chunks, like high and low
  const float *high, *low;  // g in units of log(2) * epsilon, in two parts; see prepare()
  const double* a;          // n, or null: every row has mass 1/n
  double epsilon;
  int64_t stride;  // one row of each `stride` neighbours, spread by a fixed hash
  int64_t count;   // rows that this makes
  int64_t rows_per_block;
  double* sums;          // (blocks, k + 1): column masses times n, and the weight of the rows
  int* odd;              // set where float32 is not enough; null: this is float64
  long long* bad_row;    // the least row without a finite maximum
  const int* gate;       // or null; the kernel does nothing where this is zero
  double* f;             // n, or null
  int64_t* labels;       // n, or null
  double* log_sum;       // log2 of the sums: (count, chunks) of Mode::stats, else (count); or null
  double* best;          // (count, chunks) of Mode::stats: the largest logits + g, and its
  int64_t* best_column;  // column; or null
  KeptRows kept;
  Tile tile;

  // filled in by read_rows
  float rate;  // log2(e) / epsilon, rounded, and as it is
  double exact_rate;
};

Tile tile_of(int64_t k, Kind kind);

// Why no kernel can run on this machine; empty if they can.
std::string why_not();

// high + low = rate * g, where high lies on a grid so coarse that high - top is exact for every row
// top on that grid; NaN where float32 cannot do that, which sends all rows the float64 way.
void prepare(const double* g, int64_t k, int64_t padded, double epsilon, double* padded_g,
             float* high, float* low, void* stream);

void read_rows(RowPass pass, Dtype dtype, Kind kind, Mode mode, int64_t blocks, void* stream);

// out (k + 1): the log of the masses, which sum to 1, and the weight of all rows. `exact` counts
// where *odd is set. Sets *gate where a mass is so small that entries underflowed.
void finish(Slabs quick, Slabs exact, const int* odd, int64_t k, double n, const double* g,
            double* out, int* gate, void* stream);

// The column masses in the log domain, of rows whose f is known; `tops` and `totals` are slabs of
// (blocks, k). Both do nothing where the gate is zero.
void read_log(const RowPass& pass, Dtype dtype, int64_t blocks, double* tops, double* totals,
              void* stream);
void finish_log(const double* tops, const double* totals, int64_t slabs, int64_t k, double n,
                const int* gate, double* out, void* stream);

// first[s] = sum_j value_j p[index_j] over the entries j of segment s; second[s] the same of
// value_j^2 and q, or null. `threads` of a block share a segment.
void add_segments(const int64_t* begin, const int64_t* end, int64_t segments, const float* value,
                  const int32_t* index, const double* p, const double* q, double* first,
                  double* second, int threads, void* stream);

}  // namespace sinkhorn::cuda
