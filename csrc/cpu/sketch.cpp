// The operations on a sketch: two sweeps over its entries, in groups that do not depend on the
// number of threads.
#include "sketch.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "flush.hpp"

namespace sinkhorn {

namespace {
constexpr int64_t kGroups = 32;      // bounds the memory for their sums
constexpr int64_t kSmall = 1 << 16;  // entries below which a second thread does not pay
}  // namespace

void Sketch::start(int64_t blocks, int64_t rows) {
  if (!columns_) {
    columns_ = aligned<uint32_t>(capacity_);
    entries_ = aligned<float>(capacity_);
    y_ = aligned<double>(k_);
  }
  if (blocks * rows > reserved_rows_) {
    reserved_rows_ = blocks * rows;
    row_ends_ = aligned<uint32_t>(reserved_rows_);
    weights_ = aligned<float>(reserved_rows_);
    scales_ = aligned<double>(reserved_rows_);
  }
  const int64_t room = capacity_ / blocks;
  blocks_.clear();
  for (int64_t b = 0; b < blocks; ++b)
    blocks_.push_back({columns_.get() + b * room, entries_.get() + b * room,
                       row_ends_.get() + b * rows, weights_.get() + b * rows,
                       scales_.get() + b * rows, room, rows});
}

int64_t Sketch::entries() const {
  int64_t total = 0;
  for (const SketchBlock& b : blocks_) total += b.entries;
  return total;
}

int64_t Sketch::rows() const {
  int64_t total = 0;
  for (const SketchBlock& b : blocks_) total += b.rows;
  return total;
}

// Runs row(block, r, first, last, sums) for every row, with `width` sums for each group of blocks;
// then adds the groups' sums into the first.
template <class Row>
void Sketch::each_group(int threads, int64_t width, Row row) {
  const int64_t blocks = int64_t(blocks_.size()), groups = std::min(blocks, kGroups);
  sums_.assign(size_t(groups * width), 0.);
  threads = entries() < kSmall ? 1 : int(std::min<int64_t>(std::max(threads, 1), groups));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
#pragma omp for schedule(dynamic)
    for (int64_t q = 0; q < groups; ++q)
      for (int64_t b = q * blocks / groups; b < (q + 1) * blocks / groups; ++b) {
        SketchBlock& block = blocks_[size_t(b)];
        uint32_t first = 0;
        for (int64_t r = 0; r < block.rows; ++r) {
          row(block, r, first, block.row_end[r], sums_.data() + q * width);
          first = block.row_end[r];
        }
      }
  }
  for (int64_t q = 1; q < groups; ++q)
    for (int64_t j = 0; j < width; ++j) sums_[size_t(j)] += sums_[size_t(q * width + j)];
}

static inline double dot(const SketchBlock& block, uint32_t first, uint32_t last, const double* y) {
  double t[4] = {0, 0, 0, 0};
  uint32_t e = first;
  for (; e + 4 <= last; e += 4)
    for (int u = 0; u < 4; ++u) t[u] += double(block.entry[e + u]) * y[block.column[e + u]];
  for (; e < last; ++e) t[0] += double(block.entry[e]) * y[block.column[e]];
  return (t[0] + t[1]) + (t[2] + t[3]);
}

void Sketch::mass(const double* scalings, double* m, double* s, int threads) {
  // sums: k pairs (m, s), then the weight
  each_group(threads, 2 * k_ + 1,
             [&](SketchBlock& block, int64_t r, uint32_t first, uint32_t last, double* sums) {
               const double weight = block.weight[r],
                            c = weight / dot(block, first, last, scalings);
               const double per_weight = weight > 0 ? 1 / weight : 0;
               block.scale[r] = c;
               for (uint32_t e = first; e < last; ++e) {
                 const double q = double(block.entry[e]) * c;
                 double* to = sums + 2 * block.column[e];
                 to[0] += q;
                 to[1] += q * q * per_weight;
               }
               sums[2 * k_] += weight;
             });
  weight_ = sums_[size_t(2 * k_)];
  for (int64_t j = 0; j < k_; ++j) {
    m[j] = sums_[size_t(2 * j)] * scalings[j] / weight_;
    s[j] = sums_[size_t(2 * j + 1)] * scalings[j] * scalings[j] / weight_;
  }
}

double Sketch::value(const double* scalings, int threads) {
  each_group(threads, 1,
             [&](SketchBlock& block, int64_t r, uint32_t first, uint32_t last, double* sums) {
               sums[0] += block.weight[r] * std::log(dot(block, first, last, scalings));
             });
  return sums_[0] / weight_;
}

void Sketch::second_moment(const double* scalings, const double* v, double* out, int threads) {
  for (int64_t j = 0; j < k_; ++j) y_[j] = scalings[j] * v[j];
  each_group(threads, k_,
             [&](SketchBlock& block, int64_t r, uint32_t first, uint32_t last, double* sums) {
               const double c = block.scale[r];
               if (!(c > 0)) return;
               const double u = dot(block, first, last, y_.get()) * c / block.weight[r] * c;
               for (uint32_t e = first; e < last; ++e)
                 sums[block.column[e]] += double(block.entry[e]) * u;
             });
  for (int64_t j = 0; j < k_; ++j) out[j] = sums_[size_t(j)] * scalings[j] / weight_;
}

}  // namespace sinkhorn
