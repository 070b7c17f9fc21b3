// What the kernels of `convolve_into` share: a layer, and where a tile of its pixels lies.
#pragma once

#include "common.cuh"

namespace dain {

struct Layer {
  int batch, height, width;
  int groups;         // of input channels, 32 bytes each
  int outputs;        // of the weight; `channels` of them are written
  int channels;
  int rows, columns;  // of the kernel
  int dilation;
  int64_t in_pitch, plus_pitch, out_pitch;  // elements from pixel to pixel
  float slope;
};

// The tensors of a layer. Of `scale` and `plus` there may be none.
struct Tensors {
  const void* input;
  const void* weight;
  const float* scale;
  const float* bias;
  const void* plus;
  void* out;
};

// Pixels `dilation` apart never meet another's neighbours: a dilated convolution is `dilation`^2 plain ones, each on a
// lattice of its own. A tile lies in one lattice; `index` counts the lattices' tiles side by side.
__host__ __device__ inline int tiles_along(int length, int side, int dilation) {
  const int lattice = (length + dilation - 1) / dilation;
  return dilation * ((lattice + side - 1) / side);
}

__device__ inline int first_pixel(int index, int side, int dilation) {
  return index % dilation + index / dilation * side * dilation;
}

__device__ inline float activate(float value, float slope) {
  return value > 0 ? value : value * slope;
}

__device__ inline void copy_async(uint32_t target, const void* source, bool inside) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(inside ? 16 : 0));
#endif
}

// For compute capability 9.0. Of the kernel's rows, `layer.rows` counts groups of `phases`.
void convolve_hopper(cudaStream_t stream, ScalarType input, ScalarType out, const Tensors& tensors, const Layer& layer,
                     int phases);

// For compute capability 9.0: runs a layer of a single tap, unless it has more than its kernel takes.
bool convolve_pointwise(cudaStream_t stream, ScalarType type, const Tensors& tensors, const Layer& layer);

}  // namespace dain
