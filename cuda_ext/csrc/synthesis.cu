// What the rectification sees, put where it is read: warps that write slices of channels of one channels-last tensor,
// `out`, whose first row is row `top` of the frame. Inference only.
#include "window.cuh"

namespace dain {
namespace {

constexpr int kTile = 8;  // a block warps 8 x 8 pixels, so that neighbours find each other's taps in the L1 cache
constexpr int kTileThreads = 4 * kTile * kTile;

// Channels that a thread takes at once: 16 bytes.
template <typename T>
constexpr int kWidth = 16 / sizeof(T);

template <typename T, int kCount = kWidth<T>>
struct alignas(sizeof(T) * kCount) Channels {
  T values[kCount];
};

// Rows of the frame, from `top` on.
struct Rows {
  int top, count;
};

// ---------------------------------------------------------------- contexts

// Threads that take 64 channels of a pixel. A block takes so many of all its pixels at a time: the taps of more would not
// stay in the L1 cache until the last of the neighbours has read them.
template <typename T>
constexpr int kTogether = 64 / kWidth<T>;

struct Tap {
  int pixel;  // of the rows of the image that are there, one after the other; negative if a tap of the pixel is not
  float weight;
};

// Those of a pixel; 16 bytes more let the four pixels that a warp of threads works on be read from different banks.
struct alignas(16) Taps {
  Tap of[16 + 2];
};

// The sum of what a thread takes of a pixel's taps.
template <typename T>
struct Sums {
  float of[kWidth<T>] = {};

  __device__ void add(const Channels<T>& from, float weight) {
#pragma unroll
    for (int k = 0; k < kWidth<T>; ++k) {
      of[k] += weight * float(from.values[k]);
    }
  }
  __device__ float at(int k) const {
    return of[k];
  }
};

// Eight bits are added two by two as float16, which is far more exact than what they were and become.
template <>
struct Sums<__nv_fp8_e4m3> {
  __half2 of[8] = {};

  __device__ void add(const Channels<__nv_fp8_e4m3>& from, float weight) {
    const auto* pairs = reinterpret_cast<const __nv_fp8x2_storage_t*>(from.values);
    const __half2 share = __float2half2_rn(weight);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      of[k] = __hfma2(share, __half2(__nv_cvt_fp8x2_to_halfraw2(pairs[k], __NV_E4M3)), of[k]);
    }
  }
  __device__ float at(int k) const {
    return k % 2 ? __high2float(of[k / 2]) : __low2float(of[k / 2]);
  }
};

template <typename T, typename K, typename O>
__global__ void warp_slices(const T* image, int64_t pitch, Rows image_rows, View<const float> flow,
                            View<const K> kernel, O* out, int64_t out_pitch, Rows rows, Shape frame) {
  __shared__ Taps taps[kTile * kTile];
  const int x0 = blockIdx.x * kTile, row0 = blockIdx.y * kTile, n = blockIdx.z;
  {
    const int pixel = threadIdx.x / 4, line = threadIdx.x % 4;
    const int x = x0 + pixel % kTile, row = row0 + pixel / kTile;
    if (x < frame.width && row < rows.count) {
      const Window<float> window = window_at<float>(flow, n, rows.top + row, x, frame);
      const bool there = window.row(0, frame.height) >= image_rows.top &&
          window.row(3, frame.height) < image_rows.top + image_rows.count;
      const int start = (window.row(line, frame.height) - image_rows.top) * frame.width;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int tap = line * 4 + i;
        taps[pixel].of[tap] = {there ? start + window.column(i, frame.width) : -1,
                               window.weight(tap, float(*kernel.at(n, tap, rows.top + row, x)))};
      }
    }
  }
  __syncthreads();

  const int packs = frame.channels / kWidth<T>, turns = (packs + kTogether<T> - 1) / kTogether<T>;
  const T* source = image + int64_t(n) * image_rows.count * frame.width * pitch;
  O* target = out + int64_t(n) * rows.count * frame.width * out_pitch;
  constexpr int kItems = kTile * kTile * kTogether<T>;  // of all pixels at a time
  for (int item = threadIdx.x; item < turns * kItems; item += kTileThreads) {
    const int pixel = item % kItems / kTogether<T>, pack = item / kItems * kTogether<T> + item % kTogether<T>;
    const int x = x0 + pixel % kTile, row = row0 + pixel / kTile;
    if (pack >= packs || x >= frame.width || row >= rows.count || taps[pixel].of[0].pixel < 0) {
      continue;
    }
    Sums<T> sums;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const Tap tap = taps[pixel].of[i];
      // A copy, which is one load. Of a reference each channel would be a load of its own.
      const auto from = *reinterpret_cast<const Channels<T>*>(source + tap.pixel * pitch + pack * kWidth<T>);
      sums.add(from, tap.weight);
    }
    Channels<O, kWidth<T>> result;
#pragma unroll
    for (int k = 0; k < kWidth<T>; k += 2) {
      round_pair(sums.at(k), sums.at(k + 1), &result.values[k]);
    }
    const int64_t to = (int64_t(row) * frame.width + x) * out_pitch + pack * kWidth<T>;
    *reinterpret_cast<Channels<O, kWidth<T>>*>(target + to) = result;
  }
}

// ---------------------------------------------------------------- all else

constexpr int kPicture = 4;   // red, green, blue, log depth
constexpr int kSeen = 64;     // blend, two images, two flows, two kernels, two depths: 47; then zeros
constexpr int kFlows = 9, kKernels = 13, kDepths = 45;

// One side. A thread reads whole vectors of the picture and of the kernels.
template <typename T>
struct Side {
  const float4* picture;
  View<const float> flow;
  const T* kernel;
  int64_t kernel_pitch;
};

// Warps one side's picture and puts what is seen of that side into `seen`.
template <typename T, typename O>
__device__ void see(const Side<T>& side, int index, int n, int y, int x, const Shape& shape, float (&warped)[kPicture],
                    O (&seen)[kSeen]) {
  const Window<float> window = window_at<float>(side.flow, n, y, x, shape);
  const int64_t frame = int64_t(n) * shape.height, pixel = (frame + y) * shape.width + x;
#pragma unroll
  for (int first = 0; first < 16; first += kWidth<T>) {
    const auto kernel = *reinterpret_cast<const Channels<T>*>(side.kernel + pixel * side.kernel_pitch + first);
#pragma unroll
    for (int k = 0; k < kWidth<T>; ++k) {
      const int tap = first + k;
      const float weight = window.weight(tap, float(kernel.values[k]));
      const int64_t row = frame + window.row(tap / 4, shape.height);
      const float4 from = side.picture[row * shape.width + window.column(tap % 4, shape.width)];
      warped[0] += weight * from.x;
      warped[1] += weight * from.y;
      warped[2] += weight * from.z;
      warped[3] += weight * from.w;
      seen[kKernels + 16 * index + tap] = O(float(kernel.values[k]));
    }
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    seen[3 + 3 * index + c] = O(warped[c]);
  }
  seen[kFlows + 2 * index] = O(*side.flow.at(n, 0, y, x));
  seen[kFlows + 2 * index + 1] = O(*side.flow.at(n, 1, y, x));
  seen[kDepths + index] = O(warped[3]);
}

template <typename T, typename O>
__global__ void blend_and_gather(Side<T> first, Side<T> second, const float* time, View<float> blend, O* out,
                                 int64_t out_pitch, Rows rows, Shape frame) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, row = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z;
  if (x >= frame.width || row >= rows.count) {
    return;
  }
  O seen[kSeen];
#pragma unroll
  for (int c = 0; c < kSeen; ++c) {
    seen[c] = O(0.f);
  }
  float one[kPicture] = {}, two[kPicture] = {};
  see(first, 0, n, rows.top + row, x, frame, one, seen);
  see(second, 1, n, rows.top + row, x, frame, two, seen);
  const float t = *time;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const float value = (1 - t) * one[c] + t * two[c];
    *blend.at(n, c, row, x) = value;
    seen[c] = O(value);
  }
  O* target = out + ((int64_t(n) * rows.count + row) * frame.width + x) * out_pitch;
#pragma unroll
  for (int c = 0; c < kSeen; c += kWidth<O>) {
    Channels<O> part;
#pragma unroll
    for (int k = 0; k < kWidth<O>; ++k) {
      part.values[k] = seen[c + k];
    }
    *reinterpret_cast<Channels<O>*>(target + c) = part;
  }
}

// ---------------------------------------------------------------- operators

// The network's type, and the one that is written: the same, or eight bits of float16.
template <typename Body>
void dispatch_network(ScalarType type, ScalarType out, Body body) {
  if (type == ScalarType::Half && out == ScalarType::Float8_e4m3fn) {
    return body(__half(), __nv_fp8_e4m3());
  }
  STD_TORCH_CHECK(type == out, "out must be ", torch::headeronly::toString(type), " or, of float16, float8_e4m3fn");
  switch (type) {
    case ScalarType::Float:
      return body(float(), float());
    case ScalarType::Half:
      return body(__half(), __half());
    case ScalarType::BFloat16:
      return body(__nv_bfloat16(), __nv_bfloat16());
    default:
      STD_TORCH_CHECK(false, "needs float16, bfloat16 or float32, not ", torch::headeronly::toString(type));
  }
}

// The rows of a frame that a tensor holds from `top` on.
Rows rows_of(const char* name, int64_t top, const Shape& tensor, const Shape& frame) {
  STD_TORCH_CHECK(top >= 0 && top + tensor.height <= frame.height, name, " holds rows ", top, " to ",
                  top + tensor.height, " of a frame that has ", frame.height);
  return {int(top), tensor.height};
}

void adaptive_warp_into(const Tensor& image, int64_t first_row, const Tensor& flow, const Tensor& kernel, int64_t top,
                        Tensor out) {
  const Shape given = shape_of("image", image), target = shape_of("out", out);
  const Shape frame{given.batch, given.channels, shape_of("flow", flow).height, given.width};
  check("flow", flow, frame.with_channels(2), ScalarType::Float, image);
  const bool eight = image.scalar_type() == ScalarType::Float8_e4m3fn;
  check("kernel", kernel, frame.with_channels(16), eight ? ScalarType::Half : image.scalar_type(), image);
  check("out", out, {frame.batch, frame.channels, target.height, frame.width}, out.scalar_type(), image);
  const Rows image_rows = rows_of("image", first_row, given, frame), rows = rows_of("out", top, target, frame);
  const int64_t pitch = pitch_of("image", image, 16), out_pitch = pitch_of("out", out, 16);
  const Launcher launch(image);
  const auto warp = [&](auto zero, auto of_kernel, auto written) {
    using T = decltype(zero);
    using K = decltype(of_kernel);
    using O = decltype(written);
    STD_TORCH_CHECK(frame.channels % kWidth<T> == 0, "image must have a multiple of ", kWidth<T>, " channels, not ",
                    frame.channels);
    launch.blocks(warp_slices<T, K, O>, {ceil_div(frame.width, kTile), ceil_div(rows.count, kTile), frame.batch},
                  dim3(kTileThreads), static_cast<const T*>(image.const_data_ptr()), pitch, image_rows,
                  read<float>(flow), read<K>(kernel), static_cast<O*>(out.mutable_data_ptr()), out_pitch, rows, frame);
  };
  if (eight) {
    STD_TORCH_CHECK(out.scalar_type() == image.scalar_type(), "out must have the dtype of an image of float8_e4m3fn");
    return warp(__nv_fp8_e4m3(), __half(), __nv_fp8_e4m3());
  }
  dispatch_network(image.scalar_type(), out.scalar_type(),
                   [&](auto zero, auto written) { warp(zero, zero, written); });
}

void blend_into(const Tensor& first, const Tensor& second, const Tensor& flow_1, const Tensor& flow_2,
                const Tensor& kernel_1, const Tensor& kernel_2, const Tensor& time, int64_t top, Tensor blend,
                Tensor out) {
  const Shape frame = shape_of("first", first), target = shape_of("out", out);
  const ScalarType type = kernel_1.scalar_type();
  check("first", first, frame.with_channels(kPicture), ScalarType::Float, first);
  check("second", second, frame, ScalarType::Float, first);
  check("flow_1", flow_1, frame.with_channels(2), ScalarType::Float, first);
  check("flow_2", flow_2, frame.with_channels(2), ScalarType::Float, first);
  check("kernel_1", kernel_1, frame.with_channels(16), type, first);
  check("kernel_2", kernel_2, frame.with_channels(16), type, first);
  for (const Tensor* picture : {&first, &second}) {
    STD_TORCH_CHECK(pitch_of("a picture", *picture, 16) == kPicture, "a picture must be a tensor of its own");
  }
  check("out", out, {frame.batch, kSeen, target.height, frame.width}, out.scalar_type(), first);
  check("blend", blend, target.with_channels(3), ScalarType::Float, first);
  const float* moment = vector_of<float>("time", time, 1, ScalarType::Float, first);
  const Rows rows = rows_of("out", top, target, frame);
  const int64_t out_pitch = pitch_of("out", out, 16);
  const Launcher launch(first);
  dispatch_network(type, out.scalar_type(), [&](auto zero, auto written) {
    using T = decltype(zero);
    using O = decltype(written);
    const auto side = [](const Tensor& picture, const Tensor& flow, const Tensor& kernel) {
      return Side<T>{static_cast<const float4*>(picture.const_data_ptr()), read<float>(flow),
                     static_cast<const T*>(kernel.const_data_ptr()), pitch_of("a kernel", kernel, 16)};
    };
    launch.pixels(blend_and_gather<T, O>, frame.batch, rows.count, frame.width, side(first, flow_1, kernel_1),
                  side(second, flow_2, kernel_2), moment, write<float>(blend),
                  static_cast<O*>(out.mutable_data_ptr()), out_pitch, rows, frame);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("adaptive_warp_into", TORCH_BOX(&adaptive_warp_into));
  m.impl("blend_into", TORCH_BOX(&blend_into));
}

}  // namespace dain
