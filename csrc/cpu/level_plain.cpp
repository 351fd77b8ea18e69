// The kernels for any processor the compiler targets.
#include "block.hpp"
#include "kernels.inl"

const sinkhorn::Kernels& sinkhorn::plain_kernels() { return kKernels; }
