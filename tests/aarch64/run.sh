#!/usr/bin/env bash
# Builds the C++ core for AArch64 by a cross compiler, and tests it in an emulator: `make test-aarch64`.
#
# Needs Debian's g++-aarch64-linux-gnu and qemu-user. A Python for AArch64 is Debian's, unpacked into
# build/aarch64 and not installed; NumPy and ml_dtypes are the wheels for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?the Python that has pip and pybind11}
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$tool" > /dev/null || {
        echo "no $tool: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
        exit 1
    }
done

home=$PWD/build/aarch64
root=$home/root
if [ ! -e "$home/ready" ]; then
    rm -rf "$home"
    mkdir -p "$home"/state/lists/partial "$home"/cache/archives/partial "$home"/packages "$root"
    touch "$home/state/status"
    apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64
        -o "Dir::State=$home/state" -o "Dir::State::status=$home/state/status"
        -o "Dir::Cache=$home/cache")
    "${apt[@]}" update
    "${apt[@]}" install --download-only --yes --no-install-recommends \
        python3.11 libpython3.11-dev libgomp1 libstdc++6 > /dev/null
    for package in "$home"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    "$python" -m pip install --quiet --no-deps --target "$home/packages" --only-binary=:all: \
        --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 "numpy>=2.0" "ml_dtypes>=0.5"
    touch "$home/ready"
fi

# the package as it is, with a core for the other processor
rm -rf "$home/tree"
mkdir -p "$home/tree"
cp -r sinkhorn_ot "$home/tree/"
rm -f "$home"/tree/sinkhorn_ot/*.so
aarch64-linux-gnu-g++ -std=c++17 -O3 -fPIC -shared -fopenmp -fvisibility=hidden \
    -fno-math-errno -fno-trapping-math -Icsrc/cpu \
    -I"$("$python" -c "import pybind11; print(pybind11.get_include())")" \
    -I"$root/usr/include/python3.11" -I"$root/usr/include" \
    csrc/cpu/*.cpp -o "$home/tree/sinkhorn_ot/_cpu.cpython-311-aarch64-linux-gnu.so"

exec env PYTHONPATH="$home/tree:$home/packages" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=2 \
    qemu-aarch64 -L "$root" "$root/usr/bin/python3.11" tests/aarch64/check.py
