// What the kernels of `convolve_into` share.
#pragma once

#include "common.cuh"
#include "launch.h"

namespace dain {

// The tensors of a layer. `scale` and `plus` may be null.
struct Tensors {
  const void* input;
  const void* weight;
  const float* scale;
  const float* bias;
  const void* plus;
  void* out;
};

__device__ inline float activate(float value, float slope) {
  return value > 0 ? value : value * slope;
}

__device__ inline void copy_async(uint32_t target, const void* source, bool inside) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(inside ? 16 : 0));
#endif
}

// For compute capability 9.0. `layer.rows` counts groups of `phases` rows of the kernel. `limit`: see launch.h.
void convolve_hopper(cudaStream_t stream, ScalarType input, ScalarType out, const Tensors& tensors, const Layer& layer,
                     int phases, int limit);

// For compute capability 9.0: runs a layer of a single tap, unless it has more than its kernel takes.
bool convolve_pointwise(cudaStream_t stream, ScalarType input, ScalarType out, const Tensors& tensors,
                        const Layer& layer, int limit);

}  // namespace dain
