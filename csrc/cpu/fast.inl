// Kind::quick for logits of at most 32 bits: float32 arithmetic on exponents that are nearly exact.
//
// With the row top t and high both on a grid, high - t is exact, so rate * x + (high - t) is
// rounded once, at the size of the result: entries that matter have exponents near 0 and keep all
// their bits, however large logits and g are.
//
// Three rows are in flight: while row i is exponentiated, row i - 1 goes to the column sums and row
// i + 1 is searched for its maximum, so that no row waits for a reduction and memory never idles.

constexpr float kGrid = 1.f / 1024;
// |t| beyond this: high - t may no longer be exact, and the row takes the float64 path.
constexpr float kFastRange = 8192;
// Entries this close to the row's largest (log2) may be the largest in float64.
constexpr float kNearTop = 1.f / 256;
constexpr int64_t kPrefetchBytes = 16384;

inline float round_to_grid(float x) { return __builtin_nearbyintf(x / kGrid) * kGrid; }

template <class T>
inline const T* fetch_row(const Rows& x, int64_t i, void* copy) {
  const T* row = static_cast<const T*>(x.data) + i * x.row_stride;
  if (x.col_stride == 1) return row;
  T* to = static_cast<T*>(copy);
  for (int64_t j = 0; j < x.k; ++j) to[j] = row[j * x.col_stride];
  return to;
}

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
    const float* w = weights + j;
    const V four = larger(larger(load(w), load(w + kLanes)),
                          larger(load(w + 2 * kLanes), load(w + 3 * kLanes)));
    if (__builtin_expect(at_least(four, bound) != 0, 0))
      for (int64_t c = 0; c < 4; ++c) look(j + c * kLanes);
  }
  for (; j < k; j += kLanes) look(j);
  return label;
}

// Entries below the smallest normal float would be flushed away anyhow.
inline float smallest_entry(const Extras& extras) {
  return extras.cut > 1e-37 ? float(extras.cut) : 1e-37f;
}

// Keeps a row when the room is used no faster than the rows go by; a kept row also stands for those
// that were passed over since the last one.
inline void sketch_row(SketchBlock& to, const float* weights, float cut, float weight, int64_t k) {
  const int64_t turn = to.seen++;
  to.pending += weight;
  const bool all_fit = to.capacity >= to.planned * k;
  if (!all_fit && (to.entries * to.planned > to.capacity * turn || to.entries + k > to.capacity))
    return;
  for (int64_t j = 0; j < k; j += kLanes)
    for (uint32_t bits = at_least(load(weights + j), all(cut)); bits; bits &= bits - 1) {
      const int64_t c = j + __builtin_ctz(bits);
      to.column[to.entries] = uint32_t(c);
      to.entry[to.entries++] = weights[c];
    }
  to.weight[to.rows] = to.pending;
  to.row_end[to.rows++] = uint32_t(to.entries);
  to.pending = 0;
}

// The last kept row also stands for those after it.
inline void close_sketch(SketchBlock* to) {
  if (to && to->rows > 0) to->weight[to->rows - 1] += to->pending;
}

template <class T>
BadRow fast_block(const Rows& x, const Point& at, const Scaled& g, const Sample& sample,
                  const Extras& extras, const Scratch& scratch, Block& block) {
  constexpr int64_t run = 64, stretch = 64 * kLanes;  // rows, columns that are summed in float
  const int64_t k = x.k, padded = (k + kPad - 1) / kPad * kPad;
  const double n = double(x.n), log_n = __builtin_log(n);
  const float cut = smallest_entry(extras), near = __builtin_exp2f(-kNearTop);
  const int64_t ahead = 2 + kPrefetchBytes / (k * int64_t(sizeof(T)));
  float* weights[2] = {reinterpret_cast<float*>(scratch.weights),
                       reinterpret_cast<float*>(scratch.weights) + padded};
  float* partial = static_cast<float*>(scratch.partial);
  const V rate = all(g.rate);
  const float *const g_high = g.high, *const g_low = g.low;  // not read anew after each store
  __builtin_memset(weights[1], 0, sizeof(float) * size_t(padded));
  __builtin_memset(partial, 0, sizeof(float) * size_t(padded));

  const T* row = fetch_row<T>(x, sample.row(block.first), scratch.row[0]);
  float top = search_row(row, g, k), scale = 0;
  for (int64_t s = block.first; s < block.last; ++s) {
    const int64_t i = sample.row(s), turn = s - block.first;
    const bool more = s + 1 < block.last;
    const T* next = more ? fetch_row<T>(x, sample.row(s + 1), scratch.row[(turn + 1) % 2]) : row;
    const T* far = static_cast<const T*>(x.data) +
                   sample.row(s + ahead < sample.count ? s + ahead : s) * x.row_stride;
    float *now = weights[turn & 1], *before = weights[~turn & 1];
    const V t = all(top), last_scale = all(scale);
    V next_top = all(-__builtin_inff());
    double total = 0;
    auto step = [&](int64_t j, V here, V ahead_of, V& part) __attribute__((always_inline)) {
      const V high = load(g_high + j);
      const V e = exp2(here * rate + (high - t) + load(g_low + j));
      next_top = larger(ahead_of * rate + high, next_top);
      store(partial + j, load(before + j) * last_scale + load(partial + j));
      store(now + j, e);
      part += e;
    };
    for (int64_t j0 = 0; j0 < k; j0 += stretch) {
      const int64_t j1 = j0 + stretch < k ? j0 + stretch : k;
      V part = all(0);
      int64_t j = j0;
#pragma GCC unroll 2
      for (; j + kLanes <= j1; j += kLanes) {
        if (sizeof(T) * kLanes == 64 || j % (64 / int64_t(sizeof(T))) == 0)
          __builtin_prefetch(far + j, 0, 2);
        step(j, load(row + j), load(next + j), part);
      }
      if (j < j1) step(j, load_tail(row + j, j1 - j), load_tail(next + j, j1 - j), part);
      total += sum(part);
    }

    double offset = top;  // sum_j 2^(scaled exponent) = total * 2^offset
    if (!(total > 0) || !(__builtin_fabsf(top) <= kFastRange)) {
      // NaN, infinities and huge logits end here
      double shift = shift_row(row, 1, at.g, k, scratch.shifted);
      if (shift != shift) return i;
      total = weigh_row(scratch.shifted, shift, 1. / at.epsilon, k, now);
      for (int64_t j = k; j < padded; ++j) now[j] = 0;
      offset = shift * g.rate;
    }
    const double weight = at.a ? at.a[i] * n : 1.;
    scale = float(weight / total);
    block.weight += weight;
    if (block.sketch) sketch_row(*block.sketch, now, cut, float(weight), k);
    if (extras.labels) extras.labels[i] = decide(row, at.g, now, near, k);
    if (extras.f) {
      const double log_a = at.a ? __builtin_log(at.a[i]) : -log_n;
      extras.f[i] = at.epsilon * log_a - (__builtin_log2(total) + offset) / g.rate;
    }
    row = next;
    top = round_to_grid(largest(next_top));
    if ((turn + 1) % run == 0 || !more) {
      for (int64_t j = 0; j < k; j += kLanes)  // the row that the next turn would have added
        store(partial + j, load(now + j) * all(scale) + load(partial + j));
      scale = 0;
      flush(partial, block.sum, k);
      __builtin_memset(partial, 0, sizeof(float) * size_t(padded));
    }
  }
  close_sketch(block.sketch);
  return -1;
}
