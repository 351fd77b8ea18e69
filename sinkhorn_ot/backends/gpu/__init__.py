"""The GPU backends: two sets of the same kernels, CUDA C++ and Triton, and torch around them."""
