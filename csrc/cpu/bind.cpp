// Python sees the passes through addresses and sizes; who owns the memory is Python's business.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "passes.hpp"
#include "sketch.hpp"

namespace py = pybind11;
using namespace sinkhorn;

namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
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
  py::class_<Rows>(m, "Rows").def(py::init([](uintptr_t data, Dtype dtype, int64_t n, int64_t k,
                                              int64_t row_stride, int64_t col_stride) {
    return Rows{pointer<void>(data), dtype, n, k, row_stride, col_stride};
  }));
  py::class_<Sketch>(m, "Sketch")
      .def(py::init<int64_t, int64_t, const std::string&>())
      .def("expect",
           [](Sketch& s, uintptr_t move, double reach) { s.expect(pointer<double>(move), reach); })
      .def("start", &Sketch::start)
      .def("carry",
           [](Sketch& s, int64_t b) {
             const SketchBlock& block = s.block(b);
             return py::make_tuple(block.seen, block.words_before + block.used, block.pending);
           })
      .def("go_on",
           [](Sketch& s, int64_t b, int64_t seen, int64_t words, float pending) {
             SketchBlock& block = s.block(b);
             block.seen = seen, block.words_before = words, block.pending = pending;
           })
      .def_property_readonly("weight", &Sketch::weight)
      .def_property_readonly("rows", &Sketch::rows)
      .def_property_readonly("words", &Sketch::words)
      .def(
          "mass",
          [](Sketch& s, uintptr_t scalings, bool exact, uintptr_t m, uintptr_t second,
             int threads) {
            s.mass(pointer<double>(scalings), exact, pointer<double>(m), pointer<double>(second),
                   threads);
          },
          release)
      .def(
          "value",
          [](Sketch& s, uintptr_t scalings, int threads) {
            return s.value(pointer<double>(scalings), threads);
          },
          release)
      .def(
          "second_moment",
          [](Sketch& s, uintptr_t scalings, uintptr_t v, bool exact, uintptr_t out, int threads) {
            s.second_moment(pointer<double>(scalings), pointer<double>(v), exact,
                            pointer<double>(out), threads);
          },
          release);
  py::class_<Blocks>(m, "Blocks")
      .def(py::init<int64_t, int64_t, int64_t, int64_t>())
      .def_readonly("first", &Blocks::first)
      .def_readonly("last", &Blocks::last)
      .def_property_readonly("joins", &Blocks::joins)
      .def_property_readonly("goes_on", &Blocks::goes_on);
  m.def(
      "run_pass",
      [](const Rows& x, uintptr_t g, uintptr_t a, double epsilon, Kind kind, const Blocks& blocks,
         int64_t first, int64_t last, const std::string& simd, int threads, uintptr_t out,
         uintptr_t f, uintptr_t labels, Sketch* sketch) {
        return run_pass(x, {pointer<double>(g), pointer<double>(a), epsilon}, kind, blocks, first,
                        last, simd, threads, pointer<double>(out),
                        {pointer<double>(f), pointer<int64_t>(labels), sketch});
      },
      "First bad row or -1; addresses of float64 and int64 arrays, 0 for none.", release);
  m.def("simd_levels", &simd_levels);
  m.def("max_threads", &max_threads);
}
