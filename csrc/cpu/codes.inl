// The passes of codes.hpp over a block of rows.
//
// Vectors of float32 serve all scores but those of float64. Sums along a row go over to float64
// after a stretch of columns, sums down the columns after a block of rows.

struct Single {
  using Number = float;
  using Vector = V;
  static constexpr double kPerNat = 1.4426950408889634;  // `power` is that of 2
  static V power(V d) { return exp2(d); }
};

struct Double {
  using Number = double;
  typedef double Vector __attribute__((vector_size(kLanes * 4), may_alias));
  typedef int64_t Integers __attribute__((vector_size(kLanes * 4), may_alias));
  static constexpr double kPerNat = 1;  // `power` is that of e

  // exp_nonpositive of each lane; NaN stays.
  static Vector power(Vector x) {
    const Vector z = x * 1.4426950408889634 + 6755399441055744., n = z - 6755399441055744.;
    const Vector r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6;
    Vector p = 1. / 6227020800. - Vector{};
    constexpr double kInverse[] = {1. / 479001600.,
                                   1. / 39916800.,
                                   1. / 3628800.,
                                   1. / 362880.,
                                   1. / 40320.,
                                   1. / 5040.,
                                   1. / 720.,
                                   1. / 120.,
                                   1. / 24.,
                                   1. / 6.,
                                   .5,
                                   1.,
                                   1.};
#pragma GCC unroll 13
    for (int degree = 0; degree < 13; ++degree) p = p * r + kInverse[degree];
    return x < -708. ? Vector{} : p * Vector((Integers(z) + 1023) << 52);
  }
};

template <class T>
using ArithmeticOf = std::conditional_t<sizeof(T) == 8, Double, Single>;

template <class Of>
constexpr int64_t kWidth = int64_t(sizeof(typename Of::Vector) / sizeof(typename Of::Number));

template <class Of>
inline typename Of::Vector every(typename Of::Number x) {
  return x - typename Of::Vector{};
}

// `lanes` scores in a vector, and -inf in the others; all of them where `whole`.
template <class Of, bool whole, class T>
inline typename Of::Vector scores_at(const T* p, int64_t lanes) {
  if constexpr (std::is_same_v<Of, Single>) {
    return load_some<whole>(p, lanes);
  } else {
    if constexpr (whole) return read<typename Of::Vector>(p);
    typename Of::Vector v = every<Of>(-kInf);
    for (int64_t l = 0; l < lanes; ++l) v[l] = p[l];
    return v;
  }
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }
inline void narrow(float x, bfloat& to) {  // to the nearest, ties to even; NaN stays
  const uint32_t bits = bits_as<uint32_t>(x);
  to.bits = uint16_t(x == x ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : 0x7fc0);
}
inline void narrow(float x, half& to) {  // the same of 0 <= x <= 1
  // below 2^-14 numbers lie 2^-24 apart: adding 1/2 rounds to that, and leaves them in the low bits
  const uint32_t bits = bits_as<uint32_t>(x), tiny = bits_as<uint32_t>(x + .5f) - 0x3f000000u;
  const uint32_t normal = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13;
  to.bits = uint16_t(x != x ? 0x7e00u : x < 0x1p-14f ? tiny : normal);
}

template <class Vector, class T>
inline void put(T* p, int64_t stride, Vector v, int64_t lanes) {
  for (int64_t l = 0; l < lanes; ++l) narrow(v[l], p[l * stride]);
}
inline void put_all(float* p, V v) { store(p, v); }
inline void put_all(double* p, Double::Vector v) { __builtin_memcpy(p, &v, sizeof(v)); }
inline void put_all(bfloat* p, V v) {
  const VI bits = VI(v), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const VH half_words = __builtin_convertvector(v == v ? rounded : VI{} + 0x7fc0, VH);
  __builtin_memcpy(p, &half_words, sizeof(half_words));
}
inline void put_all(half* p, V v) {
#if defined(SINKHORN_AVX512)
  const __m256i words = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  __builtin_memcpy(p, &words, sizeof(words));
#elif defined(SINKHORN_AVX2)
  const __m128i words = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  __builtin_memcpy(p, &words, sizeof(words));
#else
  put(p, 1, v, kLanes);
#endif
}

// Calls step(column, whole, lanes) for the vectors from j0 to before j1.
template <class Of, class Step>
inline __attribute__((always_inline)) void each_vector(int64_t j0, int64_t j1, Step step) {
  constexpr int64_t width = kWidth<Of>;
  int64_t j = j0;
#pragma GCC unroll 4
  for (; j + width <= j1; j += width) step(j, std::true_type(), width);
  if (j < j1) step(j, std::false_type(), j1 - j);
}

template <class Of, class T>
inline typename Of::Number largest_score(const T* row, int64_t k) {
  using Vector = typename Of::Vector;
  Vector top = every<Of>(-kInf);
  each_vector<Of>(0, k, [&](int64_t j, auto whole, int64_t lanes) {
    const Vector x = scores_at<Of, whole>(row + j, lanes);
    top = x > top ? x : top;
  });
  typename Of::Number most = top[0];
  for (int64_t l = 1; l < kWidth<Of>; ++l) most = top[l] > most ? top[l] : most;
  return most;
}

// Sums relative to exp(block.top / epsilon): to the largest of the rows so far.
template <class T>
void first_codes(const Rows& x, CodesBlock& block, const CodesScratch& scratch) {
  using Of = ArithmeticOf<T>;
  using Vector = typename Of::Vector;
  using Number = typename Of::Number;
  const int64_t k = x.k;
  const Number rate = Number(Of::kPerNat / block.epsilon);
  Number* const sums = static_cast<Number*>(block.sums);
  Number top = -Number(kInf);
  for (int64_t i = block.first; i < block.last; ++i) {
    const T* row = fetch_row<T>(x, i, scratch.copy);
    const Number here = largest_score<Of>(row, k);
    block.tops[i] = here;
    if (here > top) {
      const Vector shrink = Of::power(every<Of>((top - here) * rate));
      top = here;
      if (i > block.first)
        each_vector<Of>(0, k, [&](int64_t j, auto, int64_t) {
          const Vector sum = read<Vector>(sums + j) * shrink;
          __builtin_memcpy(sums + j, &sum, sizeof(sum));
        });
    }
    each_vector<Of>(0, k, [&](int64_t j, auto whole, int64_t lanes) {
      const Vector d = (scores_at<Of, whole>(row + j, lanes) - top) * rate;
      const Vector sum = read<Vector>(sums + j) + Of::power(d);
      __builtin_memcpy(sums + j, &sum, sizeof(sum));
    });
  }
  block.top = top;
}

// Makes the entries of one row of Q, and hands those of the row before on: consume(column, whole,
// lanes, entries) is told of them when v of that row is known.
template <class T, class Consume>
inline __attribute__((always_inline)) void weigh_rows(const Rows& x, const CodesBlock& block,
                                                      const CodesScratch& scratch,
                                                      Consume consume) {
  using Of = ArithmeticOf<T>;
  using Vector = typename Of::Vector;
  using Number = typename Of::Number;
  constexpr int64_t stretch = 64 * kWidth<Of>;
  const int64_t k = x.k;
  const Number rate = Number(Of::kPerNat / block.epsilon);
  const Number* const u = static_cast<const Number*>(block.u);
  Number* const entries = static_cast<Number*>(scratch.entries);
  Vector v{};
  for (int64_t i = block.first; i <= block.last; ++i) {
    if (i == block.last) {
      each_vector<Of>(0, k, [&](int64_t j, auto whole, int64_t lanes) {
        consume(i - 1, j, whole, lanes, read<Vector>(entries + j), v);
      });
      return;
    }
    const T* row = fetch_row<T>(x, i, scratch.copy);
    const Number top = Number(block.tops[i]);
    double total = 0;
    for (int64_t j0 = 0; j0 < k; j0 += stretch) {
      Vector part{};
      each_vector<Of>(j0, j0 + stretch < k ? j0 + stretch : k,
                      [&](int64_t j, auto whole, int64_t lanes) {
                        const Vector d = (scores_at<Of, whole>(row + j, lanes) - top) * rate;
                        const Vector entry = Of::power(d);
                        if (i > block.first)
                          consume(i - 1, j, whole, lanes, read<Vector>(entries + j), v);
                        __builtin_memcpy(entries + j, &entry, sizeof(entry));
                        part += entry * read<Vector>(u + j);
                      });
      for (int64_t l = 0; l < kWidth<Of>; ++l) total += part[l];
    }
    v = every<Of>(Number(1 / total));
  }
}

template <class T>
void next_codes(const Rows& x, CodesBlock& block, const CodesScratch& scratch) {
  using Of = ArithmeticOf<T>;
  using Vector = typename Of::Vector;
  typename Of::Number* const sums = static_cast<typename Of::Number*>(block.sums);
  weigh_rows<T>(x, block, scratch,
                [&](int64_t, int64_t j, auto, int64_t, Vector entries, Vector v) {
                  const Vector sum = entries * v + read<Vector>(sums + j);
                  __builtin_memcpy(sums + j, &sum, sizeof(sum));
                });
}

template <class T>
void last_codes(const Rows& x, CodesBlock& block, const CodesScratch& scratch) {
  using Of = ArithmeticOf<T>;
  using Vector = typename Of::Vector;
  const Rows& out = block.out;
  T* const to = static_cast<T*>(const_cast<void*>(out.data));
  const typename Of::Number* const u = static_cast<const typename Of::Number*>(block.u);
  weigh_rows<T>(x, block, scratch,
                [&](int64_t i, int64_t j, auto whole, int64_t lanes, Vector entries, Vector v) {
                  const Vector codes = entries * read<Vector>(u + j) * v;
                  T* const p = to + i * out.row_stride + j * out.col_stride;
                  if (whole && out.col_stride == 1)
                    put_all(p, codes);
                  else
                    put(p, out.col_stride, codes, lanes);
                });
}
