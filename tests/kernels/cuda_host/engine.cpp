// Runs the threads of a block as fibers: a barrier is a switch to a thread that can go on.
//
// Kernels built with ThreadSanitizer need this file built WITHOUT it, but with
// -DSINKHORN_HOST_TSAN: their memory accesses are to be seen, not the engine's.  It is told of
// fibers and barriers by hand.  AddressSanitizer may, and should, see this file too.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_host.hpp"

#ifdef SINKHORN_HOST_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace sinkhorn::cuda::host {
StandIn stand_in = nullptr;
}

extern "C" void sinkhorn_set_stand_in(sinkhorn::cuda::host::StandIn to) {
  sinkhorn::cuda::host::stand_in = to;
}

// Saves on the stack the registers that a call preserves, and at *from where the stack ends.  Goes
// on with the stack that was left so and ends at `to`.
extern "C" void sinkhorn_switch_stack(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
  .text
  .type sinkhorn_switch_stack, @function
sinkhorn_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size sinkhorn_switch_stack, . - sinkhorn_switch_stack
)");
constexpr std::size_t kReturnWord = 6;  // after the registers: the address to go on at
constexpr std::size_t kSavedWords = 8;  // and no caller, for who walks up the stack
#elif defined(__aarch64__)
asm(R"(
  .text
  .type sinkhorn_switch_stack, %function
sinkhorn_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size sinkhorn_switch_stack, . - sinkhorn_switch_stack
)");
constexpr std::size_t kReturnWord = 11;  // x30
constexpr std::size_t kSavedWords = 20;
#else
#error "no stack switch is written for this processor"
#endif

namespace sinkhorn::cuda::host {
namespace {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;              // so a block has at most 32 warps
constexpr std::size_t kMaxSharedBytes = 227 << 10;  // of a block on sm_90

namespace tsan {
#ifdef SINKHORN_HOST_TSAN
constexpr bool kEnabled = true;
constexpr unsigned kNoSync = 1;  // a switch alone orders nothing: only barriers do

void* create_fiber() { return __tsan_create_fiber(0); }
void destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
void* current_fiber() { return __tsan_get_current_fiber(); }
void switch_to(void* fiber) { __tsan_switch_to_fiber(fiber, kNoSync); }
void acquire(void* sync) { __tsan_acquire(sync); }
void release(void* sync) { __tsan_release(sync); }
#else
constexpr bool kEnabled = false;

void* create_fiber() { return nullptr; }
void destroy_fiber(void*) {}
void* current_fiber() { return nullptr; }
void switch_to(void*) {}
void acquire(void*) {}
void release(void*) {}
#endif
}  // namespace tsan

namespace asan {
#ifdef __SANITIZE_ADDRESS__
constexpr bool kEnabled = true;

void leave(void** fake_stack, const void* to, std::size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, to, bytes);
}
void arrive(void* fake_stack, const void** from, std::size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from, bytes);
}
void forget(void* stack, std::size_t bytes) { __asan_unpoison_memory_region(stack, bytes); }
#else
constexpr bool kEnabled = false;

void leave(void**, const void*, std::size_t) {}
void arrive(void*, const void**, std::size_t*) {}
void forget(void*, std::size_t) {}
#endif
}  // namespace asan

constexpr std::size_t kStackBytes = (tsan::kEnabled || asan::kEnabled ? 256 : 64) << 10;

// xorshift64
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u | 1) {}

  using result_type = std::uint64_t;
  static constexpr result_type min() { return 1; }
  static constexpr result_type max() { return ~result_type{0}; }

  result_type operator()() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  // One of the bits set in `bits`: the first at or after a random place not above the last.  Any
  // can come, though one above a gap comes more often; an even choice would be slower.
  unsigned bit_of(std::uint32_t bits) {
    const std::uint64_t places = 32 - unsigned(__builtin_clz(bits));
    const std::uint64_t place = ((*this)() >> 32) * places >> 32;
    return unsigned(__builtin_ctz(bits >> place << place));
  }

 private:
  std::uint64_t state_;
};

// Stacks live as long as the process.  Below each lies a page that no one may touch.
class Stacks {
 public:
  char* at(std::size_t i) {
    while (stacks_.size() <= i) {
      const std::size_t guard = std::size_t(sysconf(_SC_PAGESIZE));
      char* memory = map(nullptr, guard + kStackBytes, 0);
      mprotect(memory, guard, PROT_NONE);
      stacks_.push_back(memory + guard);
    }
    return stacks_[i];
  }

  // A new thread must not seem to touch the frames of the one that had its stack before.
  static void renew(char* stack) {
    if (tsan::kEnabled) map(stack, kStackBytes, MAP_FIXED);
    asan::forget(stack, kStackBytes);
  }

 private:
  static char* map(void* address, std::size_t bytes, int flags) {
    void* memory = mmap(address, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory for the stacks of the threads");
    return static_cast<char*>(memory);
  }

  std::vector<char*> stacks_;
};

const char* name(Operation operation) {
  static const char* const names[] = {
      "__syncthreads",    "__syncwarp",      "__shfl_sync",   "__shfl_up_sync",
      "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync", "__any_sync",
  };
  return names[int(operation)];
}

// One call of a barrier or warp function, as messages name it.
struct Call {
  Operation operation = Operation::syncthreads;
  unsigned mask = 0;
  Place place;

  std::string text() const {
    std::string result =
        std::string(place.file) + ":" + std::to_string(place.line) + ": " + host::name(operation);
    if (operation != Operation::syncthreads) result += " with mask " + hex(mask);
    return result;
  }

  static std::string hex(unsigned mask) {
    char digits[16];
    std::snprintf(digits, sizeof(digits), "0x%08x", mask);
    return digits;
  }
};

struct Warp;

struct Fiber {
  void* stack_pointer = nullptr;
  const void* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* tsan_fiber = nullptr;
  void* asan_fake_stack = nullptr;

  dim3 thread;
  Warp* warp = nullptr;
  unsigned lane = 0;
  Call call;  // the one it waits in

  unsigned lane_bit() const { return 1u << lane; }
};

// One meeting of the lanes of a group.
struct Round {
  unsigned arrived = 0;
  unsigned votes = 0;
  Operation operation = Operation::syncwarp;
  std::array<std::uint64_t, kWarpSize> values;
};

// Lanes that meet under one mask.  Its rounds take turns: while a lane is late to leave one, others
// may enter the next, and must not overwrite what it has yet to read.  A round is also the object
// TSan synchronises on, so a late lane learns nothing of the next round; that would hide races.
struct Group {
  unsigned mask;
  std::array<Round, 2> rounds = {};
  unsigned turn = 0;

  Round& round() { return rounds[turn]; }
  void next_round() {
    turn ^= 1;
    round().arrived = 0;
    round().votes = 0;
  }
};

struct Warp {
  unsigned ready = 0;
  unsigned at_barrier = 0;
  unsigned gone = 0;  // lanes that have returned, or never were
  std::list<Group> groups;

  Group& group(unsigned mask) {
    for (Group& group : groups) {
      if (group.mask == mask) return group;
    }
    return groups.emplace_front(Group{mask});
  }
};

enum class Schedule { random, first_warp, last_warp };

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes;
  void (*function)(void*);
  void* closure;
  Schedule schedule;
  Random random;
  Stacks& stacks;

  Fiber host = {};  // whoever launched
  std::uint64_t start_sync = 0, end_sync = 0;
};

std::string text(dim3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
         std::to_string(index.z) + ")";
}

[[noreturn]] void fail(const Call& call, const std::string& why) {
  throw std::runtime_error(call.text() + ": thread " + text(threadIdx) + " of block " +
                           text(blockIdx) + " " + why);
}

// Every block has its own sync objects, at their own addresses.  Were they used again, a barrier
// would tell a block's threads of all that was done in earlier blocks, and hide races.
class Block {
 public:
  Block(Launch& launch, dim3 index);
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Until all threads have returned.
  void run();

  // Tells TSan that the launch waits for the threads, and that it can forget them.
  void end_threads();

  void* shared() const { return shared_.get(); }
  void sync_threads(Place place);
  const Round& meet(const Call& call, std::uint64_t value, bool vote);

 private:
  [[noreturn]] static void thread_main();

  void make_ready(Warp& warp, unsigned lanes);
  void leave_barrier_if_all_are_there();
  void thread_returned();
  void yield();
  Fiber& next_ready();
  std::string deadlock() const;

  Launch& launch_;
  dim3 index_;
  unsigned threads_;
  std::unique_ptr<std::byte[]> shared_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::uint32_t ready_warps_ = 0;  // those with a ready lane
  unsigned returned_ = 0;

  unsigned waiting_ = 0;  // at the block's barrier, which is this one:
  Place barrier_;
  unsigned barrier_turn_ = 0;
  std::array<std::uint64_t, 2> barrier_sync_ = {};  // take turns as the rounds of a group do

  std::exception_ptr error_;
};

Block* running_block = nullptr;
Fiber* running = nullptr;

void switch_to(Fiber& next, bool for_good = false) {
  Fiber& self = *std::exchange(running, &next);
  threadIdx = next.thread;
  asan::leave(for_good ? nullptr : &self.asan_fake_stack, next.stack, next.stack_bytes);
  tsan::switch_to(next.tsan_fiber);
  sinkhorn_switch_stack(&self.stack_pointer, next.stack_pointer);
  asan::arrive(self.asan_fake_stack, nullptr, nullptr);
}

Block::Block(Launch& launch, dim3 index)
    : launch_(launch),
      index_(index),
      threads_(launch.block.x * launch.block.y * launch.block.z),
      shared_(new std::byte[launch.shared_bytes]),
      fibers_(threads_),
      warps_((threads_ + kWarpSize - 1) / kWarpSize) {
  // NaN in every floating-point type: a read of what no one wrote shows.
  std::memset(shared_.get(), 0xFF, launch.shared_bytes);

  const dim3& block = launch.block;
  for (unsigned i = 0; i < threads_; ++i) {
    char* stack = launch.stacks.at(i);
    Stacks::renew(stack);
    void** frame = reinterpret_cast<void**>(stack + kStackBytes) - kSavedWords;
    std::fill_n(frame, kSavedWords, nullptr);
    frame[kReturnWord] = reinterpret_cast<void*>(&thread_main);

    Fiber& fiber = fibers_[i];
    fiber.stack_pointer = frame;
    fiber.stack = stack;
    fiber.stack_bytes = kStackBytes;
    fiber.tsan_fiber = tsan::create_fiber();
    fiber.thread = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
    fiber.warp = &warps_[i / kWarpSize];
    fiber.lane = i % kWarpSize;
    make_ready(*fiber.warp, fiber.lane_bit());
  }
  for (Warp& warp : warps_) warp.gone = ~warp.ready;
}

void Block::run() {
  running_block = this;
  running = &launch_.host;
  blockIdx = index_;
  tsan::release(&launch_.start_sync);
  switch_to(next_ready());  // and back when no thread is ready
  if (error_) std::rethrow_exception(error_);
  if (returned_ < threads_) throw std::runtime_error(deadlock());
}

void Block::end_threads() {
  for (Fiber& fiber : fibers_) {
    tsan::switch_to(fiber.tsan_fiber);
    tsan::release(&launch_.end_sync);
    tsan::switch_to(launch_.host.tsan_fiber);
    tsan::destroy_fiber(fiber.tsan_fiber);
  }
}

void Block::thread_main() {
  Block& block = *running_block;
  Launch& launch = block.launch_;
  Fiber& host = launch.host;
  // The launch's first thread comes straight from the host, and so learns where its stack lies.
  const bool first = host.stack == nullptr;
  asan::arrive(nullptr, first ? &host.stack : nullptr, first ? &host.stack_bytes : nullptr);

  tsan::acquire(&launch.start_sync);
  try {
    launch.function(launch.closure);
    block.thread_returned();
  } catch (...) {
    block.error_ = std::current_exception();
  }

  const bool go_on = !block.error_ && block.ready_warps_ != 0;
  switch_to(go_on ? block.next_ready() : host, /*for_good=*/true);
  std::abort();
}

void Block::make_ready(Warp& warp, unsigned lanes) {
  if (lanes == 0) return;
  warp.ready |= lanes;
  ready_warps_ |= 1u << (&warp - warps_.data());
}

Fiber& Block::next_ready() {
  unsigned w = 0;
  switch (launch_.schedule) {
    case Schedule::random:
      w = launch_.random.bit_of(ready_warps_);
      break;
    case Schedule::first_warp:
      w = unsigned(__builtin_ctz(ready_warps_));
      break;
    case Schedule::last_warp:
      w = 31 - unsigned(__builtin_clz(ready_warps_));
      break;
  }
  Warp& warp = warps_[w];
  const unsigned lane = launch_.random.bit_of(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << w);
  return fibers_[w * kWarpSize + lane];
}

void Block::yield() {
  Fiber& next = ready_warps_ != 0 ? next_ready() : launch_.host;
  if (&next != running) switch_to(next);
}

void Block::sync_threads(Place place) {
  Fiber& self = *running;
  self.call = {Operation::syncthreads, 0, place};
  const bool same = place.line == barrier_.line && std::strcmp(place.file, barrier_.file) == 0;
  if (waiting_ > 0 && !same) {
    fail(self.call,
         "is not where others wait, " + Call{Operation::syncthreads, 0, barrier_}.text());
  }
  barrier_ = place;
  void* sync = &barrier_sync_[barrier_turn_];
  tsan::release(sync);
  self.warp->at_barrier |= self.lane_bit();
  ++waiting_;
  leave_barrier_if_all_are_there();
  yield();
  tsan::acquire(sync);
}

// All that have not returned, as on the device.
void Block::leave_barrier_if_all_are_there() {
  if (waiting_ == 0 || waiting_ + returned_ < threads_) return;
  waiting_ = 0;
  barrier_turn_ ^= 1;
  for (Warp& warp : warps_) make_ready(warp, std::exchange(warp.at_barrier, 0));
}

const Round& Block::meet(const Call& call, std::uint64_t value, bool vote) {
  Fiber& self = *running;
  Warp& warp = *self.warp;
  if (!(call.mask & self.lane_bit())) fail(call, "is not in the mask");
  if (call.mask & warp.gone) {
    fail(call, "names lanes that have returned or never were: " + Call::hex(call.mask & warp.gone));
  }
  Group& group = warp.group(call.mask);
  Round& round = group.round();
  if (round.arrived == 0) round.operation = call.operation;
  if (round.operation != call.operation) {
    fail(call, "meets lanes that call " + std::string(name(round.operation)));
  }
  self.call = call;
  round.values[self.lane] = value;
  round.votes |= vote ? self.lane_bit() : 0;
  round.arrived |= self.lane_bit();
  tsan::release(&round);
  if (round.arrived == group.mask) {
    group.next_round();
    make_ready(warp, group.mask);
  }
  yield();
  tsan::acquire(&round);
  return round;
}

void Block::thread_returned() {
  running->warp->gone |= running->lane_bit();
  ++returned_;
  leave_barrier_if_all_are_there();
}

std::string Block::deadlock() const {
  std::map<std::string, int> waiting;
  for (const Fiber& fiber : fibers_) {
    if (!(fiber.warp->gone & fiber.lane_bit())) ++waiting[fiber.call.text()];
  }
  std::string result = "block " + text(index_) + " cannot go on: " + std::to_string(returned_) +
                       " threads have returned";
  for (const auto& [call, threads] : waiting) {
    result += ", " + std::to_string(threads) + " wait at " + call;
  }
  return result;
}

// The blocks of a launch.  TSan needs those that are done, too: it gives the number of a thread
// that it has forgotten to a new one, and then takes what both did for the work of one.  So races
// between blocks that run more than kMaxTsanThreads apart can go unseen.  The memory of blocks goes
// last of all: freed at once, it would seem to race with the threads that used it, and waiting for
// these between blocks would hide races.
class Blocks {
 public:
  explicit Blocks(Launch& launch) : launch_(launch) {}
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  ~Blocks() {
    while (ended_ < blocks_.size()) blocks_[ended_++]->end_threads();
    tsan::acquire(&launch_.end_sync);
  }

  Block& next(dim3 index) {
    if (!tsan::kEnabled) blocks_.clear();
    const std::size_t threads = launch_.block.x * launch_.block.y * launch_.block.z;
    while (ended_ < blocks_.size() && (blocks_.size() - ended_ + 1) * threads > kMaxTsanThreads) {
      blocks_[ended_++]->end_threads();
    }
    blocks_.push_back(std::make_unique<Block>(launch_, index));
    return *blocks_.back();
  }

 private:
  static constexpr std::size_t kMaxTsanThreads = 1024;  // each takes TSan 1.5 MB

  Launch& launch_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::size_t ended_ = 0;  // the first ones, whose threads TSan has forgotten
};

Schedule schedule_from_environment() {
  const char* value = std::getenv("SINKHORN_HOST_SCHEDULE");
  const std::string name = value ? value : "random";
  if (name == "random") return Schedule::random;
  if (name == "first-warp") return Schedule::first_warp;
  if (name == "last-warp") return Schedule::last_warp;
  throw std::runtime_error("SINKHORN_HOST_SCHEDULE is '" + name +
                           "', not random, first-warp or last-warp");
}

std::uint64_t seed_from_environment() {
  const char* value = std::getenv("SINKHORN_HOST_SEED");
  return value ? std::strtoull(value, nullptr, 10) : 1;
}

void check_shape(dim3 grid, dim3 block, std::size_t shared_bytes) {
  constexpr unsigned kMaxGridX = (1u << 31) - 1, kMaxGridYZ = 65535, kMaxBlockZ = 64;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const auto within = [](unsigned size, unsigned most) { return size >= 1 && size <= most; };
  if (!within(grid.x, kMaxGridX) || !within(grid.y, kMaxGridYZ) || !within(grid.z, kMaxGridYZ)) {
    throw std::runtime_error("no device takes a grid of " + text(grid) + " blocks");
  }
  if (!within(block.x, kMaxThreads) || !within(block.y, kMaxThreads) ||
      !within(block.z, kMaxBlockZ) || threads > kMaxThreads) {
    throw std::runtime_error("no device takes a block of " + text(block) + " threads");
  }
  if (shared_bytes > kMaxSharedBytes) {
    throw std::runtime_error("no device has " + std::to_string(shared_bytes) +
                             " bytes of shared memory for a block");
  }
}

unsigned source_lane(Operation shuffle, unsigned self, unsigned operand, unsigned width) {
  const unsigned first = self & ~(width - 1);
  const unsigned last = self | (width - 1);
  switch (shuffle) {
    case Operation::shfl:
      return first | (operand & (width - 1));
    case Operation::shfl_up:
      return operand <= self - first ? self - operand : self;
    case Operation::shfl_down:
      return operand <= last - self ? self + operand : self;
    default:  // shfl_xor, that may read an earlier segment, but not a later one
      return (self ^ operand) <= last ? self ^ operand : self;
  }
}

}  // namespace

void* shared_memory() { return running_block->shared(); }

void __syncthreads(Place place) { running_block->sync_threads(place); }

void __syncwarp(unsigned mask, Place place) {
  running_block->meet({Operation::syncwarp, mask, place}, 0, false);
}

unsigned __ballot_sync(unsigned mask, int predicate, Place place) {
  return running_block->meet({Operation::ballot, mask, place}, 0, predicate != 0).votes;
}

int __any_sync(unsigned mask, int predicate, Place place) {
  return running_block->meet({Operation::any, mask, place}, 0, predicate != 0).votes != 0;
}

std::uint64_t shuffle_bits(Operation kind, unsigned mask, std::uint64_t bits, unsigned operand,
                           int width, Place place) {
  const Call call{kind, mask, place};
  if (width < 1 || width > int(kWarpSize) || (width & (width - 1)) != 0) {
    fail(call, "gives a width of " + std::to_string(width));
  }
  const unsigned source = source_lane(kind, running->lane, operand, unsigned(width));
  if (!(mask >> source & 1)) fail(call, "reads lane " + std::to_string(source) + ", not in mask");
  return running_block->meet(call, bits, false).values[source];
}

void run(dim3 grid, dim3 block, std::size_t shared_bytes, void (*function)(void*), void* closure) {
  static std::mutex one_launch_at_a_time;
  static Stacks stacks;
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);

  check_shape(grid, block, shared_bytes);
  Launch launch{grid,
                block,
                shared_bytes,
                function,
                closure,
                schedule_from_environment(),
                Random(seed_from_environment()),
                stacks};
  launch.host.tsan_fiber = tsan::current_fiber();
  blockDim = block;
  gridDim = grid;

  std::vector<std::uint64_t> order(std::uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), launch.random);
  Blocks blocks(launch);
  for (const std::uint64_t i : order) {
    const dim3 index(unsigned(i % grid.x), unsigned(i / grid.x % grid.y),
                     unsigned(i / grid.x / grid.y));
    blocks.next(index).run();
  }
}

}  // namespace sinkhorn::cuda::host
