// The operations on a sketch, in groups of blocks that do not depend on the number of threads.
#include "sketch.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "block.hpp"
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

void Sketch::start(const Blocks& all) {
  const int64_t blocks = all.last - all.first, rows = all.step;
  if (!words_) words_ = aligned<float>(capacity_);
  if (blocks * rows > reserved_rows_) {
    reserved_rows_ = blocks * rows;
    row_ends_ = aligned<uint32_t>(reserved_rows_);
    weights_ = aligned<float>(reserved_rows_);
    curvatures_ = aligned<float>(reserved_rows_);
  }
  const int64_t room = capacity_ / std::max<int64_t>(all.count, 1);
  weight_ = 0;
  blocks_.clear();
  for (int64_t b = 0; b < blocks; ++b)
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

// Runs work(block, scratch, sums) for every block, with `width` sums for each group of blocks and
// as much scratch; then adds the groups' sums into the first.
template <class Work>
void Sketch::each_group(int threads, int64_t width, Work work) {
  if (!words_) throw std::logic_error("a sketch was used before a pass filled it");
  const int64_t blocks = int64_t(blocks_.size()), most = 4 + words() / (kWordsPerSum * k_);
  const int64_t groups = std::min({blocks, kGroups, most});
  sums_.assign(size_t(std::max<int64_t>(groups, 1) * width), 0.);
  if (groups == 0) return;  // all rows lie in other processes
  threads = words() < kSmall ? 1 : int(std::min<int64_t>(std::max(threads, 1), groups));
  const Buffer<double> scratch = aligned<double>(threads * width);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    FlushToZero flush;
#pragma omp for schedule(dynamic)
    for (int64_t q = 0; q < groups; ++q)
      for (int64_t b = q * blocks / groups; b < (q + 1) * blocks / groups; ++b)
        work(blocks_[size_t(b)], scratch.get() + omp_get_thread_num() * width,
             sums_.data() + q * width);
  }
  for (int64_t q = 1; q < groups; ++q)
    for (int64_t j = 0; j < width; ++j) sums_[size_t(j)] += sums_[size_t(q * width + j)];
}

void Sketch::mass(const double* scalings, bool exact, double* m, double* s, int threads) {
  const auto add = exact ? kernels_.sketch_mass_exact : kernels_.sketch_mass;
  const std::vector<float> narrow(scalings, scalings + k_);
  const void* y = exact ? static_cast<const void*>(scalings) : narrow.data();
  each_group(threads, 2 * k_, [=](SketchBlock& block, double* scratch, double* sums) {
    add(block, y, scratch, sums);
  });
  const double whole = weight();
  for (int64_t j = 0; j < k_; ++j) {
    m[j] = sums_[size_t(j)] * scalings[j] / whole;
    s[j] = sums_[size_t(k_ + j)] * scalings[j] * scalings[j] / whole;
  }
}

double Sketch::weight() {
  if (!(weight_ > 0))
    for (const SketchBlock& b : blocks_)
      for (int64_t r = 0; r < b.rows; ++r) weight_ += b.weight[r];
  return weight_;
}

double Sketch::value(const double* scalings, int threads) {
  each_group(threads, 1, [=](SketchBlock& block, double*, double* sum) {
    *sum += kernels_.sketch_value(block, scalings);
  });
  return sums_[0] / weight_;
}

void Sketch::second_moment(const double* scalings, const double* v, bool exact, double* out,
                           int threads) {
  std::vector<double> wide(static_cast<size_t>(k_));
  for (int64_t j = 0; j < k_; ++j) wide[size_t(j)] = scalings[j] * v[j];
  const std::vector<float> narrow(wide.begin(), wide.end());
  const auto add = exact ? kernels_.sketch_second_moment_exact : kernels_.sketch_second_moment;
  const void* y = exact ? static_cast<const void*>(wide.data()) : narrow.data();
  each_group(threads, k_, [=](SketchBlock& block, double* scratch, double* sums) {
    add(block, y, scratch, sums);
  });
  for (int64_t j = 0; j < k_; ++j) out[j] = sums_[size_t(j)] * scalings[j] / weight_;
}

}  // namespace sinkhorn
