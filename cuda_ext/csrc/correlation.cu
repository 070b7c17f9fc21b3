// The cost volume of two feature maps, for displacements of up to 4 pixels each way: 81 channels.
#include "common.cuh"

namespace dain {
namespace {

constexpr int kReach = 4;              // displacement, each way
constexpr int kSpan = 2 * kReach + 1;  // displacements along an axis

constexpr int kRun = 4;  // pixels side by side that one thread computes: a Pack
constexpr int kTileWidth = 32;
constexpr int kTileHeight = 4;
constexpr int kSlice = 8;  // channels in shared memory at a time
constexpr int kThreads = kTileWidth / kRun * kTileHeight * kSpan;
static_assert(kRun == kReach, "a run's neighbours are then the packs on either side");

// Fills `tile`, kSlice x rows x packs, from (C, H, W) with zeros outside; (top, left) may be negative.
template <int kRows, int kPacks, typename T>
__device__ void load_tile(Pack<Wide<T>>* tile, const T* map, int channels, const Shape& shape, int top, int left) {
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
#pragma unroll 1
  for (int item = thread; item < kSlice * kRows * kPacks; item += kThreads) {
    const int c = item / (kRows * kPacks), y = top + item / kPacks % kRows;
    const int x = left + item % kPacks * kRun;
    const bool row_inside = c < channels && y >= 0 && y < shape.height;
    const T* row = map + (int64_t(c) * shape.height + y) * shape.width;
    Pack<Wide<T>> run;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const bool inside = row_inside && x + i >= 0 && x + i < shape.width;
      run.values[i] = inside ? Wide<T>(row[x + i]) : Wide<T>(0);
    }
    tile[item] = run;
  }
}

// A block computes all 81 displacements of a 32 x 4 tile. A thread (x, y, z) computes those of row z for a run
// of four pixels: 36 products from 16 values of shared memory.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) > 4 ? 1 : 3)
    correlate(const T* first, const T* second, T* out, Shape shape) {
  using A = Wide<T>;
  constexpr int kPacks = kTileWidth / kRun;
  constexpr int kHaloRows = kTileHeight + 2 * kReach, kHaloPacks = kPacks + 2;
  __shared__ Pack<A> left[kSlice][kTileHeight][kPacks];
  __shared__ Pack<A> right[kSlice][kHaloRows][kHaloPacks];

  const int64_t plane = int64_t(shape.height) * shape.width;
  const int x0 = blockIdx.x * kTileWidth, y0 = blockIdx.y * kTileHeight;
  A sums[kSpan][kRun] = {};
  for (int c0 = 0; c0 < shape.channels; c0 += kSlice) {
    const int64_t start = (int64_t(blockIdx.z) * shape.channels + c0) * plane;
    const int count = shape.channels - c0;
    load_tile<kTileHeight, kPacks>(&left[0][0][0], first + start, count, shape, y0, x0);
    load_tile<kHaloRows, kHaloPacks>(&right[0][0][0], second + start, count, shape, y0 - kReach, x0 - kReach);
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < kSlice; ++c) {
      const Pack<A> here = left[c][threadIdx.y][threadIdx.x];
      const Pack<A>* row = right[c][threadIdx.y + threadIdx.z] + threadIdx.x;
      const Pack<A> there[3] = {row[0], row[1], row[2]};
#pragma unroll
      for (int dx = 0; dx < kSpan; ++dx) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          sums[dx][i] += here.values[i] * there[(dx + i) / kRun].values[(dx + i) % kRun];
        }
      }
    }
    __syncthreads();
  }

  const int x = x0 + threadIdx.x * kRun, y = y0 + threadIdx.y;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const A scale = A(1) / A(shape.channels);
  const int64_t first_channel = (int64_t(blockIdx.z) * kSpan + threadIdx.z) * kSpan;
#pragma unroll
  for (int dx = 0; dx < kSpan; ++dx) {
    T* target = out + (first_channel + dx) * plane + int64_t(y) * shape.width + x;
    Pack<T> run;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      run.values[i] = T(sums[dx][i] * scale);
    }
    if (shape.width % kRun == 0) {
      *reinterpret_cast<Pack<T>*>(target) = run;
    } else {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        if (x + i < shape.width) {
          target[i] = run.values[i];
        }
      }
    }
  }
}

// The gradient of one map, given the other. `kSide` is 1 for the first map, which meets the other at p + d, and
// -1 for the second, which meets it at p - d, where the product was put.
template <typename T, int kSide>
__global__ void correlate_backward(const T* grad, const T* other, T* grad_map, Shape shape) {
  using A = Wide<T>;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const int64_t plane = int64_t(shape.height) * shape.width;
  const int64_t pixel = int64_t(y) * shape.width + x;
  const T* grads = grad + int64_t(blockIdx.z / shape.channels) * kSpan * kSpan * plane;
  const T* map = other + blockIdx.z * plane;
  A sum = 0;
  for (int channel = 0; channel < kSpan * kSpan; ++channel) {
    const int yd = y + kSide * (channel / kSpan - kReach), xd = x + kSide * (channel % kSpan - kReach);
    if (yd >= 0 && yd < shape.height && xd >= 0 && xd < shape.width) {
      const int64_t met = int64_t(yd) * shape.width + xd;
      sum += A(grads[channel * plane + (kSide > 0 ? pixel : met)]) * A(map[met]);
    }
  }
  grad_map[blockIdx.z * plane + pixel] = T(sum / A(shape.channels));
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

Tensor correlation(const Tensor& first, const Tensor& second) {
  const Shape shape = shape_of("first", first);
  check("second", second, shape, first.scalar_type(), first);
  const Launcher launch(first);
  const Tensor left = torch::stable::contiguous(first), right = torch::stable::contiguous(second);
  const Tensor out = empty(shape.with_channels(kSpan * kSpan), first.scalar_type(), first);
  dispatch(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.blocks(correlate<T>,
                  {ceil_div(shape.width, kTileWidth), ceil_div(shape.height, kTileHeight), shape.batch},
                  dim3(kTileWidth / kRun, kTileHeight, kSpan), data<T>(left), data<T>(right),
                  static_cast<T*>(out.mutable_data_ptr()), shape);
  });
  return torch::stable::contiguous(out, format_of(first));
}

std::tuple<Tensor, Tensor> correlation_backward(const Tensor& grad, const Tensor& first, const Tensor& second) {
  const Shape shape = shape_of("first", first);
  check("second", second, shape, first.scalar_type(), first);
  check("grad", grad, shape.with_channels(kSpan * kSpan), first.scalar_type(), first);
  const Launcher launch(first);
  const Tensor left = torch::stable::contiguous(first), right = torch::stable::contiguous(second);
  const Tensor grad_out = torch::stable::contiguous(grad);
  const Tensor grad_left = empty(shape, first.scalar_type(), first);
  const Tensor grad_right = empty(shape, first.scalar_type(), first);
  const int64_t planes = int64_t(shape.batch) * shape.channels;
  dispatch(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.pixels(correlate_backward<T, 1>, planes, shape.height, shape.width, data<T>(grad_out),
                  data<T>(right), static_cast<T*>(grad_left.mutable_data_ptr()), shape);
    launch.pixels(correlate_backward<T, -1>, planes, shape.height, shape.width, data<T>(grad_out),
                  data<T>(left), static_cast<T*>(grad_right.mutable_data_ptr()), shape);
  });
  return {like(grad_left, first), like(grad_right, second)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("correlation", TORCH_BOX(&correlation));
  m.impl("correlation_backward", TORCH_BOX(&correlation_backward));
}

}  // namespace dain
