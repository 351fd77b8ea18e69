// What one thread does to one block of a sketch: how rows are kept, and the three operations.

// The row s of a block.
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

// Entries below the smallest normal float would be flushed away anyhow.
inline float smallest_entry(const Extras& extras) {
  return extras.cut > 1e-37 ? float(extras.cut) : 1e-37f;
}

// Writes the entries of at least `cut` to `to`, their columns to `columns`; stops beyond `most`.
// Both have kLanes words to spare.  Returns how many there are.
inline int64_t gather_entries(const float* weights, float cut, int64_t k, int64_t most, float* to,
                              uint32_t* columns) {
  int64_t count = 0;
#if defined(SINKHORN_AVX512)
  __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
  for (int64_t j = 0; j < k && count <= most; j += kLanes) {
    uint32_t bits = at_least(load(weights + j), all(cut));
#if defined(SINKHORN_AVX512)
    // compressed in registers: a compressing store is slow on some processors
    store(to + count, _mm512_maskz_compress_ps(__mmask16(bits), load(weights + j)));
    _mm512_storeu_si512(columns + count, _mm512_maskz_compress_epi32(__mmask16(bits), lanes));
    lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(kLanes));
    count += __builtin_popcount(bits);
#else
    for (; bits; bits &= bits - 1) {
      const int64_t c = j + __builtin_ctz(bits);
      columns[count] = uint32_t(c);
      to[count++] = weights[c];
    }
#endif
  }
  return count;
}

// Keeps a row when the room is used no faster than the rows go by; a kept row also stands for those
// that were passed over since the last one.  `columns`: k + kLanes words of scratch.
inline void keep_row(SketchBlock& to, const float* weights, float cut, float weight,
                     uint32_t* columns) {
  const int64_t turn = to.seen++, k = to.k;
  to.pending += weight;
  const bool all_fit = to.capacity >= to.planned * k;
  if (!all_fit && (to.used * to.planned > to.capacity * turn || to.used + k > to.capacity)) return;
  float* row = to.words + to.used;
  const int64_t most = (k - 1) / 2;  // more are stored as a dense row
  const int64_t count = gather_entries(weights, cut, k, most, row, columns);
  if (count > most) {
    __builtin_memcpy(row, weights, sizeof(float) * size_t(k));
    to.used += k;
  } else {
    __builtin_memcpy(row + count, columns, sizeof(uint32_t) * size_t(count));
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
template <class A>
inline double dot(const SketchRow& row, const A* y) {
  constexpr int64_t run = 2048;
  const float* entry = row.entry;
  const int32_t* column = row.column;
  double total = 0;
  for (int64_t e0 = 0; e0 < row.count; e0 += run) {
    const int64_t e1 = e0 + run < row.count ? e0 + run : row.count;
    A t = 0;
    if (column) {
#pragma omp simd reduction(+ : t)
      for (int64_t e = e0; e < e1; ++e) t += A(entry[e]) * y[column[e]];
    } else {
#pragma omp simd reduction(+ : t)
      for (int64_t e = e0; e < e1; ++e) t += A(entry[e]) * y[e];
    }
    total += double(t);
  }
  return total;
}

// Sums of type A over the rows of a block, passed on in double often enough for float.
template <class A>
struct RunningSums {
  A* partial;
  double* sums;
  int64_t width, flushed = 0;

  RunningSums(void* scratch, double* to, int64_t count)
      : partial(static_cast<A*>(scratch)), sums(to), width(count) {
    __builtin_memset(partial, 0, sizeof(A) * size_t(width));
  }

  void row_done(const SketchBlock& block, int64_t r) {
    const int64_t run = 16 * (width > 1024 ? width : 1024);
    if (block.row_end[r] - flushed < run && r + 1 < block.rows) return;
    flushed = block.row_end[r];
    flush(partial, sums, width);
    __builtin_memset(partial, 0, sizeof(A) * size_t(width));
  }
};

// sums: k column masses and k second moments, both but for the scalings; scratch as long.
template <class A>
void sketch_mass(SketchBlock& block, const void* scalings, void* scratch, double* sums) {
  const A* y = static_cast<const A*>(scalings);
  RunningSums<A> running(scratch, sums, 2 * block.k);
  A *m = running.partial, *s = m + block.k;
  for (int64_t r = 0; r < block.rows; ++r) {
    const SketchRow row = sketch_row(block, r);
    const double weight = block.weight[r], scale = weight / dot(row, y);
    block.scale[r] = scale;
    const A c = A(scale), per_weight = A(weight > 0 ? 1 / weight : 0);
    if (row.column) {
      for (int64_t e = 0; e < row.count; ++e) {
        const A q = A(row.entry[e]) * c;
        m[row.column[e]] += q;
        s[row.column[e]] += q * q * per_weight;
      }
    } else {
      const float* entry = row.entry;
#pragma omp simd
      for (int64_t j = 0; j < row.count; ++j) {
        const A q = A(entry[j]) * c;
        m[j] += q;
        s[j] += q * q * per_weight;
      }
    }
    running.row_done(block, r);
  }
}

double sketch_value(SketchBlock& block, const double* scalings) {
  double total = 0;
  for (int64_t r = 0; r < block.rows; ++r)
    if (block.weight[r] > 0)
      total += block.weight[r] * __builtin_log(dot(sketch_row(block, r), scalings));
  return total;
}

void sketch_second_moment(SketchBlock& block, const float* y, void* scratch, double* sums) {
  RunningSums<float> running(scratch, sums, block.k);
  float* out = running.partial;
  for (int64_t r = 0; r < block.rows; ++r) {
    const double c = block.scale[r];
    if (c > 0) {
      const SketchRow row = sketch_row(block, r);
      const float u = float(dot(row, y) * c / block.weight[r] * c);
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
