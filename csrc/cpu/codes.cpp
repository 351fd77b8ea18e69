// Cuts minibatches into blocks that do not depend on the number of threads, runs the passes over
// them, and adds their sums in a fixed order: the same bits for any number of threads.
#include "codes.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "block.hpp"
#include "flush.hpp"
#include "memory.hpp"

namespace sinkhorn {

namespace {

// Blocks that all batches have together, if their rows are so many: enough for the threads of a
// large machine, and few enough that their sums are small beside the scores.
constexpr int64_t kBlocks = 32;
constexpr int64_t kLeastRows = 4, kMostRows = 64;
constexpr int64_t kColumns = 1024;  // that a thread adds up at a time

int64_t up_to(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

void clear_row(const Rows& rows, int64_t i) {
  const int64_t bytes = bytes_of(rows.dtype);
  for (int64_t j = 0; j < rows.k; ++j) {
    const int64_t at = (i * rows.row_stride + j * rows.col_stride) * bytes;
    std::memset(reinterpret_cast<void*>(uintptr_t(rows.data) + uintptr_t(at)), 0, size_t(bytes));
  }
}

struct Pass {
  const Minibatch& of;
  CodesFn run;
  int threads;
  int64_t n = of.rows.n, k = of.rows.k, padded = up_to(k, kPad);
  int64_t size = of.rows.dtype == Dtype::f64 ? 8 : 4;  // of a number of the arithmetic
  int64_t block_rows = std::clamp((n * of.batches + kBlocks - 1) / kBlocks, kLeastRows, kMostRows);
  int64_t blocks = (n + block_rows - 1) / block_rows;  // of a batch

  Pass(const Minibatch& minibatch, CodesStage stage, const std::string& simd, int most)
      : of(minibatch),
        run(kernels_of(simd).codes[int(stage)][int(of.rows.dtype)]),
        threads(int(std::clamp<int64_t>(of.batches * blocks, 1, most))) {}

  int64_t valid(int64_t batch) const {
    return of.n_valid ? std::clamp<int64_t>(of.n_valid[batch], 0, n) : n;
  }

  char* numbers(Buffer<char>& in, int64_t line) const { return in.get() + line * padded * size; }

  Rows batch_of(const Minibatch& which, int64_t batch) const {
    Rows rows = which.rows;
    const int64_t by = batch * which.batch_stride * bytes_of(rows.dtype);
    rows.data = reinterpret_cast<const void*>(uintptr_t(rows.data) + uintptr_t(by));
    return rows;
  }

  // One line of numbers for each of `lines`, aligned.
  Buffer<char> lines(int64_t count) const { return aligned<char>(count * padded * size); }
};

// u of each batch: the inverses of the masses.
void invert(const Pass& pass, const double* masses, Buffer<char>& u) {
  const double least = kTiny * double(pass.k);
  for (int64_t batch = 0; batch < pass.of.batches; ++batch) {
    const double* mass = masses + batch * pass.k;
    auto fill = [&](auto* line) {
      for (int64_t j = 0; j < pass.k; ++j) line[j] = 1 / (mass[j] < least ? least : mass[j]);
      std::fill(line + pass.k, line + pass.padded, 0);
    };
    if (pass.size == 8)
      fill(reinterpret_cast<double*>(pass.numbers(u, batch)));
    else
      fill(reinterpret_cast<float*>(pass.numbers(u, batch)));
  }
}

// Runs the pass over all blocks: work(batch, block number, block, scratch).
template <class Work>
void over_blocks(const Pass& pass, double* tops, Buffer<char>* u, Buffer<char>& scratch,
                 Work work) {
  const int64_t blocks = pass.blocks;
#pragma omp for schedule(dynamic)
  for (int64_t b = 0; b < pass.of.batches * blocks; ++b) {
    const int64_t batch = b / blocks, first = b % blocks * pass.block_rows;
    const int64_t last = std::min(first + pass.block_rows, pass.valid(batch));
    CodesBlock block{first,
                     std::max(first, last),
                     pass.of.epsilon,
                     tops + batch * pass.n,
                     u ? pass.numbers(*u, batch) : nullptr,
                     nullptr,
                     -INFINITY,
                     {}};
    char* const mine = pass.numbers(scratch, 2 * omp_get_thread_num());
    work(batch, b, block, CodesScratch{mine, mine + pass.padded * pass.size});
  }
}

// Adds the sums of the blocks of each batch, each times its scale.
void add_blocks(const Pass& pass, Buffer<char>& sums, const std::vector<double>& scale,
                double* masses) {
  const int64_t stretches = (pass.k + kColumns - 1) / kColumns;
#pragma omp for
  for (int64_t s = 0; s < pass.of.batches * stretches; ++s) {
    const int64_t batch = s / stretches, from = s % stretches * kColumns;
    const int64_t count = std::min(kColumns, pass.k - from);
    double* const out = masses + batch * pass.k + from;
    std::fill(out, out + count, 0.);
    for (int64_t b = batch * pass.blocks; b < (batch + 1) * pass.blocks; ++b) {
      auto add = [&](const auto* line) {
        for (int64_t j = 0; j < count; ++j) out[j] += scale[size_t(b)] * double(line[from + j]);
      };
      if (scale[size_t(b)] == 0) continue;  // also of a block without rows
      if (pass.size == 8)
        add(reinterpret_cast<const double*>(pass.numbers(sums, b)));
      else
        add(reinterpret_cast<const float*>(pass.numbers(sums, b)));
    }
  }
}

// The two passes that leave masses behind.
void sum(const Pass& pass, double* tops, Buffer<char>* u, double* masses, double* largest) {
  const int64_t blocks = pass.of.batches * pass.blocks;
  Buffer<char> sums = pass.lines(blocks), scratch = pass.lines(2 * pass.threads);
  std::vector<double> scale(size_t(blocks), 1.);
#pragma omp parallel num_threads(pass.threads) if (pass.threads > 1)
  {
    FlushToZero flush;
    over_blocks(pass, tops, u, scratch,
                [&](int64_t batch, int64_t b, CodesBlock& block, const CodesScratch& room) {
                  block.sums = pass.numbers(sums, b);
                  if (block.first < block.last) {
                    std::memset(block.sums, 0, size_t(pass.padded * pass.size));
                    pass.run(pass.batch_of(pass.of, batch), block, room);
                  }
                  scale[size_t(b)] = largest ? block.top : block.first < block.last;
                });
    if (largest) {
#pragma omp single
      for (int64_t batch = 0; batch < pass.of.batches; ++batch) {
        double* const tops_of = scale.data() + batch * pass.blocks;
        largest[batch] = -INFINITY;
        for (int64_t b = 0; b < pass.blocks; ++b)
          largest[batch] = std::max(largest[batch], tops_of[b]);
        for (int64_t b = 0; b < pass.blocks; ++b)
          tops_of[b] = tops_of[b] == largest[batch]
                           ? double(tops_of[b] > -INFINITY)
                           : std::exp((tops_of[b] - largest[batch]) / pass.of.epsilon);
      }
    }
    add_blocks(pass, sums, scale, masses);
  }
}

}  // namespace

void codes_first(const Minibatch& of, double* tops, double* masses, double* largest,
                 const std::string& simd, int threads) {
  sum(Pass(of, CodesStage::first, simd, threads), tops, nullptr, masses, largest);
}

void codes_next(const Minibatch& of, double* tops, double* masses, const std::string& simd,
                int threads) {
  const Pass pass(of, CodesStage::next, simd, threads);
  Buffer<char> u = pass.lines(of.batches);
  invert(pass, masses, u);
  sum(pass, tops, &u, masses, nullptr);
}

void codes_last(const Minibatch& of, double* tops, double* masses, const Minibatch& out,
                const std::string& simd, int threads) {
  const Pass pass(of, CodesStage::last, simd, threads);
  Buffer<char> u = pass.lines(of.batches), scratch = pass.lines(2 * pass.threads);
  invert(pass, masses, u);
#pragma omp parallel num_threads(pass.threads) if (pass.threads > 1)
  {
    FlushToZero flush;
    over_blocks(pass, tops, &u, scratch,
                [&](int64_t batch, int64_t, CodesBlock& block, const CodesScratch& room) {
                  block.out = pass.batch_of(out, batch);
                  if (block.first < block.last) pass.run(pass.batch_of(of, batch), block, room);
                  for (int64_t i = block.last; i < std::min(block.first + pass.block_rows, pass.n);
                       ++i)
                    clear_row(block.out, i);
                });
  }
}

}  // namespace sinkhorn
