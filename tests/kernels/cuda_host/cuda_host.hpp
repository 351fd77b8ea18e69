// Stands in for the CUDA headers, so that g++ can compile the kernels and the CPU can run them.
//
// The names of CUDA keep their meaning.  What has none on a device is an error here, with the file
// and line of the call: a barrier that not all threads reach, a mask that names a lane which has
// returned, a lane outside its own mask.  Built with ThreadSanitizer, a missing barrier or atomic
// is a data race; built with AddressSanitizer, an overrun of global or shared memory is caught.
//
// A block's threads take turns on one host thread, and only barriers and warp functions pass the
// turn on; blocks run one after the other.  So a thread that spins until another one writes hangs.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__  // not an attribute: libstdc++ itself writes __attribute__((__noinline__))
#define __launch_bounds__(...)

// The block's dynamic shared memory.  Device builds define it as `extern __shared__ type name[]`.
#define DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(sinkhorn::cuda::host::shared_memory())

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The engine sets these before a thread gets its turn.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace sinkhorn::cuda {
namespace host {

// Where a kernel called: as a default argument, here() is the place of that call.
struct Place {
  const char* file = "";
  int line = 0;

  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

enum class Operation { syncthreads, syncwarp, shfl, shfl_up, shfl_down, shfl_xor, ballot, any };

void* shared_memory();

void __syncthreads(Place place = Place::here());
void __syncwarp(unsigned mask = 0xffffffffu, Place place = Place::here());
unsigned __ballot_sync(unsigned mask, int predicate, Place place = Place::here());
int __any_sync(unsigned mask, int predicate, Place place = Place::here());

// `operand` is the lane, delta or lane mask of the call.
std::uint64_t shuffle_bits(Operation kind, unsigned mask, std::uint64_t bits, unsigned operand,
                           int width, Place place);

template <class T>
T shuffle(Operation kind, unsigned mask, T value, unsigned operand, int width, Place place) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle_bits(kind, mask, bits, operand, width, place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, Place place = Place::here()) {
  return shuffle(Operation::shfl, mask, value, unsigned(lane), width, place);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 Place place = Place::here()) {
  return shuffle(Operation::shfl_up, mask, value, delta, width, place);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   Place place = Place::here()) {
  return shuffle(Operation::shfl_down, mask, value, delta, width, place);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  Place place = Place::here()) {
  return shuffle(Operation::shfl_xor, mask, value, unsigned(lane_mask), width, place);
}

// Sets *p to v if replaces(v, *p), and returns what was there.
template <class T, class Replaces>
T atomic_replace(T* p, T v, Replaces replaces) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (replaces(v, old) &&
         !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

// Calls function(closure) once for every thread of the grid.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, void (*function)(void*), void* closure);

// Runs kernels in place of the engine, if set: gets the function, which tells its name, the sizes
// in x, y and z, and the bytes of the arguments.
using StandIn = void (*)(const void* kernel, const unsigned* grid, const unsigned* block,
                         std::size_t shared_bytes, int arguments, const void* const* values,
                         const std::size_t* sizes);
extern StandIn stand_in;

}  // namespace host

// kernel<<<grid, block, shared_bytes, stream>>>(args...), done when this returns.  Throws
// std::runtime_error if the launch or the kernel breaks a rule of CUDA.  The environment chooses
// who gets the next turn: SINKHORN_HOST_SCHEDULE = random (default), first-warp or last-warp, and
// SINKHORN_HOST_SEED (default 1) the order of blocks, and of lanes.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes,
            [[maybe_unused]] cudaStream_t stream, A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
  [&](std::remove_const_t<P>... values) {
    if (host::stand_in) {
      const void* addresses[] = {&values...};
      const std::size_t sizes[] = {sizeof(values)...};
      host::stand_in(reinterpret_cast<const void*>(kernel), &grid.x, &block.x, shared_bytes,
                     int(sizeof...(P)), addresses, sizes);
      return;
    }
    auto call = [&] { kernel(values...); };
    host::run(
        grid, block, shared_bytes,
        [](void* closure) { (*static_cast<decltype(call)*>(closure))(); }, &call);
  }(args...);
}

}  // namespace sinkhorn::cuda

using sinkhorn::cuda::host::__any_sync;
using sinkhorn::cuda::host::__ballot_sync;
using sinkhorn::cuda::host::__shfl_down_sync;
using sinkhorn::cuda::host::__shfl_sync;
using sinkhorn::cuda::host::__shfl_up_sync;
using sinkhorn::cuda::host::__shfl_xor_sync;
using sinkhorn::cuda::host::__syncthreads;
using sinkhorn::cuda::host::__syncwarp;

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

struct __half {
  std::uint16_t bits;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 b) {
  const std::uint32_t bits = std::uint32_t{b.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float __half2float(__half h) {
  const std::uint32_t sign = std::uint32_t{h.bits} >> 15 << 31;
  const std::uint32_t exponent = h.bits >> 10 & 31u;
  const std::uint32_t fraction = h.bits & 0x3ffu;
  if (exponent == 0) {  // a denormal, or zero
    const float magnitude = float(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const std::uint32_t wide_exponent = exponent == 31 ? 255 : exponent + (127 - 15);
  const std::uint32_t bits = sign | wide_exponent << 23 | fraction << 13;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (x != x) return {0x7fff};
  return {std::uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

inline __half __float2half_rn(float x) {
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (x != x) return {0x7fff};
  if (magnitude >= 65520.f) return {std::uint16_t(sign | 0x7c00)};
  int exponent;
  std::frexp(magnitude, &exponent);  // a number's last place is 2^-11 of the next power of two
  const int place = std::max(exponent - 11, -24);
  const auto units = std::uint16_t(std::nearbyint(std::ldexp(magnitude, -place)));
  return {std::uint16_t(sign | (units + ((place + 24) << 10)))};
}

// Atomics are relaxed, as on the device: they publish no other write.
inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* p, unsigned v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline int atomicOr(int* p, int v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }

inline long long atomicMin(long long* p, long long v) {
  return sinkhorn::cuda::host::atomic_replace(p, v, std::less<>());
}
inline unsigned long long atomicMin(unsigned long long* p, unsigned long long v) {
  return sinkhorn::cuda::host::atomic_replace(p, v, std::less<>());
}
inline int atomicMax(int* p, int v) {
  return sinkhorn::cuda::host::atomic_replace(p, v, std::greater<>());
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
