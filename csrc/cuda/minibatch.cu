#include "minibatch.cuh"

namespace sinkhorn::cuda {

namespace {

unsigned blocks_for(int64_t work, int64_t each) { return unsigned((work + each - 1) / each); }

// Calls run(a score, a number of its arithmetic).
template <class Run>
void with_types(Dtype dtype, Run run) {
  switch (dtype) {
    case Dtype::f64:
      return run(double(), double());
    case Dtype::f32:
      return run(float(), float());
    case Dtype::f16:
      return run(__half(), float());
    case Dtype::bf16:
      return run(__nv_bfloat16(), float());
  }
}

}  // namespace

void minibatch_rows(const Minibatch& of, Dtype dtype, void* stream) {
  with_types(dtype, [&](auto score, auto number) {
    launch(minibatch_rows_kernel<decltype(score), decltype(number)>,
           dim3(unsigned(of.batches * of.n)), dim3(kMinibatchThreads), size_t(Boards::kBytes),
           static_cast<cudaStream_t>(stream), of);
  });
}

void minibatch_columns(const Minibatch& of, Dtype dtype, void* stream) {
  with_types(dtype, [&](auto score, auto number) {
    launch(minibatch_columns_kernel<decltype(score), decltype(number)>,
           dim3(unsigned(of.batches * of.blocks), blocks_for(of.k, kMinibatchThreads)),
           dim3(kMinibatchThreads), 0, static_cast<cudaStream_t>(stream), of);
  });
}

void minibatch_finish(const void* sums, Dtype dtype, int64_t batches, int64_t blocks, int64_t k,
                      double* masses, void* stream) {
  auto run = [&](auto number) {
    using E = decltype(number);
    launch(minibatch_finish_kernel<E>, dim3(unsigned(batches), blocks_for(k, kColumns)),
           dim3(kColumnThreads), kColumnThreads * sizeof(double), static_cast<cudaStream_t>(stream),
           static_cast<const E*>(sums), blocks, k, masses);
  };
  dtype == Dtype::f64 ? run(double()) : run(float());
}

}  // namespace sinkhorn::cuda
