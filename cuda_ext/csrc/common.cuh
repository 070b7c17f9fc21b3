// What the operators share: element types, tensors as a kernel sees them, checks, and launching.
//
// Only PyTorch's stable ABI (2.11) is used, which has all that these operators need: one binary then serves
// PyTorch 2.11 and every later 2.x, whatever the Python, and compiling it needs no CUDA build of PyTorch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <array>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

namespace dain {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ---------------------------------------------------------------- element types

// What coordinates and sums are held in.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType wide(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls `body` with a value of the C++ type that a dtype stands for.
template <typename Body>
void dispatch(ScalarType type, Body body) {
  switch (type) {
    case ScalarType::Float:
      return body(float());
    case ScalarType::Double:
      return body(double());
    case ScalarType::Half:
      return body(__half());
    case ScalarType::BFloat16:
      return body(__nv_bfloat16());
    default:
      STD_TORCH_CHECK(false, "needs float16, bfloat16, float32 or float64, not ",
                      torch::headeronly::toString(type));
  }
}

// Four neighbours that are read or written at once.
template <typename T>
struct alignas(4 * sizeof(T)) Pack {
  T values[4];
};

// Rounds two neighbours. To eight bits that is one instruction for both.
template <typename O>
__device__ void round_pair(float first, float second, O* to) {
  if constexpr (std::is_same_v<O, __nv_fp8_e4m3>) {
    *reinterpret_cast<__nv_fp8x2_e4m3*>(to) = __nv_fp8x2_e4m3(make_float2(first, second));
  } else {
    to[0] = O(first), to[1] = O(second);
  }
}

// Adds four neighbours atomically.
__device__ inline void add(Pack<float>* target, const Pack<float>& values) {
#if __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(target), reinterpret_cast<const float4&>(values));
#else
  for (int k = 0; k < 4; ++k) {
    atomicAdd(&target->values[k], values.values[k]);
  }
#endif
}

__device__ inline void add(Pack<double>* target, const Pack<double>& values) {
  for (int k = 0; k < 4; ++k) {
    atomicAdd(&target->values[k], values.values[k]);
  }
}

// ---------------------------------------------------------------- tensors

// Sizes of a tensor (N, C, H, W).
struct Shape {
  int batch, channels, height, width;

  Shape with_channels(int count) const {
    return {batch, count, height, width};
  }
  std::array<int64_t, 4> sizes() const {
    return {batch, channels, height, width};
  }
  int64_t numel() const {
    return int64_t(batch) * channels * height * width;
  }
};

inline std::string text(const Shape& shape) {
  const auto [n, c, h, w] = shape.sizes();
  return "(" + std::to_string(n) + ", " + std::to_string(c) + ", " + std::to_string(h) + ", " +
      std::to_string(w) + ")";
}

// A tensor of any strides. Offsets are 64 bits wide: the contexts of two 4K frames pass 2^31 elements.
template <typename T>
struct View {
  T* data;
  int64_t n, c, y, x;  // strides, in elements

  __device__ T* at(int64_t in, int64_t ic, int64_t iy, int64_t ix) const {
    return data + in * n + ic * c + iy * y + ix * x;
  }
};

template <typename T>
View<const T> read(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1),
          tensor.stride(2), tensor.stride(3)};
}

template <typename T>
View<T> write(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1),
          tensor.stride(2), tensor.stride(3)};
}

// ---------------------------------------------------------------- checks

inline Shape shape_of(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must be (N, C, H, W), but has ", tensor.dim(), " dimensions");
  for (const int64_t size : tensor.sizes()) {
    STD_TORCH_CHECK(size <= std::numeric_limits<int>::max(), name, " has a dimension of ", size);
  }
  return {int(tensor.size(0)), int(tensor.size(1)), int(tensor.size(2)), int(tensor.size(3))};
}

// Raises unless `tensor` has this dtype and is on the GPU of `reference`.
inline void check_kind(const char* name, const Tensor& tensor, ScalarType type, const Tensor& reference) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ", torch::headeronly::toString(type),
                  ", not ", torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(tensor.is_cuda() && reference.is_cuda() &&
                      tensor.get_device_index() == reference.get_device_index(),
                  name, " must be on the same GPU as the other arguments");
}

// Raises unless `tensor` has this shape and dtype and is on the GPU of `reference`.
inline void check(const char* name, const Tensor& tensor, const Shape& shape, ScalarType type,
                  const Tensor& reference) {
  const Shape found = shape_of(name, tensor);
  STD_TORCH_CHECK(found.sizes() == shape.sizes(), name, " must be ", text(shape), ", not ", text(found));
  check_kind(name, tensor, type, reference);
}

// The address of `count` elements of this dtype, one after another on the GPU of `reference`; raises unless they are
// that, and start at a multiple of `alignment` bytes.
template <typename T>
const T* vector_of(const char* name, const Tensor& tensor, int64_t count, ScalarType type, const Tensor& reference,
                   int64_t alignment = sizeof(T)) {
  check_kind(name, tensor, type, reference);
  STD_TORCH_CHECK(tensor.numel() == count && tensor.is_contiguous(), name, " must be ", count,
                  " contiguous elements, not ", tensor.numel(), tensor.is_contiguous() ? "" : " apart from each other");
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  STD_TORCH_CHECK(address % alignment == 0, name, " must be aligned to ", alignment, " bytes");
  return static_cast<const T*>(tensor.const_data_ptr());
}

// ---------------------------------------------------------------- memory

// The distance between pixels of a tensor whose channels are neighbours and whose pixels follow one another.
inline int64_t pitch_of(const char* name, const Tensor& tensor, int64_t alignment) {
  const int64_t pitch = tensor.size(3) > 1 ? tensor.stride(3)
      : tensor.size(2) > 1                 ? tensor.stride(2)
                                           : tensor.stride(0);
  const bool dense = (tensor.size(1) == 1 || tensor.stride(1) == 1) &&
      (tensor.size(2) == 1 || tensor.stride(2) == pitch * tensor.size(3)) &&
      (tensor.size(0) == 1 || tensor.stride(0) == pitch * tensor.size(3) * tensor.size(2));
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  STD_TORCH_CHECK(dense && pitch * int64_t(tensor.element_size()) % alignment == 0 && address % alignment == 0, name,
                  " must be a slice of channels of a channels-last tensor, aligned to ", alignment, " bytes");
  return pitch;
}

// Channels-last, and not plainly contiguous as well (as with one channel, or a single pixel).
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.is_contiguous()) {
    return false;
  }
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (tensor.size(dim) != 1) {
      if (tensor.stride(dim) != expected) {
        return false;
      }
      expected *= tensor.size(dim);
    }
  }
  return true;
}

inline MemoryFormat format_of(const Tensor& tensor) {
  return is_channels_last(tensor) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// An uninitialised tensor on the device of `reference`.
inline Tensor empty(const Shape& shape, ScalarType type, const Tensor& reference,
                    MemoryFormat format = MemoryFormat::Contiguous) {
  const auto sizes = shape.sizes();
  try {
    return torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, reference.device(),
                                std::nullopt, format);
  } catch (const std::runtime_error& error) {
    // The stable ABI loses the allocator's own words.
    throw std::runtime_error("CUDA out of memory: no room for a tensor " + text(shape) + " (" + error.what() +
                             ")");
  }
}

inline Tensor zeros(const Shape& shape, ScalarType type, const Tensor& reference) {
  Tensor result = empty(shape, type, reference);
  torch::stable::zero_(result);
  return result;
}

// `result` in the dtype and with the strides of `tensor`: what a gradient owes the tensor it belongs to.
inline Tensor like(const Tensor& result, const Tensor& tensor) {
  if (tensor.is_contiguous() && tensor.scalar_type() == result.scalar_type()) {
    return result;
  }
  Tensor copy = torch::stable::empty_like(tensor);
  torch::stable::copy_(copy, result);
  return copy;
}

// ---------------------------------------------------------------- launching

// Blocks of 32 x 8 threads, each thread a pixel: a warp reads along a row.
constexpr int kBlockWidth = 32;
constexpr int kBlockHeight = 8;

constexpr int64_t ceil_div(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

constexpr const char* kTooLarge = "the tensors are too large for one launch: split the batch";

inline int attribute_of_device(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Bytes of shared memory that a block may have on the current device, and no more than `wanted` if that is not 0. The
// device is the right one while a Launcher lives.
inline int shared_memory_limit(int64_t wanted) {
  const int limit = attribute_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  STD_TORCH_CHECK(wanted >= 0 && wanted <= limit, "shared_memory must be between 0 and this GPU's limit of ", limit,
                  " bytes, not ", wanted);
  return wanted ? int(wanted) : limit;
}

// Raises unless the current device has the matrix instructions that `name` is made of.
inline void require_tensor_cores(const char* name) {
  const int major = attribute_of_device(cudaDevAttrComputeCapabilityMajor);
  const int minor = attribute_of_device(cudaDevAttrComputeCapabilityMinor);
  STD_TORCH_CHECK(major >= 8, name, " needs a GPU of compute capability 8.0 or later, not ", major, ".", minor,
                  ": run the plain network there");
}

// Lets a kernel have all the dynamic shared memory that the current device has, so ask while a Launcher lives. The limit
// is a property of the kernel and not of a launch: another thread could set a lower one between here and the launch.
inline void allow_shared_memory(const void* kernel) {
  cudaFuncAttributes found;
  STD_CUDA_CHECK(cudaFuncGetAttributes(&found, kernel));
  const int dynamic = shared_memory_limit(0) - int(found.sharedSizeBytes);
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
}

// Raises if the grid has more blocks than a launch may have.
inline dim3 checked_grid(const std::array<int64_t, 3>& grid) {
  STD_TORCH_CHECK(grid[0] <= std::numeric_limits<int>::max() && grid[1] <= 65535 && grid[2] <= 65535, kTooLarge);
  return dim3(grid[0], grid[1], grid[2]);
}

// Launches kernels on a tensor's device, which is the current one while this lives, and on its current stream.
class Launcher {
 public:
  explicit Launcher(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const {
    return stream_;
  }

  // A grid of blocks; an empty one is no work.
  template <typename... Parameters, typename... Arguments>
  void blocks(void (*kernel)(Parameters...), const std::array<int64_t, 3>& grid, dim3 block,
              const Arguments&... arguments) const {
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) {
      return;
    }
    kernel<<<checked_grid(grid), block, 0, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // A thread for every pixel of `planes` planes (blockIdx.z) of height x width.
  template <typename... Parameters, typename... Arguments>
  void pixels(void (*kernel)(Parameters...), int64_t planes, int height, int width,
              const Arguments&... arguments) const {
    blocks(kernel, {ceil_div(width, kBlockWidth), ceil_div(height, kBlockHeight), planes},
           dim3(kBlockWidth, kBlockHeight), arguments...);
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace dain
