// Float vectors of one SIMD level: +, - and * come from the compiler's vector extension.
// Included by level_*.cpp only, in an anonymous namespace, after they set their target.
// (g++ 12 reads the whole file before it obeys the pragma: __AVX512F__ would not be seen.)

#if defined(SINKHORN_AVX512)
constexpr int kLanes = 16;
#elif defined(SINKHORN_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
static_assert(kPad % kLanes == 0, "scratch rows are padded to whole vectors");

typedef float V __attribute__((vector_size(kLanes * 4), may_alias));
typedef int32_t VI __attribute__((vector_size(kLanes * 4), may_alias));
typedef uint16_t VH __attribute__((vector_size(kLanes * 2), may_alias));

inline V all(float x) { return x - V{}; }

template <class Vector, class T>
inline Vector read(const T* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline V load(const float* p) { return read<V>(p); }
inline V load(const bfloat* p) {
  return V(__builtin_convertvector(read<VH>(p), VI) << 16);  // uint16 widens without sign
}
inline V load(const half* p) {
#if defined(SINKHORN_AVX512)
  return _mm512_cvtph_ps(read<__m256i>(p));
#elif defined(SINKHORN_AVX2)
  return _mm256_cvtph_ps(read<__m128i>(p));
#else
  V v;
  for (int l = 0; l < kLanes; ++l) v[l] = float(widen(p[l]));
  return v;
#endif
}

inline void set_low(float& x) { x = -__builtin_inff(); }
inline void set_low(half& x) { x.bits = 0xfc00; }
inline void set_low(bfloat& x) { x.bits = 0xff80; }

// The first `count` lanes; -inf in the others.
template <class T>
inline V load_tail(const T* p, int64_t count) {
#if defined(SINKHORN_AVX512)
  if constexpr (sizeof(T) == 4) {
    const __m512 low = _mm512_set1_ps(-__builtin_inff());
    return _mm512_mask_loadu_ps(low, __mmask16((1u << count) - 1), p);
  }
#endif
  T lanes[kLanes];
  for (int64_t l = 0; l < kLanes; ++l)
    if (l < count)
      lanes[l] = p[l];
    else
      set_low(lanes[l]);
  return load(lanes);
}

inline void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof(v)); }

// a * b + c, rounded once where the processor can.
inline V fused(V a, V b, V c) {
#if defined(SINKHORN_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(SINKHORN_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// The larger of each lane; a NaN in `second` stays, one in `first` does not.
inline V larger(V first, V second) {
#if defined(SINKHORN_AVX512)
  return _mm512_max_ps(first, second);
#elif defined(SINKHORN_AVX2)
  return _mm256_max_ps(first, second);
#else
  return first > second ? first : second;
#endif
}

inline float largest(V v) {
#if defined(SINKHORN_AVX512)
  return _mm512_reduce_max_ps(v);
#else
  float top = v[0];
  for (int l = 1; l < kLanes; ++l) top = v[l] > top ? v[l] : top;
  return top;
#endif
}

inline float sum(V v) {
#if defined(SINKHORN_AVX512)
  return _mm512_reduce_add_ps(v);
#else
  float total = 0;
  for (int l = 0; l < kLanes; ++l) total += v[l];
  return total;
#endif
}

// One bit per lane where v >= bound.
inline uint32_t at_least(V v, V bound) {
#if defined(SINKHORN_AVX512)
  return _mm512_cmp_ps_mask(v, bound, _CMP_GE_OQ);
#elif defined(SINKHORN_AVX2)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(v, bound, _CMP_GE_OQ)));
#else
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; ++l) bits |= uint32_t(v[l] >= bound[l]) << l;
  return bits;
#endif
}

// The largest of each lane of four vectors in a row.
inline V largest_of_four(const float* p) {
  return larger(larger(load(p), load(p + kLanes)),
                larger(load(p + 2 * kLanes), load(p + 3 * kLanes)));
}

// 2^d for d <= 1; 0 for -inf, NaN for NaN.  Minimax polynomials of degree 5, relative error of
// the polynomial 7.5e-8.
inline V exp2(V d) {
#if defined(SINKHORN_AVX512)
  const V r = _mm512_reduce_ps(d, 1);  // d - floor(d), and 0 for -inf
  V p = all(1.877576683e-3f);
  p = p * r + 8.989340142e-3f;
  p = p * r + 5.582631793e-2f;
  p = p * r + 2.401536171e-1f;
  p = p * r + 6.931530732e-1f;
  p = p * r + 9.999999251e-1f;
  return _mm512_scalef_ps(p, d);
#else
  const V x = larger(all(-127.f), d);
  const V z = x + 12582912.f, r = x - (z - 12582912.f);  // 1.5 * 2^23 rounds to an integer
  V p = all(1.327647205e-3f);
  p = p * r + 9.675541385e-3f;
  p = p * r + 5.550713274e-2f;
  p = p * r + 2.402211972e-1f;
  p = p * r + 6.931469671e-1f;
  p = p * r + 1.000000072e+0f;
  return p * V((VI(z) + 127) << 23);
#endif
}
