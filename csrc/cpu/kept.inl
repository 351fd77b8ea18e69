// What one thread does to one block of kept entries: how rows are kept, and the two operations.

constexpr int64_t kShort = 24;  // entries that are multiplied one by one

// Which rows are kept: a part of all that is spread evenly and follows no period of the data, and
// that does not depend on how rows are shared out (Fibonacci hashing).
inline bool is_kept(const KeptBlock* block, int64_t row) {
  return block && (hash_of(row) >> 32) < block->threshold;
}

inline int64_t count_entries(const float* weights, V bound, int64_t k) {
  int64_t count = 0;
  for (int64_t j = 0; j < k; j += kLanes)
    count += __builtin_popcount(at_least(load(weights + j), bound));
  return count;
}

// Writes the entries that are not too small, and their columns; stops some time after `most`.
// Returns how many there are.
inline int64_t gather_entries(const float* weights, float least, int64_t k, int64_t most,
                              float* entries, uint32_t* columns) {
  const V bound = all(least);
  int64_t count = 0;
  auto look = [&](int64_t j) __attribute__((always_inline)) {
    for (uint32_t bits = at_least(load(weights + j), bound); bits; bits &= bits - 1) {
      const int64_t c = j + __builtin_ctz(bits);
      columns[count] = uint32_t(c);
      entries[count++] = weights[c];
    }
  };
  // where most of the first ones are kept, there is likely no need to write any
  const int64_t first = k < 4 * kLanes ? k : 4 * kLanes;
  if (2 * count_entries(weights, bound, first) > first) {
    const int64_t all_in_all = count_entries(weights, bound, k);
    if (all_in_all > most) return all_in_all;
  }
  int64_t j = 0;
  for (; j + 4 * kLanes <= k && count <= most; j += 4 * kLanes)
    if (at_least(largest_of_four(weights + j), bound))
      for (int64_t c = 0; c < 4; ++c) look(j + c * kLanes);
  for (; j < k && count <= most; j += kLanes) look(j);
  return count;
}

// Returns where that many words go, or null if there is no room for them.
inline float* place_for(KeptBlock& block, int64_t words) {
  if (block.at + words > block.end) {
    const int64_t chunk = block.pool->asked.fetch_add(1);
    block.fits = block.fits && chunk < block.pool->chunks;
    block.at = block.fits ? chunk * block.pool->chunk : 0;
    block.end = block.fits ? block.at + block.pool->chunk : 0;
  }
  return block.fits ? block.pool->words + block.at : nullptr;
}

// Keeps a row of weights, the largest of which is about 1; `entries` and `columns` are scratch for
// k each.
inline void keep_row(KeptBlock& to, const float* weights, float weight, float* entries,
                     uint32_t* columns) {
  const int64_t k = to.k, most = (k - 1) / 2;  // more are kept without columns
  const int64_t count = gather_entries(weights, to.least, k, most, entries, columns);
  const bool whole = count > most;
  const int64_t words = whole ? k : 2 * count;
  if (to.rows == to.room) to.fits = false;
  if (float* place = place_for(to, words)) {
    if (whole) {
      __builtin_memcpy(place, weights, sizeof(float) * size_t(k));
    } else {
      __builtin_memcpy(place, entries, sizeof(float) * size_t(count));
      __builtin_memcpy(place + count, columns, sizeof(float) * size_t(count));
    }
    to.row[to.rows] = {uint32_t(to.at), uint32_t(words), weight, 0};
    to.at += words;
  }
  to.rows += 1;
  to.words += words;
}

// The entries of a row, and their columns or null.
struct Entries {
  const float* entry;
  const int32_t* column;
  int64_t count;
};

inline Entries entries_of(const KeptBlock& block, const KeptRow& row) {
  const float* entry = block.pool->words + row.begin;
  if (row.words == block.k) return {entry, nullptr, row.words};
  const int64_t count = row.words / 2;
  return {entry, reinterpret_cast<const int32_t*>(entry + count), count};
}

// sum_k e_k y_k; in float over short runs.
inline double dot(const Entries& row, const float* y) {
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

// sums: k column masses and k second moments, both but for the scalings, and the weight.
void kept_mass(KeptBlock& block, const float* y, double* sums) {
  double *m = sums, *s = m + block.k;
  for (int64_t r = 0; r < block.rows; ++r) {
    KeptRow& kept = block.row[r];
    const Entries row = entries_of(block, kept);
    const double weight = kept.weight, total = dot(row, y);
    kept.curvature = float(weight / (total * total));
    sums[2 * block.k] += weight;
    const float c = float(weight / total), per_weight = float(weight > 0 ? 1 / weight : 0);
    if (row.column) {
      for (int64_t e = 0; e < row.count; ++e) {
        const float q = row.entry[e] * c;
        m[row.column[e]] += double(q);
        s[row.column[e]] += double(q * q * per_weight);
      }
    } else {
      const float* entry = row.entry;
#pragma omp simd
      for (int64_t j = 0; j < row.count; ++j) {
        const float q = entry[j] * c;
        m[j] += double(q);
        s[j] += double(q * q * per_weight);
      }
    }
  }
}

void kept_second_moment(KeptBlock& block, const float* y, double* sums) {
  for (int64_t r = 0; r < block.rows; ++r) {
    const KeptRow& kept = block.row[r];
    if (!(kept.curvature > 0)) continue;
    const Entries row = entries_of(block, kept);
    const float u = float(dot(row, y)) * kept.curvature;
    if (row.column) {
      for (int64_t e = 0; e < row.count; ++e) sums[row.column[e]] += double(row.entry[e] * u);
    } else {
      const float* entry = row.entry;
#pragma omp simd
      for (int64_t j = 0; j < row.count; ++j) sums[j] += double(entry[j] * u);
    }
  }
}
