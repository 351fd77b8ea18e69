// Kind::quick for logits of at most 32 bits: float32 arithmetic on exponents that are nearly exact.
//
// With the row top t and high both on a grid, high - t is exact, so rate * x + (high - t) is
// rounded once, at the size of the result: entries that matter have exponents near 0 and keep all
// their bits, however large logits and g are.
//
// Rows go by in groups of kRows. While a group is exponentiated, the one before goes to the column
// sums and the next one is searched for its maxima, so that no row waits for a reduction and memory
// never idles; what the rows of a group share (g, the sums) is loaded and stored once.

constexpr int kRows = kLanes == 16 ? 2 : 1;  // more do not fit the registers
constexpr float kGrid = 1.f / 1024;
// |t| beyond this: high - t may no longer be exact, and the row takes the float64 path.
constexpr float kFastRange = 8192;
// Entries this close to the row's largest (log2) may be the largest in float64.
constexpr float kNearTop = 1.f / 256;
constexpr int64_t kPrefetchBytes = 65536;

template <class T>
inline const T* fetch_row(const Rows& x, int64_t i, void* copy) {
  const T* row = static_cast<const T*>(x.data) + i * x.row_stride;
  if (x.col_stride == 1) return row;
  T* to = static_cast<T*>(copy);
  for (int64_t j = 0; j < x.k; ++j) to[j] = row[j * x.col_stride];
  return to;
}

template <bool whole, class T>
inline V load_some(const T* p, int64_t lanes) {
  if constexpr (whole) return load(p);
  return load_tail(p, lanes);
}

inline float round_to_grid(float x) { return __builtin_nearbyintf(x / kGrid) * kGrid; }

// The largest of rate * row + high: the top of the row, up to the last bits.
template <class T>
float search_row(const T* row, const Scaled& g, int64_t k) {
  const V rate = all(g.rate);
  V top = all(-__builtin_inff());
  int64_t j = 0;
  for (; j + kLanes <= k; j += kLanes) top = larger(load(row + j) * rate + load(g.high + j), top);
  if (j < k) top = larger(load_tail(row + j, k - j) * rate + load(g.high + j), top);
  return round_to_grid(largest(top));
}

// The label in float64 among the entries that float32 cannot tell apart.
template <class T>
int64_t decide(const T* row, const double* g, const float* weights, float near, int64_t k) {
  const V bound = all(near);
  double best = -kInf;
  int64_t label = 0;
  auto look = [&](int64_t j) {
    for (uint32_t bits = at_least(load(weights + j), bound); bits; bits &= bits - 1) {
      const int64_t c = j + __builtin_ctz(bits);
      const double s = c < k ? widen(row[c]) + g[c] : -kInf;
      if (s > best) best = s, label = c;
    }
  };
  int64_t j = 0;
  for (; j + 4 * kLanes <= k; j += 4 * kLanes) {
    if (__builtin_expect(at_least(largest_of_four(weights + j), bound) != 0, 0))
      for (int64_t c = 0; c < 4; ++c) look(j + c * kLanes);
  }
  for (; j < k; j += kLanes) look(j);
  return label;
}

// A row on its way through the kernel.
template <class T>
struct InFlight {
  int64_t i;
  const T *row, *next;
  float* weights;    // 2^(scaled exponent) of the row; until they are made, those of the one before
  float top, scale;  // of the row, of the one before: weight / sum of its weights
};

template <class T>
BadRow fast_block(const Rows& x, const Point& at, const Scaled& g, const Sample& sample,
                  const Extras& extras, const Scratch& scratch, Block& block) {
  constexpr int64_t stretch = 64 * kLanes;  // columns that are summed in float
  constexpr int64_t line = 64 / sizeof(T);  // entries of a cache line
  const int64_t k = x.k, padded = (k + kPad - 1) / kPad * kPad;
  const double n = double(x.n), log_n = __builtin_log(n);
  const float near = __builtin_exp2f(-kNearTop);
  const int64_t ahead = kRows * (1 + kPrefetchBytes / (kRows * k * int64_t(sizeof(T))));
  float* partial = static_cast<float*>(scratch.partial);
  const V rate = all(g.rate);
  const float *const g_high = g.high, *const g_low = g.low;  // not read anew after each store
  __builtin_memset(partial, 0, sizeof(float) * size_t(padded));

  // groups begin at multiples of kRows; where one reaches beyond the block, the nearest row of the
  // block also plays the missing ones, which count for nothing
  const int64_t last = block.last, begin = block.first / kRows * kRows;
  auto missing = [&](int64_t s) { return s < block.first || s >= last; };
  auto row_at = [&](int64_t s) {
    return sample.row(s < block.first ? block.first : s < last ? s : last - 1);
  };
  auto fetch = [&](int64_t s, int64_t turn) {
    const int64_t slot = s - begin - kRows * (turn - turn % 2);
    return fetch_row<T>(x, row_at(s), static_cast<T*>(scratch.rows) + slot * padded);
  };
  InFlight<T> fly[kRows];
  for (int r = 0; r < kRows; ++r) {
    fly[r] = {0, nullptr, fetch(begin + r, 0), static_cast<float*>(scratch.weights) + r * padded,
              0, 0};
    fly[r].top = search_row(fly[r].next, g, k);
    __builtin_memset(fly[r].weights, 0, sizeof(float) * size_t(padded));
  }
  for (int64_t s = begin, turn = 1; s < last; s += kRows, ++turn) {
    const bool more = s + kRows < last;
    const T* far[kRows];
    V top[kRows], scale[kRows], next_top[kRows];
    double total[kRows];
    for (int r = 0; r < kRows; ++r) {
      fly[r].i = row_at(s + r);
      fly[r].row = fly[r].next;
      if (more) fly[r].next = fetch(s + kRows + r, turn);
      const int64_t later = s + r + ahead;
      far[r] = static_cast<const T*>(x.data) +
               sample.row(later < sample.last ? later : last - 1) * x.row_stride;
      top[r] = all(fly[r].top);
      scale[r] = all(fly[r].scale);
      next_top[r] = all(-__builtin_inff());
      total[r] = 0;
    }
    auto step = [&](int64_t j, auto whole, int64_t lanes, V* part) __attribute__((always_inline)) {
      const V high = load(g_high + j), low = load(g_low + j);
      V sum = load(partial + j);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        sum = load(fly[r].weights + j) * scale[r] + sum;
        const V here = load_some<whole>(fly[r].row + j, lanes);
        const V e = exp2(fused(here, rate, high - top[r]) + low);
        store(fly[r].weights + j, e);
        part[r] += e;
        next_top[r] = larger(load_some<whole>(fly[r].next + j, lanes) * rate + high, next_top[r]);
      }
      store(partial + j, sum);
    };
    for (int64_t j0 = 0; j0 < k; j0 += stretch) {
      const int64_t j1 = j0 + stretch < k ? j0 + stretch : k;
      V part[kRows];
      for (int r = 0; r < kRows; ++r) part[r] = all(0);
      int64_t j = j0;
      for (; j + line <= j1; j += line) {
        for (int r = 0; r < kRows; ++r) __builtin_prefetch(far[r] + j, 0, 2);
#pragma GCC unroll 4
        for (int64_t v = 0; v < line; v += kLanes) step(j + v, std::true_type(), kLanes, part);
      }
      for (; j + kLanes <= j1; j += kLanes) step(j, std::true_type(), kLanes, part);
      if (j < j1) step(j, std::false_type(), j1 - j, part);
      for (int r = 0; r < kRows; ++r) total[r] += sum(part[r]);
    }

    for (int r = 0; r < kRows; ++r) {
      if (missing(s + r)) {  // it may be infinite, and its scale of 0 would make NaN of that
        __builtin_memset(fly[r].weights, 0, sizeof(float) * size_t(padded));
        continue;
      }
      InFlight<T>& one = fly[r];
      double offset = one.top;  // sum_j 2^(scaled exponent) = total * 2^offset
      if (!(total[r] > 0) || !(__builtin_fabsf(one.top) <= kFastRange)) {
        // NaN, infinities and huge logits end here
        double shift = shift_row(one.row, 1, at.g, k, scratch.shifted);
        if (shift != shift) return one.i;
        total[r] = weigh_row(scratch.shifted, shift, 1. / at.epsilon, k, one.weights);
        for (int64_t j = k; j < padded; ++j) one.weights[j] = 0;
        offset = shift * g.rate;
      }
      const double weight = at.a ? at.a[one.i] * n : 1.;
      one.scale = float(weight / total[r]);
      block.weight += weight;
      if (is_kept(block.kept, s + r))
        keep_row(*block.kept, one.weights, float(weight), scratch.entries, scratch.columns);
      if (extras.labels) extras.labels[one.i] = decide(one.row, at.g, one.weights, near, k);
      if (extras.f) {
        const double log_a = at.a ? __builtin_log(at.a[one.i]) : -log_n;
        extras.f[one.i] = at.epsilon * log_a - (__builtin_log2(total[r]) + offset) / g.rate;
      }
    }
    for (int r = 0; r < kRows; ++r) fly[r].top = round_to_grid(largest(next_top[r]));
    if ((s + kRows) % kRun == 0 || !more) {
      for (int r = 0; r < kRows; ++r) {  // what the next turn would have added
        if (missing(s + r)) continue;
        for (int64_t j = 0; j < k; j += kLanes)
          store(partial + j, load(fly[r].weights + j) * all(fly[r].scale) + load(partial + j));
        fly[r].scale = 0;
      }
      flush(partial, block.sum, k);
      __builtin_memset(partial, 0, sizeof(float) * size_t(padded));
    }
  }
  return -1;
}
