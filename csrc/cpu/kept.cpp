// The operations on kept entries, with sums that do not depend on the number of threads.
#include "kept.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "block.hpp"
#include "flush.hpp"

namespace sinkhorn {

namespace {
constexpr int64_t kChunks = 16;       // of the pool for a block, unless a row is longer than that
constexpr int64_t kSpare = 16;        // rows that a block may keep beyond its share
constexpr int64_t kSlots = 16;        // sums that are made side by side
constexpr int64_t kWordsPerSum = 64;  // words that pay for one more of them
constexpr int64_t kSmall = 1 << 16;   // words below which a second thread does not pay
}  // namespace

Kept::Kept(int64_t k, int64_t words, double reach, const std::string& simd)
    : k_(k), capacity_(words), least_(float(std::exp(-reach))), kernels_(kernels_of(simd)) {}

void Kept::start(int64_t first, int64_t last, int64_t block_rows, double share) {
  if (!words_) words_ = aligned<float>(capacity_);
  const int64_t blocks = blocks_of(first, last, block_rows);
  const int64_t chunk = capacity_ / (kChunks * std::max<int64_t>(blocks, 1));
  pool_.words = words_.get();
  pool_.chunk = std::max<int64_t>((chunk + k_ - 1) / k_, 1) * k_;  // whole rows of k words
  pool_.chunks = capacity_ / pool_.chunk;
  pool_.asked = 0;
  share = std::min(std::max(share, 0.), 1.);
  const int64_t room = std::min(block_rows, int64_t(share * double(block_rows)) + kSpare);
  if (blocks * room > reserved_rows_) {
    rows_.reset();  // never both
    reserved_rows_ = blocks * room;
    rows_ = aligned<KeptRow>(reserved_rows_);
  }
  blocks_.clear();
  for (int64_t b = 0; b < blocks; ++b)
    blocks_.push_back(
        {&pool_, rows_.get() + b * room, room, k_, uint64_t(std::ldexp(share, 32)), least_});
}

bool Kept::fits() const {
  return std::all_of(blocks_.begin(), blocks_.end(), [](const KeptBlock& b) { return b.fits; });
}

int64_t Kept::words() const {
  int64_t total = 0;
  for (const KeptBlock& b : blocks_) total += b.words;
  return total;
}

int64_t Kept::rows() const {
  int64_t total = 0;
  for (const KeptBlock& b : blocks_) total += b.rows;
  return total;
}

// Runs work(block, sums) for every block and adds `width` sums of each. Blocks are dealt out to
// slots whose number does not depend on the threads, and slots are added in their order.
template <class Work>
void Kept::each_block(int threads, int64_t width, double* out, Work work) {
  if (!words_) throw std::logic_error("kept entries were used before a pass filled them");
  std::fill(out, out + width, 0.);
  if (!fits()) return;
  const int64_t blocks = int64_t(blocks_.size()), most = 1 + words() / (kWordsPerSum * k_);
  const int64_t slots = std::min({std::max<int64_t>(blocks, 1), kSlots, most});
  if (words() < kSmall) threads = 1;
  threads = int(std::min(slots, int64_t(threads)));
  const int64_t line = (width + kPad - 1) / kPad * kPad;  // no two threads share one
  const Buffer<double> memory = aligned<double>(slots * line);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t slot = 0; slot < slots; ++slot) {
    FlushToZero flush;
    double* const sums = memory.get() + slot * line;
    std::fill(sums, sums + width, 0.);
    for (int64_t b = slot; b < blocks; b += slots) work(blocks_[size_t(b)], sums);
  }
  for (int64_t slot = 0; slot < slots; ++slot)
    for (int64_t j = 0; j < width; ++j) out[j] += memory[size_t(slot * line + j)];
}

void Kept::mass(const double* scalings, double* out, int threads) {
  // the sums are scaled by what they were made with: the last bits of the scalings would
  // otherwise change the masses, but not as the Hessian says
  const std::vector<float> narrow(scalings, scalings + k_);
  each_block(threads, 2 * k_ + 1, out, [&](KeptBlock& block, double* sums) {
    kernels_.kept_mass(block, narrow.data(), sums);
  });
  for (int64_t j = 0; j < k_; ++j) {
    const double scaling = double(narrow[size_t(j)]);
    out[j] *= scaling;
    out[k_ + j] *= scaling * scaling;
  }
}

void Kept::second_moment(const double* scalings, const double* v, double* out, int threads) {
  std::vector<float> y(static_cast<size_t>(k_));
  for (int64_t j = 0; j < k_; ++j) y[size_t(j)] = float(scalings[j] * v[j]);
  each_block(threads, k_, out, [&](KeptBlock& block, double* sums) {
    kernels_.kept_second_moment(block, y.data(), sums);
  });
  for (int64_t j = 0; j < k_; ++j) out[j] *= scalings[j];
}

}  // namespace sinkhorn
