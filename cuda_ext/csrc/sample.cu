// Bilinear sampling of a map along a flow, the border repeated outside. Inference only.
#include "common.cuh"

namespace dain {
namespace {

constexpr int kThreads = 256;
constexpr int kBytes = 16;  // that a thread reads and writes at once

template <typename T, int N>
struct alignas(N * sizeof(T)) Run {
  T values[N];
};

// A thread makes N neighbouring channels of a pixel; the threads of a warp lie side by side in memory.
template <typename T, int N>
__global__ void sample(const T* map, int64_t map_pitch, View<const float> flow, float scale, T* out, int64_t out_pitch,
                       Shape shape) {
  const int runs = shape.channels / N;
  const int index = blockIdx.x * kThreads + threadIdx.x, x = index / runs, run = index % runs;
  const int y = blockIdx.y, n = blockIdx.z;
  if (x >= shape.width) {
    return;
  }
  const float at_x = fminf(fmaxf(x + scale * *flow.at(n, 0, y, x), 0.f), shape.width - 1.f);
  const float at_y = fminf(fmaxf(y + scale * *flow.at(n, 1, y, x), 0.f), shape.height - 1.f);
  const int left = int(at_x), top = int(at_y);
  const int right = min(left + 1, shape.width - 1), bottom = min(top + 1, shape.height - 1);
  const float across = at_x - left, down = at_y - top;

  const auto pixel = [&](int row, int column) {
    const T* place = map + ((int64_t(n) * shape.height + row) * shape.width + column) * map_pitch;
    return reinterpret_cast<const Run<T, N>*>(place)[run];
  };
  const Run<T, N> a = pixel(top, left), b = pixel(top, right), c = pixel(bottom, left), d = pixel(bottom, right);
  Run<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    using W = Wide<T>;
    const W upper = (1 - across) * W(a.values[i]) + across * W(b.values[i]);
    const W lower = (1 - across) * W(c.values[i]) + across * W(d.values[i]);
    result.values[i] = T((1 - down) * upper + down * lower);
  }
  T* place = out + ((int64_t(n) * shape.height + y) * shape.width + x) * out_pitch;
  reinterpret_cast<Run<T, N>*>(place)[run] = result;
}

bool in_runs(const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const int64_t size = tensor.element_size(), pitch = pitch_of("a map", tensor, size);
  return address % kBytes == 0 && pitch * size % kBytes == 0 && tensor.size(1) * size % kBytes == 0;
}

void sample_into(const Tensor& map, const Tensor& flow, double scale, Tensor out) {
  const Shape shape = shape_of("map", map);
  check("flow", flow, shape.with_channels(2), ScalarType::Float, map);
  check("out", out, shape, map.scalar_type(), map);
  const Launcher launch(map);
  dispatch(map.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto start = [&](auto kernel, int run) {
      const int64_t threads = int64_t(shape.width) * (shape.channels / run);
      launch.blocks(kernel, {ceil_div(threads, kThreads), shape.height, shape.batch}, dim3(kThreads),
                    static_cast<const T*>(map.const_data_ptr()), pitch_of("map", map, sizeof(T)), read<float>(flow),
                    float(scale), static_cast<T*>(out.mutable_data_ptr()), pitch_of("out", out, sizeof(T)), shape);
    };
    if (in_runs(map) && in_runs(out)) {
      start(sample<T, kBytes / sizeof(T)>, kBytes / sizeof(T));
    } else {
      start(sample<T, 1>, 1);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("sample_into", TORCH_BOX(&sample_into));
}

}  // namespace dain
