// Vectors come as contiguous arrays of NumPy. Logits may lie in any way and be of torch, so that
// they are an address and strides. Who owns the memory is Python's business.
#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "balanced.hpp"
#include "codes.hpp"
#include "kept.hpp"
#include "passes.hpp"

namespace py = pybind11;
using namespace sinkhorn;

// The numbers of a contiguous array of their type.
template <class T>
struct Numbers {
  T* data;
  int64_t size;
  operator T*() const { return data; }
  T* of(int64_t n) const {
    if (size != n)
      throw std::invalid_argument("got an array of " + std::to_string(size) + " numbers, not " +
                                  std::to_string(n));
    return data;
  }
};
using Doubles = Numbers<double>;
using Integers = Numbers<int64_t>;

template <class T>
T* or_null(const std::optional<Numbers<T>>& numbers) {
  return numbers ? numbers->data : nullptr;
}

namespace pybind11::detail {
template <class T>
struct type_caster<Numbers<T>> {
  PYBIND11_TYPE_CASTER(Numbers<T>, const_name("contiguous numpy.ndarray"));
  bool load(handle from, bool) {
    if (!array_t<T, array::c_style>::check_(from)) return false;
    const auto numbers = reinterpret_borrow<array>(from);
    value = {static_cast<T*>(const_cast<void*>(numbers.data())), int64_t(numbers.size())};
    return true;
  }
};
}  // namespace pybind11::detail

namespace {

void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

// The exact assignment; see csrc/cpu/balanced.hpp.
void bind_balancer(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> release;
  py::native_enum<Balancer::State>(m, "State", "enum.Enum")
      .value("done", Balancer::State::done)
      .value("busy", Balancer::State::busy)
      .value("stuck", Balancer::State::stuck)
      .finalize();
  py::class_<Balancer>(m, "Balancer")
      .def(py::init<int64_t, std::vector<int64_t>, std::vector<int64_t>>())
      .def(
          "collect",
          [](Balancer& s, const Rows& x, int64_t first, int threads, Doubles g, double window,
             int64_t width) { return s.collect({x, first, threads}, g, window, width); },
          release)
      .def(
          "check",
          [](Balancer& s, const Rows& x, int64_t first, int threads, double window, int64_t width) {
            s.check({x, first, threads}, window, width);
          },
          release)
      .def(
          "look_outside",
          [](Balancer& s, const Rows& x, int64_t first, int threads) {
            return s.look_outside({x, first, threads});
          },
          release)
      .def(
          "start", [](Balancer& s, Doubles g) { return s.start(g); }, release)
      .def("relabel", &Balancer::relabel, release)
      .def("repair", &Balancer::repair, release)
      .def("labels", [](const Balancer& s, Integers out) { s.labels(out); })
      .def_property_readonly("noted", &Balancer::noted)
      .def_property_readonly("to_repair", &Balancer::to_repair)
      .def_property_readonly("phases", &Balancer::phases)
      .def_property_readonly("moves", &Balancer::moves)
      .def_property_readonly("kept", &Balancer::kept)
      .def_property_readonly("objective",
                             [](const Balancer& s) { return s.certificate().objective; })
      .def_property_readonly("slack", [](const Balancer& s) { return s.certificate().slack; })
      .def_property_readonly("g", &Balancer::g)
      .def_property_readonly("counts", &Balancer::counts)
      .def_property_readonly("decided", &Balancer::decided)
      .def_property_readonly("reached", &Balancer::reached);
}

// The passes over minibatches; see csrc/cpu/codes.hpp.
void bind_codes(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> release;
  py::class_<Minibatch>(m, "Minibatch")
      .def(py::init([](uintptr_t data, Dtype dtype, int64_t batches, int64_t n, int64_t k,
                       int64_t batch_stride, int64_t row_stride, int64_t col_stride,
                       std::optional<Integers> n_valid, double epsilon) {
        const Rows rows{at(data), dtype, n, k, row_stride, col_stride};
        return Minibatch{rows, batches, batch_stride, n_valid ? n_valid->of(batches) : nullptr,
                         epsilon};
      }));
  m.def(
      "codes_first",
      [](const Minibatch& of, Doubles tops, Doubles masses, Doubles largest,
         const std::string& simd,
         int threads) { codes_first(of, tops, masses, largest, simd, threads); },
      release);
  m.def(
      "codes_next",
      [](const Minibatch& of, Doubles tops, Doubles masses, const std::string& simd, int threads) {
        codes_next(of, tops, masses, simd, threads);
      },
      release);
  m.def(
      "codes_last",
      [](const Minibatch& of, Doubles tops, Doubles masses, const Minibatch& out,
         const std::string& simd,
         int threads) { codes_last(of, tops, masses, out, simd, threads); },
      release);
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  const py::call_guard<py::gil_scoped_release> release;
  m.doc() = "Passes over rows on the CPU; see sinkhorn_ot/backends/cpu.py.";
  py::native_enum<Dtype>(m, "Dtype", "enum.Enum")
      .value("float64", Dtype::f64)
      .value("float32", Dtype::f32)
      .value("float16", Dtype::f16)
      .value("bfloat16", Dtype::bf16)
      .finalize();
  py::native_enum<Kind>(m, "Kind", "enum.Enum")
      .value("quick", Kind::quick)
      .value("exact", Kind::exact)
      .value("log", Kind::log)
      .finalize();
  py::class_<Rows>(m, "Rows").def(py::init(
      [](uintptr_t data, Dtype dtype, int64_t n, int64_t k, int64_t row_stride,
         int64_t col_stride) { return Rows{at(data), dtype, n, k, row_stride, col_stride}; }));
  py::class_<Kept>(m, "Kept")
      .def(py::init<int64_t, int64_t, double, const std::string&>())
      .def_property_readonly("fits", &Kept::fits)
      .def_property_readonly("rows", &Kept::rows)
      .def_property_readonly("words", &Kept::words)
      .def(
          "mass",
          [](Kept& kept, Doubles scalings, Doubles out, int threads) {
            kept.mass(scalings, out, threads);
          },
          release)
      .def(
          "second_moment",
          [](Kept& kept, Doubles scalings, Doubles v, Doubles out, int threads) {
            kept.second_moment(scalings, v, out, threads);
          },
          release);
  m.def(
      "run_pass",
      [](const Rows& x, Doubles g, std::optional<Doubles> a, double epsilon, Kind kind,
         const Sample& sample, int64_t block_rows, const std::string& simd, int threads,
         Doubles out, std::optional<Doubles> f, std::optional<Integers> labels, Kept* kept,
         double share) {
        return run_pass(x, {g.of(x.k), or_null(a), epsilon}, kind, sample, block_rows, simd,
                        threads, out.of(x.k + 1), {or_null(f), or_null(labels), kept, share});
      },
      "First bad row or -1.", release);
  py::class_<Sample>(m, "Sample")
      .def(py::init([](int64_t stride, int64_t first, int64_t last, int64_t origin) {
        return Sample{stride, first, last, origin};
      }));
  m.def("rows_per_block", &rows_per_block);
  bind_balancer(m);
  bind_codes(m);
  m.def("simd_levels", &simd_levels);
  m.def("max_threads", &max_threads);
}
