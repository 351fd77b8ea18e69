// The reads of the exact assignment: what is kept of the rows, and the check of all of them.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>
#include <stdexcept>

#include "balanced.hpp"
#include "widen.hpp"

// The same source for several instruction sets where the compiler can; there is no product in it,
// so all give the same bits.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define SINKHORN_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define SINKHORN_CLONES
#endif

namespace sinkhorn {

namespace {

constexpr int64_t kLump = 16;        // entries of which the largest is noted
constexpr int64_t kBlockRows = 256;  // rows that a thread takes at a time
constexpr size_t kOutside = 4;       // entries that a row keeps beyond the classes it can reach
constexpr double kTie = 0x1p-46;     // relative difference below which entries count as equal
constexpr double kLow = -INFINITY;

// A row of x + g, padded with -inf to whole lumps, and the largest entry of each lump.
struct Shifted {
  std::vector<double> values, tops, gathered;
  double top = 0;

  explicit Shifted(int64_t k)
      : values(size_t((k + kLump - 1) / kLump * kLump), kLow),
        tops(values.size() / kLump),
        gathered(size_t(k)) {}
};

// Fills `values` and `tops`; returns the largest, or NaN for a row with NaN, +inf or nothing else
// than -inf.
template <class T>
__attribute__((always_inline)) inline double shift(const T* row, const double* g, int64_t k,
                                                   double* values, double* tops) {
  double top = kLow;
  int64_t bad = 0;
  const int64_t whole = k / kLump * kLump;
  for (int64_t j0 = 0; j0 < whole; j0 += kLump) {
    double lump = kLow;
#pragma omp simd reduction(max : lump) reduction(| : bad)
    for (int64_t j = j0; j < j0 + kLump; ++j) {
      const double x = widen(row[j]), s = x + g[j];
      bad |= x < INFINITY ? 0 : 1;
      values[j] = s;
      lump = s > lump ? s : lump;
    }
    tops[j0 / kLump] = lump;
    top = lump > top ? lump : top;
  }
  if (whole < k) {
    double lump = kLow;
    for (int64_t j = whole; j < k; ++j) {
      const double x = widen(row[j]), s = x + g[j];
      bad |= x < INFINITY ? 0 : 1;
      values[j] = s;
      lump = s > lump ? s : lump;
    }
    tops[whole / kLump] = lump;
    top = lump > top ? lump : top;
  }
  return bad || top == kLow ? NAN : top;
}

#define SINKHORN_SHIFT(T)                                                                    \
  SINKHORN_CLONES double shift_row(const T* row, const double* g, int64_t k, double* values, \
                                   double* tops) {                                           \
    return shift(row, g, k, values, tops);                                                   \
  }
SINKHORN_SHIFT(double)
SINKHORN_SHIFT(float)
SINKHORN_SHIFT(half)
SINKHORN_SHIFT(bfloat)
#undef SINKHORN_SHIFT

// Row i of x + g, and its largest entry.
template <class T>
void read_row(const Rows& x, int64_t i, const double* g, Shifted& out) {
  const T* row = static_cast<const T*>(x.data) + i * x.row_stride;
  if (x.col_stride != 1) {  // the columns of a transposed matrix
    T* gathered = reinterpret_cast<T*>(out.gathered.data());
    for (int64_t j = 0; j < x.k; ++j) gathered[j] = row[j * x.col_stride];
    row = gathered;
  }
  out.top = shift_row(row, g, x.k, out.values.data(), out.tops.data());
}

using ReadRow = void (*)(const Rows&, int64_t, const double*, Shifted&);

ReadRow reader(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return read_row<double>;
    case Dtype::f32:
      return read_row<float>;
    case Dtype::f16:
      return read_row<half>;
    case Dtype::bf16:
      return read_row<bfloat>;
  }
  return nullptr;
}

double value_at(const Rows& x, int64_t i, int64_t j) {
  const int64_t at = i * x.row_stride + j * x.col_stride;
  switch (x.dtype) {
    case Dtype::f64:
      return widen(static_cast<const double*>(x.data)[at]);
    case Dtype::f32:
      return widen(static_cast<const float*>(x.data)[at]);
    case Dtype::f16:
      return widen(static_cast<const half*>(x.data)[at]);
    case Dtype::bf16:
      return widen(static_cast<const bfloat*>(x.data)[at]);
  }
  return NAN;
}

// Where row i begins to look among equal entries: rows are to keep different ones.
int64_t beginning(int64_t i, int64_t k) {
  return int64_t(((uint64_t(i) * 0x9E3779B97F4A7C15u) >> 32) % uint64_t(k));
}

// Columns of at most `width` entries that are within `window` of the top.  Where there are more:
// entries that equal the top, with at most a third of others, in an order that differs from row to
// row; if they are too few, the best quarter, and of the others the first ones from `beginning` on.
// So equal rows keep different entries, together all, and few moves lead from any class to another.
void near_top(const Shifted& row, int64_t i, int64_t k, double window, int64_t width, double tie,
              std::vector<uint32_t>& columns) {
  const double bound = row.top - std::max(window, tie), equal = row.top - tie;
  columns.clear();
  const auto gather = [&](int64_t most) {
    for (size_t lump = 0; lump < row.tops.size() && int64_t(columns.size()) <= most; ++lump) {
      if (!(row.tops[lump] >= bound)) continue;
      const int64_t end = std::min(int64_t(lump + 1) * kLump, k);
      for (int64_t j = int64_t(lump) * kLump; j < end; ++j)
        if (row.values[size_t(j)] > kLow && row.values[size_t(j)] >= bound)
          columns.push_back(uint32_t(j));
    }
  };
  gather(width);
  if (int64_t(columns.size()) <= width) return;
  const int64_t begin = beginning(i, k);
  uint32_t stride = 1 + uint32_t(beginning(~i, k - 1));
  while (std::gcd(stride, uint32_t(k)) != 1) ++stride;  // at most k - 1
  columns.clear();
  int64_t others = 0;
  for (int64_t step = 0, j = begin; step < k && int64_t(columns.size()) < width; ++step) {
    const double value = row.values[size_t(j)];
    if (value >= equal || (value >= bound && value > kLow && ++others <= width / 3))
      columns.push_back(uint32_t(j));
    j = j + stride < k ? j + stride : j + stride - k;
  }
  if (int64_t(columns.size()) < width) {
    columns.clear();
    gather(k);
    const auto distance = [&](uint32_t j) { return (int64_t(j) - begin + k) % k; };
    const auto sooner = [&](uint32_t a, uint32_t b) { return distance(a) < distance(b); };
    const auto better = [&](uint32_t a, uint32_t b) {
      const double x = row.values[a], y = row.values[b];
      return x != y ? x > y : sooner(a, b);
    };
    const auto rest = columns.begin() + (width + 3) / 4;
    std::nth_element(columns.begin(), rest, columns.end(), better);
    if (rest < columns.begin() + width)
      std::nth_element(rest, columns.begin() + width, columns.end(), sooner);
    columns.resize(size_t(width));
  }
  std::sort(columns.begin(), columns.end());
}

double largest_finite(const double* g, int64_t k) {
  double largest = 0;
  for (int64_t j = 0; j < k; ++j)
    if (g[j] > kLow) largest = std::max(largest, std::fabs(g[j]));
  return largest;
}

// A sum and what rounding took off it (Neumaier).
void add(double x, double& sum, double& low) {
  const double total = sum + x;
  low += std::fabs(sum) >= std::fabs(x) ? (sum - total) + x : (x - total) + sum;
  sum = total;
}

int64_t blocks_of(const Span& span) { return (span.rows.n + kBlockRows - 1) / kBlockRows; }

// Calls work(block, row in the span, row of x + g) for all rows of a span, in parallel.
template <class Work>
void each_row(const Span& span, const double* g, const Work& work) {
  const Rows& x = span.rows;
  const ReadRow read = reader(x.dtype);
  const int64_t blocks = blocks_of(span);
  const int threads = int(std::min<int64_t>(std::max(span.threads, 1), blocks));
  std::vector<Shifted> scratch(size_t(threads), Shifted(x.k));
  bool failed = false;  // an exception may not leave a parallel region
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < blocks; ++b) {
    Shifted& row = scratch[size_t(omp_get_thread_num())];
    try {
      for (int64_t i = b * kBlockRows; i < std::min(x.n, (b + 1) * kBlockRows); ++i) {
        read(x, i, g, row);
        work(b, i, row);
      }
    } catch (const std::bad_alloc&) {
#pragma omp atomic write
      failed = true;
    }
  }
  if (failed) throw std::bad_alloc();
}

}  // namespace

double Balancer::tolerance(double own) const {
  return kTie * std::fabs(own) + 2 * kTie * largest_g_;
}

BadRow Balancer::collect(const Span& span, const double* g, double window, int64_t width) {
  struct Part {
    std::vector<uint32_t> columns;
    std::vector<Candidate> entries;
    std::vector<uint32_t> counts;
    BadRow bad = -1;
  };
  const int64_t k = k_, step = 64;  // blocks in hand at a time
  largest_g_ = largest_finite(g, k);
  threads_ = span.threads;
  for (int64_t first = 0; first < span.rows.n; first += step * kBlockRows) {
    Span some = span;
    const int64_t size = span.rows.dtype == Dtype::f64 ? 8 : span.rows.dtype == Dtype::f32 ? 4 : 2;
    some.rows.data = static_cast<const char*>(span.rows.data) + first * span.rows.row_stride * size;
    some.rows.n = std::min(step * kBlockRows, span.rows.n - first);
    std::vector<Part> parts(size_t(blocks_of(some)));
    each_row(some, g, [&](int64_t b, int64_t i, const Shifted& row) {
      Part& part = parts[size_t(b)];
      if (row.top != row.top) {
        if (part.bad < 0) part.bad = span.first + first + i;
        part.counts.push_back(0);
        return;
      }
      near_top(row, span.first + first + i, k, window, width, tolerance(row.top), part.columns);
      part.counts.push_back(uint32_t(part.columns.size()));
      for (uint32_t j : part.columns) part.entries.push_back({value_at(some.rows, i, j), j});
    });
    int64_t at = span.first + first;
    for (Part& part : parts) {
      if (part.bad >= 0) return part.bad;
      memory_.emplace_back(new Candidate[part.entries.size()]);
      std::copy(part.entries.begin(), part.entries.end(), memory_.back().get());
      const Candidate* list = memory_.back().get();
      for (uint32_t count : part.counts) {
        rows_[size_t(at++)] = {list, count, 0, kNowhere};
        list += count;
      }
      kept_ += int64_t(part.entries.size());
    }
  }
  return -1;
}

void Balancer::check(const Span& span, double window, int64_t width) {
  struct Part {
    std::vector<uint32_t> columns;
    std::vector<Noted> noted;
    double objective[2] = {0, 0}, slack[2] = {0, 0};
  };
  if (span.first == 0) {
    certificate_ = {};
    certificate_low_[0] = certificate_low_[1] = 0;
    noted_.clear();
  }
  std::vector<Part> parts(size_t(blocks_of(span)));
  each_row(span, g_.data(), [&](int64_t b, int64_t i, const Shifted& row) {
    Part& part = parts[size_t(b)];
    const uint32_t label = rows_[size_t(span.first + i)].label;
    const double value = value_at(span.rows, i, label), slack = row.top - row.values[label];
    add(value, part.objective[0], part.objective[1]);
    add(slack, part.slack[0], part.slack[1]);
    // more than twice what a path may have taken for nothing
    if (!(slack > 2 * (tolerance(row.top) + tolerance(value)))) return;
    Noted noted{span.first + i, {}};
    near_top(row, noted.row, k_, window, width, tolerance(row.top), part.columns);
    for (uint32_t j : part.columns) noted.entries.push_back({value_at(span.rows, i, j), j});
    part.noted.push_back(std::move(noted));
  });
  for (Part& part : parts) {
    add(part.objective[0], certificate_.objective, certificate_low_[0]);
    add(part.objective[1], certificate_.objective, certificate_low_[0]);
    add(part.slack[0], certificate_.slack, certificate_low_[1]);
    add(part.slack[1], certificate_.slack, certificate_low_[1]);
    std::move(part.noted.begin(), part.noted.end(), std::back_inserter(noted_));
  }
}

int64_t Balancer::look_outside(const Span& span) {
  std::vector<double> outside(g_.begin(), g_.begin() + k_);
  for (int64_t c = 0; c < k_; ++c)
    if (settled_[size_t(c)]) outside[size_t(c)] = kLow;
  std::vector<std::vector<Noted>> parts(size_t(blocks_of(span)));
  each_row(span, outside.data(), [&](int64_t b, int64_t i, const Shifted& row) {
    const int64_t at = span.first + i;
    if (!settled_[rows_[size_t(at)].label] || row.top != row.top) return;
    Noted noted{at, {}};
    bool best = false;
    for (int64_t step = 0, j = beginning(at, k_); step < k_; ++step, j = j + 1 < k_ ? j + 1 : 0) {
      const double value = row.values[size_t(j)];
      const bool top = !best && value == row.top;
      best = best || top;
      if (top || (value > kLow && noted.entries.size() < kOutside))
        noted.entries.push_back({value_at(span.rows, i, j), uint32_t(j)});
    }
    parts[size_t(b)].push_back(std::move(noted));
  });
  int64_t found = 0;
  for (std::vector<Noted>& part : parts)
    for (Noted& noted : part) {
      const double own = rows_[size_t(noted.row)].own();
      for (const Candidate& entry : noted.entries)
        if (!(own - entry.value < INFINITY)) throw std::overflow_error("differences overflow");
      store(noted.row, noted.entries);
      ++found;
    }
  return found;
}

}  // namespace sinkhorn
