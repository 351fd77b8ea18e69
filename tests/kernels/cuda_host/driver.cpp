// Runs every kernel on a small problem and compares with plain loops: what a sanitizer watches.
#include <cstdio>
#include <memory>
#include <vector>

#include "columns.cuh"
#include "minibatch.cuh"
#include "read_rows.cuh"
#include "segments.cuh"

using namespace sinkhorn::cuda;

namespace {

// Memory of exactly the size that was asked for, so that a step beyond it is one.
template <class T>
std::unique_ptr<T[]> array(int64_t size, T value = T()) {
  std::unique_ptr<T[]> made(new T[size_t(size)]);
  for (int64_t i = 0; i < size; ++i) made[size_t(i)] = value;
  return made;
}

int failures = 0;

void expect(bool ok, const char* what, int64_t k) {
  if (ok) return;
  std::fprintf(stderr, "wrong %s at k = %ld\n", what, long(k));
  ++failures;
}

bool close(double x, double y, double tolerance) {
  return std::fabs(x - y) <= tolerance * std::fabs(y);
}

constexpr double kEpsilon = 0.5;

struct Problem {
  int64_t n, k;
  std::unique_ptr<float[]> x;
  std::unique_ptr<double[]> g, mass;  // the true masses, times n
  std::vector<int64_t> labels;
  std::vector<double> log_sums;  // log2 of sum_k exp((x + g) / epsilon)

  Problem(int64_t n, int64_t k)
      : n(n), k(k), x(array<float>(n * k)), g(array<double>(k)), mass(array<double>(k)) {
    uint64_t state = 1;
    auto random = [&] {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return double(state >> 40) / double(1 << 24) * 4 - 2;
    };
    for (int64_t c = 0; c < k; ++c) g[size_t(c)] = random();
    for (int64_t i = 0; i < n; ++i) {
      double total = 0;
      int64_t best = 0;
      std::vector<double> e(static_cast<size_t>(k));
      for (int64_t c = 0; c < k; ++c) {
        x[size_t(i * k + c)] = float(random());
        e[size_t(c)] = std::exp((double(x[size_t(i * k + c)]) + g[size_t(c)]) / kEpsilon);
        total += e[size_t(c)];
        if (e[size_t(c)] > e[size_t(best)]) best = c;
      }
      labels.push_back(best);
      log_sums.push_back(std::log2(total));
      for (int64_t c = 0; c < k; ++c) mass[size_t(c)] += e[size_t(c)] / total;
    }
  }
};

// The launches of one way to cut rows up: whole rows, or with `chunks` > 1 rows in chunks.
template <class E, class C>
void read(const Problem& problem, int lanes, int chunks) {
  const int64_t n = problem.n, k = problem.k, padded = int64_t(lanes) * C::kPer * chunks;
  const int threads = lanes > kWarp ? lanes : 64;  // threads are dear
  const int64_t rows_per_block = (n + 2) / 3, blocks = (n + rows_per_block - 1) / rows_per_block;
  const auto g = array<double>(padded);
  const auto high = array<float>(padded), low = array<float>(padded);
  launch(prepare_kernel, dim3(unsigned(padded + 255) / 256), dim3(256), 0, nullptr, problem.g.get(),
         k, padded, kEpsilon, g.get(), high.get(), low.get());

  const auto sums = array<double>(blocks * (k + 1)), f = array<double>(n),
             log_sum = array<double>(n * chunks), row_sum = array<double>(n),
             best = array<double>(n * chunks);
  const auto labels = array<int64_t>(n), best_column = array<int64_t>(n * chunks);
  const auto odd = array<int>(1), gate = array<int>(1);
  const auto bad_row = array<long long>(1, n);
  const auto top = array<float>(n);
  const auto chunk_top = array<double>(n * chunks);
  const auto count = array<int32_t>(n * chunks);
  const auto begin = array<int64_t>(n * chunks), end = array<int64_t>(n * chunks);

  RowPass p{};
  p.x = problem.x.get();
  p.k = p.row_stride = k;
  p.col_stride = 1;
  p.n = double(n);
  p.g = g.get(), p.high = high.get(), p.low = low.get();
  p.epsilon = kEpsilon;
  p.exact_rate = 1.4426950408889634 / kEpsilon;
  p.rate = float(p.exact_rate);
  p.stride = 1;
  p.count = n;
  p.rows_per_block = rows_per_block;
  p.sums = sums.get();
  p.odd = sizeof(E) == sizeof(float) ? odd.get() : nullptr;
  p.bad_row = bad_row.get();
  p.tile = {lanes, C::kPer, threads, chunks};
  const dim3 grid{unsigned(blocks), unsigned(chunks)};
  const size_t shared = Boards::kBytes + BlockSums<C, E>::bytes(lanes, threads);
  auto run = [&](auto kernel) {
    launch(kernel, grid, dim3(unsigned(threads)), shared, nullptr, p);
  };

  p.kept.least = 1e-3f, p.kept.pieces = chunks, p.kept.step = 1;
  auto count_entries = [&] {
    p.kept.count = count.get(), p.kept.top = top.get();
    p.kept.chunk_top = chunk_top.get();
  };
  if (chunks > 1) {
    count_entries();
    p.log_sum = log_sum.get(), p.best = best.get(), p.best_column = best_column.get();
    run(read_rows_kernel<float, E, C, Mode::stats, true>);
    for (int64_t i = 0; i < n; ++i) {
      double total = 0, most = -INFINITY;
      int64_t winner = i * chunks;
      for (int64_t at = i * chunks; at < (i + 1) * chunks; ++at) {
        total += exp2(log_sum[size_t(at)]);
        most = std::max(most, chunk_top[size_t(at)]);
        if (best[size_t(at)] > best[size_t(winner)]) winner = at;
      }
      row_sum[size_t(i)] = log2(total);
      top[size_t(i)] = float(exp2(most - row_sum[size_t(i)]));
      labels[size_t(i)] = best_column[size_t(winner)];
    }
    p.log_sum = row_sum.get();
    run(read_rows_kernel<float, E, C, Mode::apply, true>);
  } else {
    run(read_rows_kernel<float, E, C, Mode::whole, false>);
    for (int64_t j = 0; j < blocks * (k + 1); ++j) sums[size_t(j)] = 0;
    p.f = f.get(), p.labels = labels.get(), p.log_sum = row_sum.get();
    count_entries();
    run(read_rows_kernel<float, E, C, Mode::whole, true>);
  }
  {
    int64_t entries = 0;
    for (int64_t i = 0; i < n * chunks; ++i) {
      begin[size_t(i)] = entries;
      if (i / chunks % 3) entries += count[size_t(i)];  // some rows are passed over
      end[size_t(i)] = entries;
    }
    const auto entry = array<float>(entries);
    const auto column = array<int32_t>(entries), row = array<int32_t>(entries);
    p.kept.begin = begin.get(), p.kept.end = end.get();
    p.kept.entry = entry.get(), p.kept.column = column.get(), p.kept.row = row.get();
    p.f = nullptr, p.labels = nullptr;
    run(read_rows_kernel<float, E, C, Mode::fill, false>);

    const int64_t pieces = n * chunks;
    const auto totals = array<double>(pieces), ones = array<double>(k, 1.);
    launch(add_segments_kernel, dim3(unsigned(pieces + 7) / 8), dim3(kSegmentThreads),
           size_t(Boards::kBytes), nullptr, begin.get(), end.get(), pieces, entry.get(),
           column.get(), ones.get(), ones.get(), totals.get(), log_sum.get(), 32);
    for (int64_t i = 0; i < n; ++i) {
      double total = 0;
      for (int64_t at = i * chunks; at < (i + 1) * chunks; ++at) total += totals[size_t(at)];
      expect(i % 3 ? total > 0.5 && total < 1.00001 : !total, "sum of a row's kept entries", k);
    }
    launch(add_segments_kernel, dim3(2), dim3(kSegmentThreads), size_t(Boards::kBytes), nullptr,
           begin.get() + chunks, end.get() + chunks, int64_t(2), entry.get(), column.get(),
           ones.get(), static_cast<double*>(nullptr), log_sum.get(), static_cast<double*>(nullptr),
           256);
    for (int64_t i = 0; i < 2; ++i)  // of a row that was kept
      expect(std::fabs(log_sum[size_t(i)] - totals[size_t(chunks + i)]) < 1e-12, "long segment", k);
  }
  for (int64_t i = 0; i < n; ++i) {
    expect(labels[size_t(i)] == problem.labels[size_t(i)], "label", k);
    expect(std::fabs(row_sum[size_t(i)] - problem.log_sums[size_t(i)]) < 1e-5, "sum of a row", k);
  }

  for (int64_t c = 0; c < k; ++c) {
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += sums[size_t(block * (k + 1) + c)];
    expect(close(total, problem.mass[size_t(c)], 1e-5), "mass", k);
  }
  expect(odd[0] == 0 && bad_row[0] == n, "flag", k);
  if (k > 100) return;  // what follows takes a block for 32 columns

  const auto out = array<double>(k + 1);
  auto expect_masses = [&](const char* what) {
    for (int64_t c = 0; c < k; ++c)
      expect(close(std::exp(out[size_t(c)]) * double(n), problem.mass[size_t(c)], 1e-5), what, k);
  };
  launch(finish_kernel, dim3(unsigned(k / kColumns + 1)), dim3(kColumnThreads),
         kColumnThreads * sizeof(double), nullptr, Slabs{sums.get(), blocks},
         Slabs{sums.get(), blocks}, static_cast<const int*>(nullptr), k, double(n), g.get(),
         out.get(), gate.get());
  expect_masses("finished mass");
  expect(gate[0] == 0, "gate of masses that are large enough", k);
  launch(finish_kernel, dim3(unsigned(k / kColumns + 1)), dim3(kColumnThreads),
         kColumnThreads * sizeof(double), nullptr, Slabs{sums.get(), blocks},
         Slabs{sums.get(), blocks}, static_cast<const int*>(nullptr), k, 1e-30, g.get(), out.get(),
         gate.get());
  expect(gate[0] == 1, "gate of masses that are too small", k);
  p.gate = gate.get(), p.f = f.get();
  const auto tops = array<double>(blocks * k), totals = array<double>(blocks * k);
  launch(read_log_kernel<float>, dim3(unsigned(blocks), unsigned(k + 31) / 32),
         dim3(kColumnThreads), kColumnThreads * sizeof(double), nullptr, p, tops.get(),
         totals.get());
  launch(finish_log_kernel, dim3(1), dim3(256), 0, nullptr, static_cast<const double*>(tops.get()),
         static_cast<const double*>(totals.get()), blocks, k, double(n),
         static_cast<const int*>(gate.get()), out.get());
  expect_masses("mass in the log domain");
}

// The codes of two iterations, of rows of which the last does not count.
void make_codes(const Problem& problem) {
  const int64_t n = problem.n, k = problem.k, blocks = (n + 2) / 3;
  const auto tops = array<float>(n), scales = array<float>(n), sums = array<float>(blocks * k);
  const auto out = array<float>(n * k), largest = array<float>(1, -INFINITY);
  const auto masses = array<double>(k);
  const auto n_valid = array<int64_t>(1, n - 1);
  Minibatch of{};
  of.x = problem.x.get(), of.batches = 1, of.n = n, of.k = k;
  of.row_stride = of.out_row_stride = k, of.col_stride = of.out_col_stride = 1;
  of.rate = 1.4426950408889634 / kEpsilon, of.n_valid = n_valid.get();
  of.rows_per_block = 3, of.blocks = blocks;
  of.tops = tops.get(), of.scales = scales.get(), of.sums = sums.get();
  auto rows = [&] {
    launch(minibatch_rows_kernel<float, float>, dim3(unsigned(n)), dim3(kMinibatchThreads),
           size_t(Boards::kBytes), nullptr, of);
  };
  auto columns = [&] {
    launch(minibatch_columns_kernel<float, float>,
           dim3(unsigned(blocks), unsigned(k / kMinibatchThreads + 1)), dim3(kMinibatchThreads), 0,
           nullptr, of);
  };
  auto finish = [&] {
    launch(minibatch_finish_kernel<float>, dim3(1, unsigned(k / kColumns + 1)),
           dim3(kColumnThreads), kColumnThreads * sizeof(double), nullptr,
           static_cast<const float*>(sums.get()), blocks, k, masses.get());
  };
  rows();
  for (int64_t i = 0; i < n; ++i)
    largest[0] = tops[size_t(i)] > largest[0] ? tops[size_t(i)] : largest[0];
  of.largest = largest.get();
  columns(), finish();
  of.largest = nullptr, of.masses = masses.get();
  rows(), columns(), finish();
  rows();
  of.out = out.get(), of.sums = nullptr;
  columns();

  std::vector<double> u(size_t(k), 1.), v(size_t(n), 1.);
  auto q = [&](int64_t i, int64_t c) {
    return i < n - 1 ? std::exp(double(problem.x[size_t(i * k + c)]) / kEpsilon) : 0.;
  };
  for (int turn = 0; turn < 2; ++turn) {
    for (int64_t c = 0; c < k; ++c) {
      double mass = 0;
      for (int64_t i = 0; i < n; ++i) mass += q(i, c) * v[size_t(i)];
      u[size_t(c)] = 1 / mass;
    }
    for (int64_t i = 0; i < n - 1; ++i) {
      double total = 0;
      for (int64_t c = 0; c < k; ++c) total += q(i, c) * u[size_t(c)];
      v[size_t(i)] = 1 / total;
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < k; ++c)
      expect(close(out[size_t(i * k + c)], q(i, c) * u[size_t(c)] * v[size_t(i)], 1e-5), "code", k);
}

}  // namespace

int main() {
  // groups inside a warp, a warp to a row, several warps to a row, rows in chunks; no vectors fit
  read<float, Cut<4, 8, 1>>(Problem(70, 29), 4, 1);
  read<float, Cut<32, 16, 1>>(Problem(11, 471), 32, 1);
  read<float, Cut<32, 16, 1>>(Problem(7, 1001), 64, 1);
  read<double, Cut<32, 8, 1>>(Problem(7, 471), 64, 1);
  read<float, Cut<32, 16, 1>>(Problem(5, 1501), 64, 2);
  read<double, Cut<32, 8, 1>>(Problem(5, 801), 64, 2);
  // rows that vectors fill exactly
  read<float, Cut<32, 16, 4>>(Problem(11, 472), 32, 1);
  make_codes(Problem(11, 29));
  make_codes(Problem(7, 300));
  return failures > 0;
}
