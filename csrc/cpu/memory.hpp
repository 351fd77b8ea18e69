// Aligned buffers that own their memory.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace sinkhorn {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

template <class T>
using Buffer = std::unique_ptr<T[], Free>;

// Pages are only taken when written to; large ones come as huge pages where the system has them.
template <class T>
Buffer<T> aligned(int64_t count) {
  constexpr size_t line = 64, huge = size_t(1) << 21;
  size_t bytes = size_t(count) * sizeof(T), unit = bytes < 4 * huge ? line : huge;
  bytes = bytes ? (bytes + unit - 1) / unit * unit : unit;
  void* p = std::aligned_alloc(unit, bytes);
  if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (unit == huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return Buffer<T>(static_cast<T*>(p));
}

}  // namespace sinkhorn
