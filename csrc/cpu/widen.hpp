// 16-bit numbers as they are stored, and any of the four dtypes as float64 without rounding.
#pragma once

#include <cstdint>

// Without a name, so that code of one instruction set is never linked into another.
namespace sinkhorn {
namespace {

struct half {
  uint16_t bits;
};
struct bfloat {
  uint16_t bits;
};

inline float float_of_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

inline double widen(double x) { return x; }
inline double widen(float x) { return x; }
inline double widen(bfloat x) { return float_of_bits(uint32_t(x.bits) << 16); }
inline double widen(half x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + 0x38000000u;   // exponent bias 15 -> 127
  const uint32_t special = (magnitude << 13) | 0x7f800000u;  // inf, NaN
  const float small = float(int32_t(magnitude)) * 0x1p-24f;
  uint32_t tiny;
  __builtin_memcpy(&tiny, &small, sizeof(tiny));
  const uint32_t value = magnitude < 0x400u ? tiny : magnitude < 0x7c00u ? normal : special;
  return float_of_bits(value | sign);
}

}  // namespace
}  // namespace sinkhorn
