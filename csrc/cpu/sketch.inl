// What one thread does to one block of a sketch: how rows are kept, and the three operations.

// The row r of a block.
struct SketchRow {
  const float* entry;
  const int32_t* column;  // null: all k columns
  int64_t count;
};

inline SketchRow sketch_row(const SketchBlock& block, int64_t r) {
  const int64_t first = r ? block.row_end[r - 1] : 0, words = block.row_end[r] - first;
  const float* entry = block.words + first;
  if (words == block.k) return {entry, nullptr, words};
  const int64_t count = words / 2;
  return {entry, reinterpret_cast<const int32_t*>(entry + count), count};
}

constexpr int64_t kShort = 24;  // entries that are multiplied one by one

// Writes the entries that matter to `to`, their columns to `columns`, k words
// each at most.  Stops some time after `most` of them.  Returns how many there are.
inline int64_t gather_entries(const float* weights, const SketchBlock& block, float top,
                              int64_t most, float* to, uint32_t* columns) {
  const int64_t k = block.k;
  const float least = top * block.least_cut;
  int64_t count = 0;
  // entries below the smallest normal float would be flushed away anyhow
  auto matter = [&](int64_t j) __attribute__((always_inline)) {
    return at_least(load(weights + j), larger(load(block.cut + j) * all(top), all(1e-37f)));
  };
  auto look = [&](int64_t j) __attribute__((always_inline)) {
    for (uint32_t bits = matter(j); bits; bits &= bits - 1) {
      const int64_t c = j + __builtin_ctz(bits);
      columns[count] = uint32_t(c);
      to[count++] = weights[c];
    }
  };
  int64_t j = 0;
  for (; j + 4 * kLanes <= k && count <= most; j += 4 * kLanes)
    if (at_least(largest_of_four(weights + j), all(least)))
      for (int64_t c = 0; c < 4; ++c) look(j + c * kLanes);
  for (; j < k && count <= most; j += kLanes) look(j);
  return count;
}

// The largest entry of a row when all have moved down.
inline float held_top(const float* weights, const SketchBlock& block) {
  auto held = [&](int64_t j) __attribute__((always_inline)) {
    return load(weights + j) * load(block.hold + j);
  };
  V top = all(0);
  int64_t j = 0;
  for (; j + 4 * kLanes <= block.k; j += 4 * kLanes)  // not one chain of maxima
    top = larger(larger(larger(held(j), held(j + kLanes)),
                        larger(held(j + 2 * kLanes), held(j + 3 * kLanes))),
                 top);
  for (; j < block.k; j += kLanes) top = larger(held(j), top);
  return largest(top);
}

// Keeps a row when the room is used no faster than the rows go by; a kept row also stands for those
// that were passed over since the last one.  `columns`: k + kLanes words of scratch.
inline void keep_row(SketchBlock& to, const float* weights, float weight, uint32_t* columns) {
  const int64_t turn = to.seen++, k = to.k;
  to.pending += weight;
  const bool all_fit = to.capacity >= to.planned * k;
  if (!all_fit && (to.used * to.planned > to.capacity * turn || to.used + k > to.capacity)) return;
  float* row = to.words + to.used;
  const int64_t most = (k - 1) / 2;  // more are stored as a dense row
  const int64_t count = gather_entries(weights, to, held_top(weights, to), most, row, columns);
  if (count > most) {
    __builtin_memcpy(row, weights, sizeof(float) * size_t(k));
    to.used += k;
  } else {
    for (int64_t e = 0; e < count; e += kLanes)  // whole vectors: there are kPad words to spare
      store(row + count + e, load(reinterpret_cast<const float*>(columns + e)));
    to.used += 2 * count;
  }
  to.weight[to.rows] = to.pending;
  to.row_end[to.rows++] = uint32_t(to.used);
  to.pending = 0;
}

// The last kept row also stands for those after it.
inline void close_sketch(SketchBlock* to) {
  if (to && to->rows > 0) to->weight[to->rows - 1] += to->pending;
}

// sum_k e_k y_k; in float over short runs.
inline double dot(const SketchRow& row, const float* y) {
  constexpr int64_t run = 2048;
  const float* entry = row.entry;
  const int32_t* column = row.column;
  if (column && row.count < kShort) {
    float t = 0;
    for (int64_t e = 0; e < row.count; ++e) t += entry[e] * y[column[e]];
    return double(t);
  }
  double total = 0;
  for (int64_t e0 = 0; e0 < row.count; e0 += run) {
    const int64_t e1 = e0 + run < row.count ? e0 + run : row.count;
    float t = 0;
    if (column) {
#pragma omp simd reduction(+ : t)
      for (int64_t e = e0; e < e1; ++e) t += entry[e] * y[column[e]];
    } else {
#pragma omp simd reduction(+ : t)
      for (int64_t e = e0; e < e1; ++e) t += entry[e] * y[e];
    }
    total += double(t);
  }
  return total;
}

// Sums in float over the rows of a block, passed on in double often enough.
struct RunningSums {
  float* partial;
  double* sums;
  int64_t width, flushed = 0;

  RunningSums(void* scratch, double* to, int64_t count)
      : partial(static_cast<float*>(scratch)), sums(to), width(count) {
    __builtin_memset(partial, 0, sizeof(float) * size_t(width));
  }

  void row_done(const SketchBlock& block, int64_t r) {
    const int64_t run = 16 * (width > 1024 ? width : 1024);
    if (block.row_end[r] - flushed < run && r + 1 < block.rows) return;
    flushed = block.row_end[r];
    flush(partial, sums, width);
    __builtin_memset(partial, 0, sizeof(float) * size_t(width));
  }
};

// sums: k column masses and k second moments, both but for the scalings; scratch as long.
void sketch_mass(SketchBlock& block, const float* y, void* scratch, double* sums) {
  RunningSums running(scratch, sums, 2 * block.k);
  float *m = running.partial, *s = m + block.k;
  for (int64_t r = 0; r < block.rows; ++r) {
    const SketchRow row = sketch_row(block, r);
    const double weight = block.weight[r], total = dot(row, y);
    block.curvature[r] = float(weight / (total * total));
    const float c = float(weight / total), per_weight = float(weight > 0 ? 1 / weight : 0);
    if (row.column) {
      for (int64_t e = 0; e < row.count; ++e) {
        const float q = row.entry[e] * c;
        m[row.column[e]] += q;
        s[row.column[e]] += q * q * per_weight;
      }
    } else {
      const float* entry = row.entry;
#pragma omp simd
      for (int64_t j = 0; j < row.count; ++j) {
        const float q = entry[j] * c;
        m[j] += q;
        s[j] += q * q * per_weight;
      }
    }
    running.row_done(block, r);
  }
}

void sketch_second_moment(SketchBlock& block, const float* y, void* scratch, double* sums) {
  RunningSums running(scratch, sums, block.k);
  float* out = running.partial;
  for (int64_t r = 0; r < block.rows; ++r) {
    if (block.curvature[r] > 0) {
      const SketchRow row = sketch_row(block, r);
      const float u = float(dot(row, y)) * block.curvature[r];
      if (row.column) {
        for (int64_t e = 0; e < row.count; ++e) out[row.column[e]] += row.entry[e] * u;
      } else {
        const float* entry = row.entry;
#pragma omp simd
        for (int64_t j = 0; j < row.count; ++j) out[j] += entry[j] * u;
      }
    }
    running.row_done(block, r);
  }
}
