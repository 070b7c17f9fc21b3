// Separable adaptive convolution: a K x K kernel a pixel, the outer product of a vertical and a horizontal one.
// DAIN itself does not use it, so these kernels are plain: one thread a result, nothing shared.
#include "common.cuh"

namespace dain {
namespace {

// out[y, x] = sum over i, j of image[y + i, x + j] * vertical[i, y, x] * horizontal[j, y, x]; blockIdx.z runs over
// batch and channels. `shape` is that of the output.
template <typename T>
__global__ void convolve(View<const T> image, View<const T> vertical, View<const T> horizontal, View<T> out,
                         int size, Shape shape) {
  using A = Wide<T>;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z / shape.channels, c = blockIdx.z % shape.channels;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  A sum = 0;
  for (int i = 0; i < size; ++i) {
    A row = 0;
    for (int j = 0; j < size; ++j) {
      row += A(*image.at(n, c, y + i, x + j)) * A(*horizontal.at(n, j, y, x));
    }
    sum += row * A(*vertical.at(n, i, y, x));
  }
  *out.at(n, c, y, x) = T(sum);
}

// The gradient of the image, one thread each of its pixels: all outputs whose window holds the pixel.
template <typename T>
__global__ void convolve_backward_image(View<const T> grad, View<const T> vertical, View<const T> horizontal,
                                        View<T> grad_image, int size, Shape shape) {
  using A = Wide<T>;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z / shape.channels, c = blockIdx.z % shape.channels;
  if (x >= shape.width + size - 1 || y >= shape.height + size - 1) {
    return;
  }
  A sum = 0;
  for (int i = max(0, y - shape.height + 1); i < size && i <= y; ++i) {
    for (int j = max(0, x - shape.width + 1); j < size && j <= x; ++j) {
      sum += A(*grad.at(n, c, y - i, x - j)) * A(*vertical.at(n, i, y - i, x - j)) *
          A(*horizontal.at(n, j, y - i, x - j));
    }
  }
  *grad_image.at(n, c, y, x) = T(sum);
}

// The gradient of one kernel, given the other; blockIdx.z runs over batch and the kernel's taps.
template <typename T, bool kVertical>
__global__ void convolve_backward_kernel(View<const T> grad, View<const T> image, View<const T> other,
                                         View<T> grad_kernel, int size, Shape shape) {
  using A = Wide<T>;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z / size, tap = blockIdx.z % size;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  A sum = 0;
  for (int c = 0; c < shape.channels; ++c) {
    A line = 0;
    for (int k = 0; k < size; ++k) {
      const int i = kVertical ? tap : k, j = kVertical ? k : tap;
      line += A(*image.at(n, c, y + i, x + j)) * A(*other.at(n, k, y, x));
    }
    sum += line * A(*grad.at(n, c, y, x));
  }
  *grad_kernel.at(n, tap, y, x) = T(sum);
}

struct Sizes {
  Shape out;
  int kernel;

  Shape image() const {
    return {out.batch, out.channels, out.height + kernel - 1, out.width + kernel - 1};
  }
};

Sizes check_arguments(const Tensor& image, const Tensor& vertical, const Tensor& horizontal) {
  const Shape kernels = shape_of("vertical", vertical);
  const Sizes sizes{kernels.with_channels(shape_of("image", image).channels), kernels.channels};
  check("image", image, sizes.image(), vertical.scalar_type(), vertical);
  check("horizontal", horizontal, kernels, vertical.scalar_type(), vertical);
  return sizes;
}

Tensor separable_conv(const Tensor& image, const Tensor& vertical, const Tensor& horizontal) {
  const auto [shape, size] = check_arguments(image, vertical, horizontal);
  const Launcher launch(image);
  const Tensor out = empty(shape, image.scalar_type(), image, format_of(image));
  const int64_t planes = int64_t(shape.batch) * shape.channels;
  dispatch(image.scalar_type(), [&, shape = shape, size = size](auto zero) {
    using T = decltype(zero);
    launch.pixels(convolve<T>, planes, shape.height, shape.width, read<T>(image), read<T>(vertical),
                  read<T>(horizontal), write<T>(out), size, shape);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> separable_conv_backward(
    const Tensor& grad, const Tensor& image, const Tensor& vertical, const Tensor& horizontal) {
  const Sizes sizes = check_arguments(image, vertical, horizontal);
  const ScalarType type = image.scalar_type();
  const Shape shape = sizes.out, kernels = shape.with_channels(sizes.kernel);
  check("grad", grad, shape, type, image);
  const Launcher launch(image);
  const Tensor grad_image = empty(sizes.image(), type, image);
  const Tensor grad_vertical = empty(kernels, type, image), grad_horizontal = empty(kernels, type, image);
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    launch.pixels(convolve_backward_image<T>, int64_t(shape.batch) * shape.channels, sizes.image().height,
                  sizes.image().width, read<T>(grad), read<T>(vertical), read<T>(horizontal),
                  write<T>(grad_image), sizes.kernel, shape);
    const int64_t planes = int64_t(shape.batch) * sizes.kernel;
    launch.pixels(convolve_backward_kernel<T, true>, planes, shape.height, shape.width, read<T>(grad),
                  read<T>(image), read<T>(horizontal), write<T>(grad_vertical), sizes.kernel, shape);
    launch.pixels(convolve_backward_kernel<T, false>, planes, shape.height, shape.width, read<T>(grad),
                  read<T>(image), read<T>(vertical), write<T>(grad_horizontal), sizes.kernel, shape);
  });
  return {like(grad_image, image), like(grad_vertical, vertical), like(grad_horizontal, horizontal)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("separable_conv", TORCH_BOX(&separable_conv));
  m.impl("separable_conv_backward", TORCH_BOX(&separable_conv_backward));
}

}  // namespace dain
