// The operations on a sketch, with sums that do not depend on the number of threads.
#include "sketch.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "block.hpp"
#include "flush.hpp"

namespace sinkhorn {

namespace {
constexpr int64_t kThreads = 16;      // bounds the memory for their sums
constexpr int64_t kWordsPerSum = 64;  // words that pay for one more of them
constexpr int64_t kSmall = 1 << 16;   // words below which a second thread does not pay
}  // namespace

Sketch::Sketch(int64_t k, int64_t words, const std::string& simd)
    : k_(k), capacity_(words), kernels_(kernels_of(simd)) {
  const std::vector<double> still(size_t(k), 0.);
  expect(still.data(), INFINITY);
}

void Sketch::expect(const double* move, double reach) {
  const int64_t padded = (k_ + kPad - 1) / kPad * kPad;
  if (!cut_) hold_ = aligned<float>(padded), cut_ = aligned<float>(padded);
  std::fill(hold_.get(), hold_.get() + padded, 0.f);
  std::fill(cut_.get(), cut_.get() + padded, INFINITY);
  for (int64_t j = 0; j < k_; ++j) {
    hold_[size_t(j)] = float(std::exp(-move[j]));
    cut_[size_t(j)] = float(std::exp(-reach - move[j]));
  }
  least_cut_ = *std::min_element(cut_.get(), cut_.get() + k_);
}

void Sketch::start(int64_t blocks, int64_t rows, int64_t first, int64_t last) {
  const int64_t here = last - first, room = capacity_ / blocks;
  const int64_t share = here == blocks ? capacity_ : here * room;
  if (share > reserved_words_) {
    words_.reset();  // never both
    words_ = aligned<float>(share);
    reserved_words_ = share;
  }
  if (here * rows > reserved_rows_) {
    reserved_rows_ = here * rows;
    row_ends_ = aligned<uint32_t>(reserved_rows_);
    weights_ = aligned<float>(reserved_rows_);
    curvatures_ = aligned<float>(reserved_rows_);
  }
  started_ = true;
  first_ = first;
  blocks_.clear();
  for (int64_t b = 0; b < here; ++b)
    blocks_.push_back({words_.get() + b * room, hold_.get(), cut_.get(), least_cut_,
                       row_ends_.get() + b * rows, weights_.get() + b * rows,
                       curvatures_.get() + b * rows, k_, room - kPad, rows});
}

int64_t Sketch::words() const {
  int64_t total = 0;
  for (const SketchBlock& b : blocks_) total += b.used;
  return total;
}

int64_t Sketch::rows() const {
  int64_t total = 0;
  for (const SketchBlock& b : blocks_) total += b.rows;
  return total;
}

// Runs work(block, scratch, sums) for every block, with `width` sums and as much scratch; adds the
// sums times their factors exactly, so that it does not matter which thread takes which block.
// `bound`: of what the absolute values of these add up to; out: the parts, 2 * width.
template <class Work>
void Sketch::each_block(int threads, int64_t width, const double* factor, double bound, double* out,
                        Work work) {
  if (!started_) throw std::logic_error("a sketch was used before a pass filled it");
  const int64_t blocks = int64_t(blocks_.size()), most = 4 + words() / (kWordsPerSum * k_);
  const Grids grids = grids_for(bound);
  if (words() < kSmall) threads = 1;
  threads = int(std::min({std::max<int64_t>(blocks, 1), kThreads, most, int64_t(threads)}));
  const int64_t line = (width + kPad - 1) / kPad * kPad;  // no two threads share one
  const Buffer<double> memory = aligned<double>(4 * threads * line);
  std::fill(memory.get(), memory.get() + 4 * threads * line, 0.);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
    double* const high = memory.get() + 4 * omp_get_thread_num() * line;
    double *const low = high + line, *const sums = low + line, *const scratch = sums + line;
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b) {
      std::fill(sums, sums + width, 0.);
      work(blocks_[size_t(b)], scratch, sums);
      kernels_.add_exactly(grids, sums, factor, width, high, low);
    }
  }
  std::fill(out, out + 2 * width, 0.);
  for (int t = 0; t < threads; ++t)
    for (int64_t j = 0; j < width; ++j) {
      out[j] += memory[size_t(4 * t * line + j)];
      out[width + j] += memory[size_t((4 * t + 1) * line + j)];
    }
}

void Sketch::mass(const double* scalings, double weight, double* out, int threads) {
  // the sums are scaled by what they were made with: the last bits of the scalings would
  // otherwise change the masses, but not as the Hessian says
  const std::vector<float> narrow(scalings, scalings + k_);
  std::vector<double> factor(size_t(2 * k_ + 1), 1.);
  for (int64_t j = 0; j < k_; ++j) {
    const double scaling = double(narrow[size_t(j)]);
    factor[size_t(j)] = scaling;
    factor[size_t(k_ + j)] = scaling * scaling;
  }
  each_block(threads, 2 * k_ + 1, factor.data(), weight, out,
             [&](SketchBlock& block, double* scratch, double* sums) {
               kernels_.sketch_mass(block, narrow.data(), scratch, sums);
               for (int64_t r = 0; r < block.rows; ++r) sums[2 * block.k] += block.weight[r];
             });
}

void Sketch::second_moment(const double* scalings, const double* v, double weight, double* out,
                           int threads) {
  std::vector<float> y(static_cast<size_t>(k_));
  double largest = 0;
  for (int64_t j = 0; j < k_; ++j) {
    y[size_t(j)] = float(scalings[j] * v[j]);
    largest = std::max(largest, std::fabs(v[j]));
  }
  each_block(threads, k_, scalings, weight * largest, out,
             [&](SketchBlock& block, double* scratch, double* sums) {
               kernels_.sketch_second_moment(block, y.data(), scratch, sums);
             });
}

}  // namespace sinkhorn
