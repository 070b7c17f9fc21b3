// What surrounds the flow and the kernel network: images as channels-last maps of as many channels as tensor cores
// take, and the flow at full size. Inference only.
#include "common.cuh"

namespace dain {
namespace {

constexpr int kPack = 8;     // channels in 16 bytes
constexpr int kColours = 3;
constexpr int kFactor = 4;   // from the flow network's size to the frame's

// ---------------------------------------------------------------- images

template <typename T>
struct alignas(16) Channels {
  T values[kPack];
};

template <typename T>
__global__ void stack(View<const float> first, View<const float> second, T* out, int64_t pitch, int packs, int height,
                      int width) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y, n = blockIdx.z;
  if (x >= width || y >= height) {
    return;
  }
  Channels<T> pixel;
#pragma unroll
  for (int c = 0; c < kPack; ++c) {
    const View<const float>& image = c < kColours ? first : second;
    pixel.values[c] = c < 2 * kColours ? T(*image.at(n, c % kColours, y, x)) : T(0.f);
  }
  auto* target = reinterpret_cast<Channels<T>*>(out + ((int64_t(n) * height + y) * width + x) * pitch);
  target[0] = pixel;
  for (int i = 1; i < packs; ++i) {
    target[i] = {};
  }
}

// The 2 x 2 pixels of each colour side by side.
template <typename T>
__global__ void unshuffle(View<const float> image, T* out, int64_t pitch, int packs, int height, int width) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y, n = blockIdx.z;
  if (x >= width || y >= height) {
    return;
  }
  auto* target = reinterpret_cast<Channels<T>*>(out + ((int64_t(n) * height + y) * width + x) * pitch);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    Channels<T> part;
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const int c = i * kPack + k;
      part.values[k] =
          c < 4 * kColours ? T(*image.at(n, c / 4, 2 * y + c % 4 / 2, 2 * x + c % 2)) : T(0.f);
    }
    target[i] = part;
  }
  for (int i = 2; i < packs; ++i) {
    target[i] = {};
  }
}

void stack_into(const Tensor& first, const Tensor& second, Tensor out) {
  const Shape shape = shape_of("out", out);
  check("first", first, shape.with_channels(kColours), ScalarType::Float, out);
  check("second", second, shape.with_channels(kColours), ScalarType::Float, out);
  STD_TORCH_CHECK(shape.channels % kPack == 0 && shape.channels > 0, "out must have a multiple of 8 channels, not ",
                  shape.channels);
  const Launcher launch(out);
  dispatch(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.pixels(stack<T>, shape.batch, shape.height, shape.width, read<float>(first), read<float>(second),
                  static_cast<T*>(out.mutable_data_ptr()), pitch_of("out", out, 16), shape.channels / kPack,
                  shape.height, shape.width);
  });
}

void unshuffle_into(const Tensor& image, Tensor out) {
  const Shape shape = shape_of("out", out);
  check("image", image, {shape.batch, kColours, 2 * shape.height, 2 * shape.width}, ScalarType::Float, out);
  STD_TORCH_CHECK(shape.channels % kPack == 0 && shape.channels >= 2 * kPack,
                  "out must have a multiple of 8 channels, at least 16, not ", shape.channels);
  const Launcher launch(out);
  dispatch(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.pixels(unshuffle<T>, shape.batch, shape.height, shape.width, read<float>(image),
                  static_cast<T*>(out.mutable_data_ptr()), pitch_of("out", out, 16), shape.channels / kPack,
                  shape.height, shape.width);
  });
}

// ---------------------------------------------------------------- flow

// A thread makes the four pixels side by side that lie on one pixel of `flow`.
__global__ void enlarge(View<const float> flow, float scale, Pack<float>* out, Shape shape) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z / 2, c = blockIdx.z % 2;
  if (x >= shape.width || y >= shape.height * kFactor) {
    return;
  }
  const float from_y = fmaxf((y + 0.5f) / kFactor - 0.5f, 0);
  const int top = int(from_y), bottom = min(top + 1, shape.height - 1);
  const float down = from_y - top;
  float columns[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const int column = min(max(x - 1 + i, 0), shape.width - 1);
    columns[i] = scale * ((1 - down) * *flow.at(n, c, top, column) + down * *flow.at(n, c, bottom, column));
  }
  Pack<float> run;
#pragma unroll
  for (int i = 0; i < kFactor; ++i) {
    const float across = (i + 0.5f) / kFactor + (i < kFactor / 2 ? 0.5f : -0.5f);
    const int left = i < kFactor / 2 ? 0 : 1;
    run.values[i] = (1 - across) * columns[left] + across * columns[left + 1];
  }
  out[(int64_t(blockIdx.z) * shape.height * kFactor + y) * shape.width + x] = run;
}

Tensor enlarge_flow(const Tensor& flow, double scale) {
  const Shape shape = shape_of("flow", flow);
  check("flow", flow, shape.with_channels(2), ScalarType::Float, flow);
  const Launcher launch(flow);
  const Shape larger{shape.batch, 2, shape.height * kFactor, shape.width * kFactor};
  Tensor out = empty(larger, ScalarType::Float, flow);
  launch.pixels(enlarge, 2 * shape.batch, larger.height, shape.width, read<float>(flow), float(scale),
                static_cast<Pack<float>*>(out.mutable_data_ptr()), shape);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("stack_into", TORCH_BOX(&stack_into));
  m.impl("unshuffle_into", TORCH_BOX(&unshuffle_into));
  m.impl("enlarge_flow", TORCH_BOX(&enlarge_flow));
}

}  // namespace dain
