"""The compiled core.  A machine that cannot build it still gets the reference backend."""

import platform

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

ParallelCompile(default=2).install()


flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]
flags += [
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]  # g++ 12 warns of its own AVX-512 header
openmp = ["-fopenmp"] if platform.system() != "Darwin" else ["-Xpreprocessor", "-fopenmp"]
libomp = ["-fopenmp"] if platform.system() != "Darwin" else ["-lomp"]
sources = ["bind", "passes", "sketch", "level_plain", "level_avx2", "level_avx512"]
headers = ["passes.hpp", "block.hpp", "sketch.hpp", "memory.hpp", "flush.hpp"]
headers += ["kernels.inl", "simd.inl", "sketch.inl", "fast.inl"]

setup(
    ext_modules=[
        Pybind11Extension(
            "sinkhorn_ot._cpu",
            [f"csrc/cpu/{name}.cpp" for name in sources],
            depends=[f"csrc/cpu/{name}" for name in headers],
            include_dirs=["csrc/cpu"],
            cxx_std=17,
            extra_compile_args=flags + openmp,
            extra_link_args=libomp,
            optional=True,  # a failed build warns; at run time `auto` then says why it is slow
        )
    ],
    cmdclass={"build_ext": build_ext},
)
