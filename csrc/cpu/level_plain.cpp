// The kernels for any processor the compiler targets.
#include "block.hpp"
// clang-format off: after the target is set
#include "widen.hpp"
#include "kernels.inl"
// clang-format on

const sinkhorn::Kernels& sinkhorn::plain_kernels() { return kKernels; }
