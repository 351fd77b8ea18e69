// Python sees the kernels through addresses, sizes and a stream; memory and maths are elsewhere.
#include <pybind11/pybind11.h>

#include <string>

#include "minibatch.hpp"
#include "passes.hpp"

namespace py = pybind11;
using namespace sinkhorn::cuda;

namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void* stream_of(uintptr_t address) { return pointer<void>(address); }

template <class S, class T>
void address_field(py::class_<S>& to, const char* name, T* S::* field) {
  to.def_property(
      name, [field](const S& s) { return reinterpret_cast<uintptr_t>(s.*field); },
      [field](S& s, uintptr_t address) { s.*field = pointer<T>(address); });
}

// The passes over minibatches; see csrc/cuda/minibatch.hpp.
void bind_minibatch(py::module_& m) {
  py::class_<Minibatch> of(m, "Minibatch", py::module_local());
  of.def(py::init<>())
      .def_readwrite("batches", &Minibatch::batches)
      .def_readwrite("n", &Minibatch::n)
      .def_readwrite("k", &Minibatch::k)
      .def_readwrite("batch_stride", &Minibatch::batch_stride)
      .def_readwrite("row_stride", &Minibatch::row_stride)
      .def_readwrite("col_stride", &Minibatch::col_stride)
      .def_readwrite("rate", &Minibatch::rate)
      .def_readwrite("rows_per_block", &Minibatch::rows_per_block)
      .def_readwrite("blocks", &Minibatch::blocks)
      .def_readwrite("out_batch_stride", &Minibatch::out_batch_stride)
      .def_readwrite("out_row_stride", &Minibatch::out_row_stride)
      .def_readwrite("out_col_stride", &Minibatch::out_col_stride);
  address_field(of, "x", &Minibatch::x);
  address_field(of, "n_valid", &Minibatch::n_valid);
  address_field(of, "masses", &Minibatch::masses);
  address_field(of, "tops", &Minibatch::tops);
  address_field(of, "scales", &Minibatch::scales);
  address_field(of, "largest", &Minibatch::largest);
  address_field(of, "sums", &Minibatch::sums);
  address_field(of, "out", &Minibatch::out);
  m.def("minibatch_rows", [](const Minibatch& of, Dtype dtype, uintptr_t stream) {
    minibatch_rows(of, dtype, stream_of(stream));
  });
  m.def("minibatch_columns", [](const Minibatch& of, Dtype dtype, uintptr_t stream) {
    minibatch_columns(of, dtype, stream_of(stream));
  });
  m.def("minibatch_finish", [](uintptr_t sums, Dtype dtype, int64_t batches, int64_t blocks,
                               int64_t k, uintptr_t masses, uintptr_t stream) {
    minibatch_finish(pointer<void>(sums), dtype, batches, blocks, k, pointer<double>(masses),
                     stream_of(stream));
  });
}

}  // namespace

PYBIND11_MODULE(SINKHORN_MODULE, m, py::mod_gil_not_used()) {
  const py::module_local local;  // tests load a second build of this module beside the first
  m.doc() = "Passes over rows on a GPU; see sinkhorn_ot/backends/gpu/cuda.py.";
  py::enum_<Dtype>(m, "Dtype", local)
      .value("float64", Dtype::f64)
      .value("float32", Dtype::f32)
      .value("float16", Dtype::f16)
      .value("bfloat16", Dtype::bf16);
  py::enum_<Kind>(m, "Kind", local).value("quick", Kind::quick).value("exact", Kind::exact);
  py::enum_<Mode>(m, "Mode", local)
      .value("whole", Mode::whole)
      .value("stats", Mode::stats)
      .value("apply", Mode::apply)
      .value("fill", Mode::fill);
  py::class_<Tile>(m, "Tile", local)
      .def_readonly("lanes", &Tile::lanes)
      .def_readonly("per", &Tile::per)
      .def_readonly("threads", &Tile::threads)
      .def_readonly("chunks", &Tile::chunks);
  py::class_<KeptRows> kept(m, "KeptRows", local);
  kept.def(py::init<>())
      .def_readwrite("least", &KeptRows::least)
      .def_readwrite("pieces", &KeptRows::pieces)
      .def_readwrite("step", &KeptRows::step);
  address_field(kept, "count", &KeptRows::count);
  address_field(kept, "top", &KeptRows::top);
  address_field(kept, "chunk_top", &KeptRows::chunk_top);
  address_field(kept, "begin", &KeptRows::begin);
  address_field(kept, "end", &KeptRows::end);
  address_field(kept, "entry", &KeptRows::entry);
  address_field(kept, "column", &KeptRows::column);
  address_field(kept, "row", &KeptRows::row);
  py::class_<RowPass> pass(m, "RowPass", local);
  pass.def(py::init<>())
      .def_readwrite("k", &RowPass::k)
      .def_readwrite("row_stride", &RowPass::row_stride)
      .def_readwrite("col_stride", &RowPass::col_stride)
      .def_readwrite("vectors", &RowPass::vectors)
      .def_readwrite("n", &RowPass::n)
      .def_readwrite("epsilon", &RowPass::epsilon)
      .def_readwrite("stride", &RowPass::stride)
      .def_readwrite("count", &RowPass::count)
      .def_readwrite("rows_per_block", &RowPass::rows_per_block)
      .def_readwrite("tile", &RowPass::tile)
      .def_readwrite("kept", &RowPass::kept);
  address_field(pass, "x", &RowPass::x);
  address_field(pass, "g", &RowPass::g);
  address_field(pass, "high", &RowPass::high);
  address_field(pass, "low", &RowPass::low);
  address_field(pass, "a", &RowPass::a);
  address_field(pass, "sums", &RowPass::sums);
  address_field(pass, "odd", &RowPass::odd);
  address_field(pass, "bad_row", &RowPass::bad_row);
  address_field(pass, "gate", &RowPass::gate);
  address_field(pass, "f", &RowPass::f);
  address_field(pass, "labels", &RowPass::labels);
  address_field(pass, "log_sum", &RowPass::log_sum);
  address_field(pass, "best", &RowPass::best);
  address_field(pass, "best_column", &RowPass::best_column);

  bind_minibatch(m);
  m.def("tile_of", &tile_of);
  m.def("why_not", &why_not, "Why no kernel can run on this machine, or an empty string.");
  m.def("prepare", [](uintptr_t g, int64_t k, int64_t padded, double epsilon, uintptr_t padded_g,
                      uintptr_t high, uintptr_t low, uintptr_t stream) {
    prepare(pointer<double>(g), k, padded, epsilon, pointer<double>(padded_g), pointer<float>(high),
            pointer<float>(low), stream_of(stream));
  });
  m.def("read_rows",
        [](const RowPass& p, Dtype dtype, Kind kind, Mode mode, int64_t blocks, uintptr_t stream) {
          read_rows(p, dtype, kind, mode, blocks, stream_of(stream));
        });
  m.def("finish", [](uintptr_t quick, int64_t quick_slabs, uintptr_t exact, int64_t exact_slabs,
                     uintptr_t odd, int64_t k, double n, uintptr_t g, uintptr_t out, uintptr_t gate,
                     uintptr_t stream) {
    finish({pointer<double>(quick), quick_slabs}, {pointer<double>(exact), exact_slabs},
           pointer<int>(odd), k, n, pointer<double>(g), pointer<double>(out), pointer<int>(gate),
           stream_of(stream));
  });
  m.def("read_log", [](const RowPass& p, Dtype dtype, int64_t blocks, uintptr_t tops,
                       uintptr_t totals, uintptr_t stream) {
    read_log(p, dtype, blocks, pointer<double>(tops), pointer<double>(totals), stream_of(stream));
  });
  m.def("finish_log", [](uintptr_t tops, uintptr_t totals, int64_t slabs, int64_t k, double n,
                         uintptr_t gate, uintptr_t out, uintptr_t stream) {
    finish_log(pointer<double>(tops), pointer<double>(totals), slabs, k, n, pointer<int>(gate),
               pointer<double>(out), stream_of(stream));
  });
  m.def("add_segments", [](uintptr_t begin, uintptr_t end, int64_t segments, uintptr_t value,
                           uintptr_t index, uintptr_t p, uintptr_t q, uintptr_t first,
                           uintptr_t second, int threads, uintptr_t stream) {
    add_segments(pointer<int64_t>(begin), pointer<int64_t>(end), segments, pointer<float>(value),
                 pointer<int32_t>(index), pointer<double>(p), pointer<double>(q),
                 pointer<double>(first), pointer<double>(second), threads, stream_of(stream));
  });
}
