// The operations on a sketch, in groups of blocks that do not depend on the number of threads.
#include "sketch.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "block.hpp"
#include "exact.hpp"
#include "flush.hpp"

namespace sinkhorn {

namespace {
constexpr int64_t kGroups = 32;       // bounds the memory for their sums
constexpr int64_t kWordsPerSum = 64;  // words that pay for one more sum
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
// sums exactly.  `bound`: of what their absolute values add up to; out: the parts, 2 * width.
template <class Work>
void Sketch::each_block(int threads, int64_t width, double bound, double* out, Work work) {
  if (!started_) throw std::logic_error("a sketch was used before a pass filled it");
  const int64_t blocks = int64_t(blocks_.size()), most = 4 + words() / (kWordsPerSum * k_);
  const int64_t groups = std::min({std::max<int64_t>(blocks, 1), kGroups, most});
  const ExactSum exact(bound);
  sums_.assign(size_t(2 * groups * width), 0.);
  threads = words() < kSmall ? 1 : int(std::min<int64_t>(std::max(threads, 1), groups));
  const Buffer<double> memory = aligned<double>(2 * threads * width);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
    double* const scratch = memory.get() + 2 * omp_get_thread_num() * width;
    double* const sums = scratch + width;
#pragma omp for schedule(dynamic)
    for (int64_t q = 0; q < groups; ++q) {
      double* const high = sums_.data() + 2 * q * width;
      for (int64_t b = q * blocks / groups; b < (q + 1) * blocks / groups; ++b) {
        std::fill(sums, sums + width, 0.);
        work(blocks_[size_t(b)], scratch, sums);
        exact.add(sums, width, high, high + width);
      }
    }
  }
  std::fill(out, out + 2 * width, 0.);
  for (int64_t q = 0; q < groups; ++q)
    for (int64_t j = 0; j < 2 * width; ++j) out[j] += sums_[size_t(2 * q * width + j)];
}

void Sketch::mass(const double* scalings, bool exact, double bound, double* out, int threads) {
  const auto add = exact ? kernels_.sketch_mass_exact : kernels_.sketch_mass;
  // in float32 the sums are scaled by what they were made with: the last bits of the scalings would
  // otherwise change the masses, but not as the Hessian says
  const std::vector<float> narrow(scalings, scalings + k_);
  const std::vector<double> wide(narrow.begin(), narrow.end());
  const void* y = exact ? static_cast<const void*>(scalings) : narrow.data();
  const double* by = exact ? scalings : wide.data();
  const int64_t k = k_;
  each_block(threads, 2 * k + 1, bound, out,
             [=](SketchBlock& block, double* scratch, double* sums) {
               add(block, y, scratch, sums);
               for (int64_t j = 0; j < k; ++j) {
                 sums[j] *= by[j];
                 sums[k + j] *= by[j] * by[j];
               }
               for (int64_t r = 0; r < block.rows; ++r) sums[2 * k] += block.weight[r];
             });
}

void Sketch::value(const double* scalings, double bound, double* out, int threads) {
  each_block(threads, 1, bound, out, [=](SketchBlock& block, double*, double* sum) {
    *sum = kernels_.sketch_value(block, scalings);
  });
}

void Sketch::second_moment(const double* scalings, const double* v, double bound, double* out,
                           int threads) {
  std::vector<float> y(static_cast<size_t>(k_));
  for (int64_t j = 0; j < k_; ++j) y[size_t(j)] = float(scalings[j] * v[j]);
  each_block(threads, k_, bound, out, [&](SketchBlock& block, double* scratch, double* sums) {
    kernels_.sketch_second_moment(block, y.data(), scratch, sums);
    for (int64_t j = 0; j < k_; ++j) sums[j] *= scalings[j];
  });
}

}  // namespace sinkhorn
