// What the rectification sees, put where it is read: warps that write slices of channels of one channels-last tensor,
// `out`, whose first row is row `top` of the frame. Rows outside the frame become zeros. Inference only.
#include "window.cuh"

namespace dain {
namespace {

constexpr int kTile = 8;  // a block warps 8 x 8 pixels, so that neighbours find each other's taps in the L1 cache
constexpr int kTileThreads = 4 * kTile * kTile;
constexpr int kWidth = 8;  // channels that a thread takes at once: 16 bytes of half precision

template <typename T>
struct alignas(16) Channels {
  T values[kWidth];
};

// A pixel's place in `out` and in the frame, and whether it is in either.
struct Place {
  int x, row, y;
  bool in_out, in_frame;

  __device__ Place(int x, int row, int top, int rows, const Shape& frame)
      : x(x), row(row), y(row + top), in_out(x < frame.width && row < rows),
        in_frame(in_out && y >= 0 && y < frame.height) {}
};

// ---------------------------------------------------------------- contexts

struct Tap {
  int pixel;  // of the image, row by row
  float weight;
};

template <typename T>
__global__ void warp_slices(const T* image, int64_t pitch, View<const float> flow, View<const T> kernel, T* out,
                            int64_t out_pitch, int top, int rows, Shape shape) {
  __shared__ Tap taps[kTile * kTile][16];
  const int x0 = blockIdx.x * kTile, row0 = blockIdx.y * kTile, n = blockIdx.z;
  {
    const int pixel = threadIdx.x / 4, line = threadIdx.x % 4;
    const Place at(x0 + pixel % kTile, row0 + pixel / kTile, top, rows, shape);
    if (at.in_frame) {
      const Window<float> window = window_at<float>(flow, n, at.y, at.x, shape);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int tap = line * 4 + i;
        taps[pixel][tap] = {window.row(line, shape.height) * shape.width + window.column(i, shape.width),
                            window.weight(tap, float(*kernel.at(n, tap, at.y, at.x)))};
      }
    }
  }
  __syncthreads();

  const int packs = shape.channels / kWidth;
  const T* source = image + int64_t(n) * shape.height * shape.width * pitch;
  T* target = out + int64_t(n) * rows * shape.width * out_pitch;
  for (int item = threadIdx.x; item < kTile * kTile * packs; item += kTileThreads) {
    const int pixel = item / packs, pack = item % packs;
    const Place at(x0 + pixel % kTile, row0 + pixel / kTile, top, rows, shape);
    if (!at.in_out) {
      continue;
    }
    float sums[kWidth] = {};
    if (at.in_frame) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const Tap tap = taps[pixel][i];
        const auto from = *reinterpret_cast<const Channels<T>*>(source + tap.pixel * pitch + pack * kWidth);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          sums[k] += tap.weight * float(from.values[k]);
        }
      }
    }
    Channels<T> result;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      result.values[k] = T(sums[k]);
    }
    const int64_t to = (int64_t(at.row) * shape.width + at.x) * out_pitch + pack * kWidth;
    *reinterpret_cast<Channels<T>*>(target + to) = result;
  }
}

// ---------------------------------------------------------------- all else

constexpr int kPicture = 4;   // red, green, blue, log depth
constexpr int kSeen = 64;     // blend, two images, two flows, two kernels, two depths, 1: 48; then zeros
constexpr int kFlows = 9, kKernels = 13, kDepths = 45, kOne = 47;

template <typename T>
struct Side {
  View<const float> picture, flow;
  View<const T> kernel;
};

// Warps one side's picture and puts what is seen of that side into `seen`.
template <typename T>
__device__ void see(const Side<T>& side, int index, int n, int y, int x, const Shape& shape, float (&warped)[kPicture],
                    T (&seen)[kSeen]) {
  const Window<float> window = window_at<float>(side.flow, n, y, x, shape);
#pragma unroll
  for (int tap = 0; tap < 16; ++tap) {
    const T kernel = *side.kernel.at(n, tap, y, x);
    const float weight = window.weight(tap, float(kernel));
    const float* from =
        side.picture.at(n, 0, window.row(tap / 4, shape.height), window.column(tap % 4, shape.width));
#pragma unroll
    for (int c = 0; c < kPicture; ++c) {
      warped[c] += weight * from[c * side.picture.c];
    }
    seen[kKernels + 16 * index + tap] = kernel;
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    seen[3 + 3 * index + c] = T(warped[c]);
  }
  seen[kFlows + 2 * index] = T(*side.flow.at(n, 0, y, x));
  seen[kFlows + 2 * index + 1] = T(*side.flow.at(n, 1, y, x));
  seen[kDepths + index] = T(warped[3]);
}

template <typename T>
__global__ void blend_and_gather(Side<T> first, Side<T> second, const float* time, View<float> blend, T* out,
                                 int64_t out_pitch, int top, int rows, Shape shape) {
  const int n = blockIdx.z;
  const Place at(blockIdx.x * kBlockWidth + threadIdx.x, blockIdx.y * kBlockHeight + threadIdx.y, top, rows, shape);
  if (!at.in_out) {
    return;
  }
  T seen[kSeen];
#pragma unroll
  for (int c = 0; c < kSeen; ++c) {
    seen[c] = T(0.f);
  }
  if (at.in_frame) {
    float one[kPicture] = {}, two[kPicture] = {};
    see(first, 0, n, at.y, at.x, shape, one, seen);
    see(second, 1, n, at.y, at.x, shape, two, seen);
    seen[kOne] = T(1.f);
    const float t = *time;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float value = (1 - t) * one[c] + t * two[c];
      *blend.at(n, c, at.y, at.x) = value;
      seen[c] = T(value);
    }
  }
  T* target = out + ((int64_t(n) * rows + at.row) * shape.width + at.x) * out_pitch;
#pragma unroll
  for (int c = 0; c < kSeen; c += kWidth) {
    Channels<T> part;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      part.values[k] = seen[c + k];
    }
    *reinterpret_cast<Channels<T>*>(target + c) = part;
  }
}

// ---------------------------------------------------------------- operators

template <typename Body>
void dispatch_half(ScalarType type, Body body) {
  STD_TORCH_CHECK(type == ScalarType::Half || type == ScalarType::BFloat16,
                  "needs float16 or bfloat16, not ", torch::headeronly::toString(type));
  type == ScalarType::Half ? body(__half()) : body(__nv_bfloat16());
}

void adaptive_warp_into(const Tensor& image, const Tensor& flow, const Tensor& kernel, int64_t top, Tensor out) {
  const Shape shape = shape_of("image", image), target = shape_of("out", out);
  check("flow", flow, shape.with_channels(2), ScalarType::Float, image);
  check("kernel", kernel, shape.with_channels(16), image.scalar_type(), image);
  check("out", out, {shape.batch, shape.channels, target.height, shape.width}, image.scalar_type(), image);
  STD_TORCH_CHECK(shape.channels % kWidth == 0, "image must have a multiple of 8 channels, not ", shape.channels);
  const int64_t pitch = pitch_of("image", image, 16), out_pitch = pitch_of("out", out, 16);
  const Launcher launch(image);
  dispatch_half(image.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.blocks(warp_slices<T>, {ceil_div(shape.width, kTile), ceil_div(target.height, kTile), shape.batch},
                  dim3(kTileThreads), static_cast<const T*>(image.const_data_ptr()), pitch, read<float>(flow),
                  read<T>(kernel), static_cast<T*>(out.mutable_data_ptr()), out_pitch, int(top), target.height, shape);
  });
}

void blend_into(const Tensor& first, const Tensor& second, const Tensor& flow_1, const Tensor& flow_2,
                const Tensor& kernel_1, const Tensor& kernel_2, const Tensor& time, int64_t top, Tensor blend,
                Tensor out) {
  const Shape shape = shape_of("first", first), target = shape_of("out", out);
  const ScalarType type = out.scalar_type();
  check("first", first, shape.with_channels(kPicture), ScalarType::Float, first);
  check("second", second, shape, ScalarType::Float, first);
  check("flow_1", flow_1, shape.with_channels(2), ScalarType::Float, first);
  check("flow_2", flow_2, shape.with_channels(2), ScalarType::Float, first);
  check("kernel_1", kernel_1, shape.with_channels(16), type, first);
  check("kernel_2", kernel_2, shape.with_channels(16), type, first);
  check("blend", blend, shape.with_channels(3), ScalarType::Float, first);
  check("out", out, {shape.batch, kSeen, target.height, shape.width}, type, first);
  STD_TORCH_CHECK(time.is_cuda() && time.numel() == 1 && time.scalar_type() == ScalarType::Float,
                  "time must be one float32 on the GPU");
  const int64_t out_pitch = pitch_of("out", out, 16);
  const Launcher launch(first);
  dispatch_half(type, [&](auto zero) {
    using T = decltype(zero);
    launch.pixels(blend_and_gather<T>, shape.batch, target.height, shape.width,
                  Side<T>{read<float>(first), read<float>(flow_1), read<T>(kernel_1)},
                  Side<T>{read<float>(second), read<float>(flow_2), read<T>(kernel_2)},
                  static_cast<const float*>(time.const_data_ptr()), write<float>(blend),
                  static_cast<T*>(out.mutable_data_ptr()), out_pitch, int(top), target.height, shape);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("adaptive_warp_into", TORCH_BOX(&adaptive_warp_into));
  m.impl("blend_into", TORCH_BOX(&blend_into));
}

}  // namespace dain
