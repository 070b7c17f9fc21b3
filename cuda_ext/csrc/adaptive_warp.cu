// Adaptive warping: a 4x4 kernel a pixel, placed by the flow, its quadrants weighted bilinearly.
#include "window.cuh"

namespace dain {
namespace {

// ---------------------------------------------------------------- forward, any strides

// Channels a thread warps with the weights it has worked out once. Blocks that share a tile follow one another,
// so that all but the first find its kernels in the L2 cache.
constexpr int kChannelsPerThread = 32;

template <typename T>
__global__ void __launch_bounds__(kBlockWidth * kBlockHeight, 3)
    warp_planes(View<const T> image, View<const Wide<T>> flow, View<const T> kernel, View<T> out, Shape shape) {
  using A = Wide<T>;
  const int chunks = (shape.channels + kChannelsPerThread - 1) / kChannelsPerThread;
  const int x = blockIdx.x / chunks * kBlockWidth + threadIdx.x;
  const int y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const int first = blockIdx.x % chunks * kChannelsPerThread;
  const int last = min(first + kChannelsPerThread, shape.channels);

  const Window<A> window = window_at<A>(flow, n, y, x, shape);
  A weights[16];
  const T* rows[4];
  int columns[4];  // offsets along a row; the caller sees to it that they fit
#pragma unroll
  for (int tap = 0; tap < 16; ++tap) {
    weights[tap] = window.weight(tap, A(*kernel.at(n, tap, y, x)));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    rows[i] = image.at(n, first, window.row(i, shape.height), 0);
    columns[i] = window.column(i, shape.width) * int(image.x);
  }

  T* target = out.at(n, first, y, x);
#pragma unroll 1
  for (int c = first; c < last; ++c) {
    A sum = 0;
#pragma unroll
    for (int tap = 0; tap < 16; ++tap) {
      sum += weights[tap] * A(rows[tap / 4][columns[tap % 4]]);
    }
    *target = T(sum);
    target += out.c;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rows[i] += image.c;
    }
  }
}

// ---------------------------------------------------------------- forward, channels-last

constexpr int kTile = 8;  // a block warps 8 x 8 pixels, so that neighbours find each other's taps in the L1 cache
constexpr int kTileThreads = 4 * kTile * kTile;

template <typename A>
struct Tap {
  int pixel;  // of the image, row by row
  A weight;
};

// The taps of a block's pixels, worked out once, four threads a pixel.
template <typename T>
__device__ void find_taps(Tap<Wide<T>> (*taps)[16], const View<const Wide<T>>& flow, const View<const T>& kernel,
                          const Shape& shape) {
  using A = Wide<T>;
  const int pixel = threadIdx.x / 4, row = threadIdx.x % 4, n = blockIdx.z;
  const int x = blockIdx.x * kTile + pixel % kTile, y = blockIdx.y * kTile + pixel / kTile;
  if (x < shape.width && y < shape.height) {
    const Window<A> window = window_at<A>(flow, n, y, x, shape);
    for (int i = 0; i < 4; ++i) {
      const int tap = row * 4 + i;
      taps[pixel][tap] = {window.row(row, shape.height) * shape.width + window.column(i, shape.width),
                          window.weight(tap, A(*kernel.at(n, tap, y, x)))};
    }
  }
}

// Neighbouring threads take neighbouring channels, four at a time; the taps of a pixel are kept in shared memory.
// `packs` is a quarter of the channels.
template <typename T>
__global__ void warp_channels_last(const Pack<T>* image, View<const Wide<T>> flow, View<const T> kernel,
                                   Pack<T>* out, int packs, Shape shape) {
  using A = Wide<T>;
  __shared__ Tap<A> taps[kTile * kTile][16];
  const int x0 = blockIdx.x * kTile, y0 = blockIdx.y * kTile;
  find_taps<T>(taps, flow, kernel, shape);
  __syncthreads();

  const int64_t start = int64_t(blockIdx.z) * shape.height * shape.width;
  for (int item = threadIdx.x; item < kTile * kTile * packs; item += kTileThreads) {
    const int pixel = item / packs, pack = item % packs;
    const int x = x0 + pixel % kTile, y = y0 + pixel / kTile;
    if (x >= shape.width || y >= shape.height) {
      continue;
    }
    A sums[4] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const Tap<A> tap = taps[pixel][i];
      const Pack<T> from = image[(start + tap.pixel) * packs + pack];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sums[k] += tap.weight * A(from.values[k]);
      }
    }
    Pack<T> result;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      result.values[k] = T(sums[k]);
    }
    out[(start + int64_t(y) * shape.width + x) * packs + pack] = result;
  }
}

// ---------------------------------------------------------------- gradient

// A thread takes one output pixel, all channels. The image's gradient is added atomically, in whatever order the
// pixels come; the others are the same in every run. `of_image`, `of_motion`: which of them are wanted.
template <typename T>
__global__ void warp_backward(View<const T> grad, View<const T> image, View<const Wide<T>> flow,
                              View<const T> kernel, View<Wide<T>> grad_image, View<Wide<T>> grad_flow,
                              View<T> grad_kernel, bool of_image, bool of_motion, Shape shape) {
  using A = Wide<T>;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const Window<A> window = window_at<A>(flow, n, y, x, shape);
  A taps[16], products[16] = {};  // the kernel; the sum over channels of gradient times image under each tap
#pragma unroll
  for (int tap = 0; tap < 16; ++tap) {
    taps[tap] = A(*kernel.at(n, tap, y, x));
  }
  for (int c = 0; c < shape.channels; ++c) {
    const A g = A(*grad.at(n, c, y, x));
    if (!window.warped) {
      if (of_image) {
        atomicAdd(grad_image.at(n, c, y, x), g);
      }
      continue;
    }
#pragma unroll
    for (int tap = 0; tap < 16; ++tap) {
      const int row = window.row(tap / 4, shape.height), column = window.column(tap % 4, shape.width);
      if (of_motion) {
        products[tap] += g * A(*image.at(n, c, row, column));
      }
      if (of_image) {
        atomicAdd(grad_image.at(n, c, row, column), g * window.share(tap) * taps[tap]);
      }
    }
  }
  if (!of_motion) {
    return;
  }
  A by_x = 0, by_y = 0;
#pragma unroll
  for (int tap = 0; tap < 16; ++tap) {
    const int bottom = tap / 8, right = tap % 4 / 2;
    by_x += (right ? 1 : -1) * window.share_down(bottom) * products[tap] * taps[tap];
    by_y += (bottom ? 1 : -1) * window.share_across(right) * products[tap] * taps[tap];
    *grad_kernel.at(n, tap, y, x) = T(window.warped ? window.share(tap) * products[tap] : A(0));
  }
  *grad_flow.at(n, 0, y, x) = window.warped ? by_x : A(0);
  *grad_flow.at(n, 1, y, x) = window.warped ? by_y : A(0);
}

// The image's gradient alone, channels-last: `warp_channels_last`, the other way.
template <typename T>
__global__ void spread_channels_last(const Pack<T>* grad, View<const Wide<T>> flow, View<const T> kernel,
                                     Pack<Wide<T>>* grad_image, int packs, Shape shape) {
  using A = Wide<T>;
  __shared__ Tap<A> taps[kTile * kTile][16];
  find_taps<T>(taps, flow, kernel, shape);
  __syncthreads();

  const int64_t start = int64_t(blockIdx.z) * shape.height * shape.width;
  for (int item = threadIdx.x; item < kTile * kTile * packs; item += kTileThreads) {
    const int pixel = item / packs, pack = item % packs;
    const int x = blockIdx.x * kTile + pixel % kTile, y = blockIdx.y * kTile + pixel / kTile;
    if (x >= shape.width || y >= shape.height) {
      continue;
    }
    const Pack<T> from = grad[(start + int64_t(y) * shape.width + x) * packs + pack];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const Tap<A> tap = taps[pixel][i];
      if (tap.weight == 0) {
        continue;
      }
      Pack<A> part;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        part.values[k] = tap.weight * A(from.values[k]);
      }
      add(&grad_image[(start + tap.pixel) * packs + pack], part);
    }
  }
}

// ---------------------------------------------------------------- operators

Shape check_arguments(const Tensor& image, const Tensor& flow, const Tensor& kernel) {
  const Shape shape = shape_of("image", image);
  check("flow", flow, shape.with_channels(2), wide(image.scalar_type()), image);
  check("kernel", kernel, shape.with_channels(16), image.scalar_type(), image);
  return shape;
}

bool holds_packs(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % (4 * tensor.element_size()) == 0;
}

bool takes_packs(const Tensor& image) {
  return is_channels_last(image) && image.size(1) % 4 == 0 && holds_packs(image);
}

Tensor adaptive_warp(const Tensor& image, const Tensor& flow, const Tensor& kernel) {
  const Shape shape = check_arguments(image, flow, kernel);
  const Launcher launch(image);
  const Tensor out = empty(shape, image.scalar_type(), image, format_of(image));
  dispatch(image.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (takes_packs(image)) {
      launch.blocks(warp_channels_last<T>,
                    {ceil_div(shape.width, kTile), ceil_div(shape.height, kTile), shape.batch},
                    dim3(kTileThreads), static_cast<const Pack<T>*>(image.const_data_ptr()),
                    read<Wide<T>>(flow), read<T>(kernel), static_cast<Pack<T>*>(out.mutable_data_ptr()),
                    shape.channels / 4, shape);
      return;
    }
    STD_TORCH_CHECK(shape.width * image.stride(3) <= std::numeric_limits<int>::max(),
                    "a row of the image reaches over 2^31 elements: pass image.contiguous()");
    const int64_t chunks = ceil_div(shape.channels, kChannelsPerThread);
    launch.blocks(warp_planes<T>,
                  {ceil_div(shape.width, kBlockWidth) * chunks, ceil_div(shape.height, kBlockHeight), shape.batch},
                  dim3(kBlockWidth, kBlockHeight), read<T>(image), read<Wide<T>>(flow), read<T>(kernel),
                  write<T>(out), shape);
  });
  return out;
}

// What is not wanted is an empty tensor.
std::tuple<Tensor, Tensor, Tensor> adaptive_warp_backward(const Tensor& grad, const Tensor& image, const Tensor& flow,
                                                          const Tensor& kernel, bool of_image, bool of_motion) {
  const Shape shape = check_arguments(image, flow, kernel);
  check("grad", grad, shape, image.scalar_type(), image);
  const Launcher launch(image);
  const Tensor dense = takes_packs(image) ? torch::stable::contiguous(grad, MemoryFormat::ChannelsLast) : grad;
  const bool packs = of_image && takes_packs(image) && holds_packs(dense);
  const Shape nothing = {0, 0, 0, 0};
  // Its sums are wide; if it is not wanted it has the type that it would have in the end.
  const ScalarType sums = of_image ? wide(image.scalar_type()) : image.scalar_type();
  Tensor grad_image = empty(of_image ? shape : nothing, sums, image,
                            packs ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  torch::stable::zero_(grad_image);
  const Tensor grad_flow = empty(of_motion ? shape.with_channels(2) : nothing, flow.scalar_type(), image);
  const Tensor grad_kernel = empty(of_motion ? shape.with_channels(16) : nothing, kernel.scalar_type(), image);
  dispatch(image.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (packs) {
      launch.blocks(spread_channels_last<T>,
                    {ceil_div(shape.width, kTile), ceil_div(shape.height, kTile), shape.batch},
                    dim3(kTileThreads), static_cast<const Pack<T>*>(dense.const_data_ptr()),
                    read<Wide<T>>(flow), read<T>(kernel),
                    static_cast<Pack<Wide<T>>*>(grad_image.mutable_data_ptr()), shape.channels / 4, shape);
    }
    if (of_motion || !packs) {
      launch.pixels(warp_backward<T>, shape.batch, shape.height, shape.width, read<T>(grad), read<T>(image),
                    read<Wide<T>>(flow), read<T>(kernel), write<Wide<T>>(grad_image),
                    write<Wide<T>>(grad_flow), write<T>(grad_kernel), of_image && !packs, of_motion, shape);
    }
  });
  return {of_image ? like(grad_image, image) : grad_image, of_motion ? like(grad_flow, flow) : grad_flow,
          of_motion ? like(grad_kernel, kernel) : grad_kernel};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("adaptive_warp", TORCH_BOX(&adaptive_warp));
  m.impl("adaptive_warp_backward", TORCH_BOX(&adaptive_warp_backward));
}

}  // namespace dain
