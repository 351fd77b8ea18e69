"""The compiled cores.  A machine that cannot build them still gets the backends that it can run.

SINKHORN_OT_CUDA=1 insists on the CUDA kernels, 0 leaves them out; otherwise they are built when an
nvcc is found and works.  SINKHORN_OT_CUDA_ARCHS (80;90;100) names the GPUs to build for.
"""

import os
import platform
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError

ParallelCompile(default=2).install()

CUDA = os.environ.get("SINKHORN_OT_CUDA", "auto")
ARCHS = os.environ.get("SINKHORN_OT_CUDA_ARCHS", "80;90;100")

flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]
flags += [
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]  # g++ 12 warns of its own AVX-512 header
openmp = ["-fopenmp"] if platform.system() != "Darwin" else ["-Xpreprocessor", "-fopenmp"]
libomp = ["-fopenmp"] if platform.system() != "Darwin" else ["-lomp"]
sources = ["bind", "passes", "kept", "balanced_labels", "balanced_paths", "balanced_rows", "codes"]
sources += ["level_plain", "level_avx2", "level_avx512"]
headers = [path.name for path in Path("csrc/cpu").iterdir() if path.suffix in (".hpp", ".inl")]
cuda_units = ["rows_f64", "rows_f32", "rows_f16", "rows_bf16", "passes", "minibatch"]


def find_nvcc() -> Path | None:
    """Look in CUDA_HOME, the PATH, and where PyPI's cuda-toolkit puts it."""
    places = [Path(os.environ["CUDA_HOME"]) / "bin"] if "CUDA_HOME" in os.environ else []
    on_path = shutil.which("nvcc")
    places += [Path(on_path).parent] if on_path else []
    packages = [Path(sysconfig.get_path("purelib"))]
    packages += Path(os.environ.get("VIRTUAL_ENV", "/nowhere")).glob("lib/python*/site-packages")
    places += [folder / "nvidia" / "cu13" / "bin" for folder in packages]
    return next((place / "nvcc" for place in places if (place / "nvcc").is_file()), None)


class Build(build_ext):
    """Builds the CUDA extension by nvcc, the other as usual."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        """Build one extension; what fails is optional, or insisted on."""
        if ext.name != "sinkhorn_ot._cuda":
            super().build_extension(ext)
            return
        nvcc = find_nvcc()
        try:
            if nvcc is None:
                raise CompileError(
                    "no nvcc on the PATH, among PyPI's wheels or in CUDA_HOME: set that"
                )
            self.build_cuda(ext, nvcc)
        except (OSError, CompileError) as error:
            if CUDA == "1":
                raise CompileError(f"SINKHORN_OT_CUDA=1, but the CUDA kernels: {error}") from error
            self.warn(f"sinkhorn_ot is built without its CUDA kernels: {error}")

    def build_cuda(self, ext: Pybind11Extension, nvcc: Path) -> None:
        """Compile the kernels for each GPU; link them with the bindings and a static runtime."""
        folder = Path(self.build_temp, "cuda")
        folder.mkdir(parents=True, exist_ok=True)
        known = run([nvcc, "--list-gpu-code"]).split()
        archs = [arch for arch in ARCHS.split(";") if f"sm_{arch}" in known]
        if not archs:
            raise CompileError(f"{nvcc} knows none of the GPUs {ARCHS}")
        code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        code.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        common = [nvcc, "-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Icsrc/cuda"]
        python = [f"-I{path}" for path in (*ext.include_dirs, sysconfig.get_path("include"))]
        objects = {folder / f"{unit}.o": [*code, f"csrc/cuda/{unit}.cu"] for unit in cuda_units}
        objects[folder / "bind.o"] = [*python, "-DSINKHORN_MODULE=_cuda", "csrc/cuda/bind.cpp"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [[*common, "-c", *what, "-o", path] for path, what in objects.items()]
            list(pool.map(run, commands))
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        libraries = [f"-L{nvcc.parents[1] / name}" for name in ("lib64", "lib")]
        run([nvcc, "-shared", "-cudart=static", *libraries, *objects, "-o", target])


def run(command: list[object]) -> str:
    """Run a compiler; return what it prints, raise what it complains of."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{' '.join(map(str, command))}\n{done.stderr.strip()}")
    return done.stdout


extensions = [
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
]
if CUDA != "0":
    cuda_sources = sorted(map(str, Path("csrc/cuda").glob("*")))
    extensions.append(
        Pybind11Extension(
            "sinkhorn_ot._cuda", cuda_sources, depends=cuda_sources, optional=CUDA != "1"
        )
    )

setup(ext_modules=extensions, cmdclass={"build_ext": Build})
