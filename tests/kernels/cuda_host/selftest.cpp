// Small kernels, right ones and ones with a planted fault, that show what the harness can see.
// usage: selftest CASE; what a case found is its output, and its exit status is 0 if all is well.
#include <cstdio>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_host.hpp"

namespace {

using sinkhorn::cuda::launch;

constexpr unsigned kAll = 0xffffffffu;

void expect(bool good, const std::string& what) {
  if (!good) throw std::logic_error("wrong: " + what);
}

// The thread's number in its block, and its block's in the grid, x fastest.
__device__ unsigned thread_number() {
  return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}
__device__ unsigned block_number() {
  return (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
}
__device__ unsigned block_threads() { return blockDim.x * blockDim.y * blockDim.z; }

template <class T>
struct Shuffled {
  T from_lane, up, down, by_xor;
};

template <class T>
__global__ void shuffle_kernel(Shuffled<T>* out, int operand, int width) {
  const unsigned i = block_number() * block_threads() + thread_number();
  const T value = T(i);
  out[i] = {__shfl_sync(kAll, value, operand, width),
            __shfl_up_sync(kAll, value, unsigned(operand), width),
            __shfl_down_sync(kAll, value, unsigned(operand), width),
            __shfl_xor_sync(kAll, value, operand, width)};
}

template <class T>
void check_shuffles(dim3 grid, dim3 block, int operand, int width) {
  const int n = int(grid.x * grid.y * grid.z * block.x * block.y * block.z);
  std::vector<Shuffled<T>> out(n);
  launch(shuffle_kernel<T>, grid, block, 0, nullptr, out.data(), operand, width);
  for (int i = 0; i < n; ++i) {
    const int first = i / width * width;  // of the segment; warps are whole here
    const int end = first + width;
    const std::string at = " of thread " + std::to_string(i) + ", operand " +
                           std::to_string(operand) + ", width " + std::to_string(width);
    expect(out[i].from_lane == T(first + operand % width), "__shfl_sync" + at);
    expect(out[i].up == T(i - operand >= first ? i - operand : i), "__shfl_up_sync" + at);
    expect(out[i].down == T(i + operand < end ? i + operand : i), "__shfl_down_sync" + at);
    const int partner = i / 32 * 32 + (i % 32 ^ operand);
    expect(out[i].by_xor == T(partner < end ? partner : i), "__shfl_xor_sync" + at);
  }
}

void shuffles() {
  for (const int width : {1, 2, 8, 32}) {
    for (const int operand : {0, 1, 5, 16, 31}) {
      check_shuffles<int>(3, 64, operand, width);
      check_shuffles<double>(dim3(2, 3), dim3(8, 12), operand, width);
      check_shuffles<unsigned char>(1, dim3(4, 4, 4), operand, width);
    }
  }
}

__global__ void vote_kernel(unsigned* ballots, int* anys) {
  const unsigned i = thread_number();
  ballots[i] = __ballot_sync(kAll, i % 3 == 0);
  anys[i] = 2 * __any_sync(kAll, i == 40) + __any_sync(kAll, i == 99);
}

void votes() {
  std::vector<unsigned> ballots(64);
  std::vector<int> anys(64);
  launch(vote_kernel, 1, dim3(16, 4), 0, nullptr, ballots.data(), anys.data());
  for (int i = 0; i < 64; ++i) {
    unsigned expected = 0;
    for (int lane = 0; lane < 32; ++lane)
      expected |= unsigned((i / 32 * 32 + lane) % 3 == 0) << lane;
    expect(ballots[i] == expected, "__ballot_sync");
    expect(anys[i] == (i < 32 ? 0 : 2), "__any_sync");
  }
}

// Lanes 0 and 1 meet by themselves before the other two that wait for them; both masks have the
// same lowest lane.  The upper half of the warp is elsewhere all along.
__global__ void masks_kernel(int* out) {
  const int lane = int(threadIdx.x);
  int sum = lane;
  if (lane < 2) sum += __shfl_xor_sync(0x3u, sum, 1);
  if (lane < 4) {
    sum += __shfl_xor_sync(0xfu, sum, 2);
  } else if (lane >= 16) {
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffff0000u, sum, offset);
  }
  out[lane] = sum;
}

void masks() {
  std::vector<int> out(32);
  launch(masks_kernel, 1, 32, 0, nullptr, out.data());
  expect(out[0] == 1 + 2 && out[1] == 1 + 3 && out[2] == 2 + 1 && out[3] == 3 + 1, "small masks");
  for (int lane = 4; lane < 32; ++lane) {
    expect(out[lane] == (lane < 16 ? lane : (16 + 31) * 8), "the upper half's mask");
  }
}

enum class Fault { none, no_barrier, no_atomic, no_atomic_across_blocks };

// Sums of numbers by a tree in shared memory; then all threads count themselves there, too.
template <Fault kFault>
__global__ void sum_kernel(int* total, int* count) {
  DYNAMIC_SHARED(int, shared);
  const unsigned i = thread_number(), n = block_threads();
  int& counter = shared[n];
  if (i == 0) counter = 0;
  shared[i] = int(block_number() * n + i);
  for (unsigned half = n / 2; half > 0; half /= 2) {
    if (kFault != Fault::no_barrier) __syncthreads();
    if (i < half) shared[i] += shared[i + half];
  }
  __syncthreads();
  if (kFault == Fault::no_atomic) {
    counter += 1;
  } else {
    atomicAdd(&counter, 1);
  }
  __syncthreads();
  if (i == 0) atomicAdd(total, shared[0]);
  if (kFault == Fault::no_atomic_across_blocks) {
    count[i] += 1;
  } else {
    atomicAdd(&count[i], 1);
  }
  if (i == 0) expect(counter == int(n), "threads that counted themselves");
}

template <Fault kFault>
void sum_of(dim3 grid, dim3 block) {
  const int threads = int(block.x * block.y * block.z);
  const int blocks = int(grid.x * grid.y * grid.z);
  int total = 0;
  std::vector<int> count(threads);
  launch(sum_kernel<kFault>, grid, block, (threads + 1) * sizeof(int), nullptr, &total,
         count.data());
  const int n = threads * blocks;
  expect(total == (n - 1) * (n / 2), "the sum over all threads");
  for (const int blocks_seen : count) expect(blocks_seen == blocks, "blocks per thread number");
}

template <Fault kFault>
void sums() {
  sum_of<kFault>(3, 128);
  sum_of<kFault>(dim3(2, 2), dim3(16, 4));
}

// Warp 0 may be past the second barrier before warp 1 has left the first, and reads what warp 0
// wrote in between.
__global__ void late_kernel(int* out) {
  DYNAMIC_SHARED(int, shared);
  __syncthreads();
  if (threadIdx.x == 0) shared[0] = 1;
  if (threadIdx.x == 32) out[0] = shared[0];
  __syncthreads();
}

// The same within a warp.
__global__ void late_lane_kernel(int* out) {
  DYNAMIC_SHARED(int, shared);
  __syncwarp();
  if (threadIdx.x == 0) shared[0] = 1;
  if (threadIdx.x == 1) out[0] = shared[0];
  __syncwarp();
}

// One thread of every block writes, with barriers before and after; they order no two blocks.
__global__ void one_writer_kernel(int* out) {
  __syncthreads();
  if (threadIdx.x == 200) *out = int(blockIdx.x);
  __syncthreads();
  __syncthreads();
}

void one_writer() {
  int out;
  launch(one_writer_kernel, 2, 256, 0, nullptr, &out);
}

void late_thread() {
  int out;
  launch(late_kernel, 1, 64, sizeof(int), nullptr, &out);
}

void late_lane() {
  int out;
  launch(late_lane_kernel, 1, 32, sizeof(int), nullptr, &out);
}

void large_blocks() {
  sum_of<Fault::none>(1, 1024);
  sum_of<Fault::none>(2, dim3(8, 4, 32));
}

// Threads that return early are not waited for.
__global__ void return_kernel(int* out) {
  if (threadIdx.x % 2 == 1) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

void early_return() {
  std::vector<int> out(64);
  launch(return_kernel, 1, 64, 0, nullptr, out.data());
  for (int i = 0; i < 64; ++i) expect(out[i] == (i % 2 == 0), "who is left after early returns");
}

__global__ void order_kernel(int* turn, int* blocks, int* threads) {
  const int now = atomicAdd(turn, 1);
  blocks[now] = int(blockIdx.x);
  threads[now] = int(threadIdx.x);
}

// Prints who had the first turn of every block: one line per block, in the order they ran.
void order() {
  constexpr int kBlocks = 16, kThreads = 128;
  int turn = 0;
  std::vector<int> blocks(kBlocks * kThreads), threads(kBlocks * kThreads);
  launch(order_kernel, kBlocks, kThreads, 0, nullptr, &turn, blocks.data(), threads.data());
  for (int i = 0; i < turn; i += kThreads) std::printf("%d %d\n", blocks[i], threads[i]);
}

void half_types() {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const double sign = bits >> 15 ? -1 : 1;
    const auto check = [&](float got, int exponent, int fraction, int fraction_bits, int bias,
                           const char* type) {
      const int all_ones = 2 * bias + 1;
      const double scale = std::ldexp(1.0, -fraction_bits);
      double expected = std::ldexp(1 + fraction * scale, exponent - bias);
      if (exponent == 0) expected = std::ldexp(fraction * scale, 1 - bias);
      if (exponent == all_ones) expected = fraction ? NAN : INFINITY;
      const bool same = std::isnan(expected) ? std::isnan(got) : got == float(sign * expected);
      expect(same && std::signbit(got) == (sign < 0), std::string(type) + std::to_string(bits));
    };
    const auto word = std::uint16_t(bits);
    check(__half2float({word}), bits >> 10 & 31, bits & 0x3ff, 10, 15, "half ");
    check(__bfloat162float({word}), bits >> 7 & 255, bits & 0x7f, 7, 127, "bfloat16 ");
  }
}

void bit_functions() {
  expect(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64, "__popc");
  expect(__ffs(0) == 0 && __ffs(8) == 4, "__ffs");
  expect(__clz(0) == 32 && __clz(1) == 31 && __clz(-1) == 0, "__clz");
}

struct Extremes {
  long long low = std::numeric_limits<long long>::max();
  unsigned long long unsigned_low = ~0ull;
  int high = -1000, bits = 0, sum = 0;
  unsigned unsigned_sum = 0;
  unsigned long long long_sum = 0;
};

__global__ void atomics_kernel(Extremes* x, int* seen) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  atomicMin(&x->low, -(1ll << 40) - i);
  atomicMin(&x->unsigned_low, (1ull << 63) - i);
  atomicMax(&x->high, i - 100);
  atomicOr(&x->bits, 1 << i % 31);
  atomicAdd(&x->unsigned_sum, 1u << 26);
  atomicAdd(&x->long_sum, 1ull << 40);
  seen[atomicAdd(&x->sum, 1)] += 1;  // every old value is given out once
}

void atomics() {
  constexpr int kThreads = 64, kBlocks = 4, n = kThreads * kBlocks;
  Extremes x;
  std::vector<int> seen(n);
  launch(atomics_kernel, kBlocks, kThreads, 0, nullptr, &x, seen.data());
  expect(x.low == -(1ll << 40) - (n - 1), "atomicMin");
  expect(x.unsigned_low == (1ull << 63) - (n - 1), "atomicMin, unsigned");
  expect(x.high == n - 1 - 100 && x.bits == 0x7fffffff && x.sum == n, "atomicMax, Or, Add");
  expect(x.unsigned_sum == unsigned(n) << 26 && x.long_sum == n * (1ull << 40),
         "unsigned atomicAdd");
  for (const int times : seen) expect(times == 1, "what atomicAdd returns");
}

__global__ void vectors_kernel(const float4* in, float4* out) {
  const float4 v = __ldg(&in[threadIdx.x]);
  __stcs(&out[threadIdx.x], float4{v.w, v.z, v.y, __ldcs(&in[threadIdx.x]).x});
}

void vectors() {
  static_assert(alignof(uint2) == 8 && alignof(uint4) == 16 && alignof(int4) == 16);
  static_assert(alignof(float4) == 16 && sizeof(__half) == 2 && sizeof(__nv_bfloat16) == 2);
  std::vector<float4> in(32, float4{1, 2, 3, 4}), out(32);
  launch(vectors_kernel, 1, 32, 0, nullptr, in.data(), out.data());
  expect(out[31].x == 4 && out[31].y == 3 && out[31].z == 2 && out[31].w == 1, "vector copies");
}

enum class Access { fine, past_global, past_shared, unwritten };

__global__ void access_kernel(float* out, Access access) {
  DYNAMIC_SHARED(float, shared);
  const unsigned i = threadIdx.x;
  if (access != Access::unwritten) shared[i] = 1;
  if (access == Access::past_shared && i == 31) shared[i + 1] = 1;
  out[access == Access::past_global ? i + 1 : i] = shared[i];
}

template <Access kAccess>
void access() {
  std::vector<float> out(32);
  launch(access_kernel, 2, 32, 32 * sizeof(float), nullptr, out.data(), kAccess);
  for (const float x : out) {
    expect(kAccess == Access::unwritten ? std::isnan(x) : x == 1, "what lies in shared memory");
  }
}

// What follows is an error on a device.

__global__ void divergent_kernel() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncwarp(kAll);
  }
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void gone_lane_kernel() {
  if (threadIdx.x >= 16) return;
  __shfl_xor_sync(kAll, 1.f, 1);
}

__global__ void not_in_mask_kernel() { __syncwarp(threadIdx.x == 7 ? 0x1u : 0xffffff7fu); }

__global__ void source_not_in_mask_kernel() {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}

__global__ void mixed_kernel() {
  if (threadIdx.x < 16) {
    __ballot_sync(kAll, true);
  } else {
    __any_sync(kAll, true);
  }
}

__global__ void syncwarp_kernel() { __syncwarp(); }

__global__ void width_kernel() { __shfl_down_sync(kAll, 1, 1, 12); }

__global__ void empty_kernel() {}

// Prints the error.  The harness must be fit for use after it.
template <void (*kernel)(), int kThreads = 64>
void error() {
  try {
    launch(kernel, 1, kThreads, 0, nullptr);
  } catch (const std::runtime_error& error) {
    std::printf("%s\n", error.what());
    sum_of<Fault::none>(2, 64);
    return;
  }
  expect(false, "no error was raised");
}

template <unsigned kGridY, std::size_t kSharedBytes>
void launch_error() {
  try {
    launch(empty_kernel, dim3(1, kGridY), 32, kSharedBytes, nullptr);
  } catch (const std::runtime_error& error) {
    std::printf("%s\n", error.what());
    return;
  }
  expect(false, "no error was raised");
}

const std::map<std::string, std::function<void()>> cases = {
    {"shuffles", shuffles},
    {"votes", votes},
    {"masks", masks},
    {"sums", sums<Fault::none>},
    {"large-blocks", large_blocks},
    {"early-return", early_return},
    {"half-types", half_types},
    {"bit-functions", bit_functions},
    {"atomics", atomics},
    {"vectors", vectors},
    {"order", order},
    {"no-barrier", sums<Fault::no_barrier>},
    {"no-atomic", sums<Fault::no_atomic>},
    {"no-atomic-across-blocks", sums<Fault::no_atomic_across_blocks>},
    {"one-writer", one_writer},
    {"late-thread", late_thread},
    {"late-lane", late_lane},
    {"access", access<Access::fine>},
    {"past-global", access<Access::past_global>},
    {"past-shared", access<Access::past_shared>},
    {"unwritten", access<Access::unwritten>},
    {"divergent", error<divergent_kernel>},
    {"two-barriers", error<two_barriers_kernel>},
    {"gone-lane", error<gone_lane_kernel>},
    {"absent-lane", error<syncwarp_kernel, 40>},
    {"not-in-mask", error<not_in_mask_kernel>},
    {"source-not-in-mask", error<source_not_in_mask_kernel>},
    {"mixed", error<mixed_kernel>},
    {"width", error<width_kernel>},
    {"no-threads", error<empty_kernel, 0>},
    {"many-threads", error<empty_kernel, 1025>},
    {"tall-grid", launch_error<65536, 0>},
    {"much-shared", launch_error<1, 1 << 20>},
};

}  // namespace

int main(int argc, char** argv) {
  const auto found = cases.find(argc == 2 ? argv[1] : "");
  if (found == cases.end()) {
    std::fprintf(stderr, "usage: %s CASE\n", argv[0]);
    return 2;
  }
  try {
    found->second();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
