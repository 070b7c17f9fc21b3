// Bilinear sampling of a map along a flow, the border repeated outside; and the gradient of the map.
#include "common.cuh"

namespace dain {
namespace {

constexpr int kThreads = 256;
constexpr int kBytes = 16;  // that a thread reads and writes at once

template <typename T, int N>
struct alignas(N * sizeof(T)) Run {
  T values[N];
};

// Where a pixel samples: the shares of the pixels around it, and their places in a plane.
template <typename A>
struct Corners {
  int64_t places[4];
  A shares[4];
};

template <typename A>
__device__ Corners<A> corners_at(const View<const A>& flow, A scale, int n, int y, int x, const Shape& shape) {
  const A at_x = min(max(x + scale * *flow.at(n, 0, y, x), A(0)), A(shape.width - 1));
  const A at_y = min(max(y + scale * *flow.at(n, 1, y, x), A(0)), A(shape.height - 1));
  const int left = int(at_x), top = int(at_y);
  const int right = min(left + 1, shape.width - 1), bottom = min(top + 1, shape.height - 1);
  const A across = at_x - left, down = at_y - top;
  const int64_t upper = int64_t(top) * shape.width, lower = int64_t(bottom) * shape.width;
  return {{upper + left, upper + right, lower + left, lower + right},
          {(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across}};
}

// A thread makes N neighbouring channels of a pixel; the threads of a warp lie side by side in memory.
template <typename T, int N>
__global__ void sample_map(const T* map, int64_t map_pitch, View<const Wide<T>> flow, Wide<T> scale, T* out, Shape shape) {
  using A = Wide<T>;
  const int runs = shape.channels / N;
  const int index = blockIdx.x * kThreads + threadIdx.x, x = index / runs, run = index % runs;
  const int y = blockIdx.y, n = blockIdx.z;
  if (x >= shape.width) {
    return;
  }
  const Corners<A> corners = corners_at(flow, scale, n, y, x, shape);
  const int64_t plane = int64_t(n) * shape.height * shape.width;
  A sums[N] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Run<T, N> from = reinterpret_cast<const Run<T, N>*>(map + (plane + corners.places[i]) * map_pitch)[run];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      sums[k] += corners.shares[i] * A(from.values[k]);
    }
  }
  Run<T, N> result;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    result.values[k] = T(sums[k]);
  }
  reinterpret_cast<Run<T, N>*>(out + (plane + int64_t(y) * shape.width + x) * shape.channels)[run] = result;
}

// `sample_map`, the other way. A thread takes four neighbouring channels of a pixel, or one. The sums are added
// atomically, in whatever order the pixels come.
template <typename T, int N>
__global__ void spread(View<const T> grad, View<const Wide<T>> flow, Wide<T> scale, Wide<T>* sums, Shape shape) {
  using A = Wide<T>;
  const int runs = shape.channels / N;
  const int index = blockIdx.x * kThreads + threadIdx.x, x = index / runs, first = index % runs * N;
  const int y = blockIdx.y, n = blockIdx.z;
  if (x >= shape.width) {
    return;
  }
  const Corners<A> corners = corners_at(flow, scale, n, y, x, shape);
  const int64_t plane = int64_t(n) * shape.height * shape.width;
  A values[N];
#pragma unroll
  for (int k = 0; k < N; ++k) {
    values[k] = A(*grad.at(n, first + k, y, x));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (corners.shares[i] == 0) {
      continue;
    }
    A* target = sums + (plane + corners.places[i]) * shape.channels + first;
    if constexpr (N == 4) {
      Pack<A> part;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        part.values[k] = corners.shares[i] * values[k];
      }
      add(reinterpret_cast<Pack<A>*>(target), part);
    } else {
      atomicAdd(target, corners.shares[i] * values[0]);
    }
  }
}

bool in_runs(const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const int64_t size = tensor.element_size(), pitch = pitch_of("map", tensor, size);
  return address % kBytes == 0 && pitch * size % kBytes == 0 && tensor.size(1) * size % kBytes == 0;
}

std::array<int64_t, 3> grid_of(const Shape& shape, int run) {
  return {ceil_div(int64_t(shape.width) * (shape.channels / run), kThreads), shape.height, shape.batch};
}

Tensor sample(const Tensor& map, const Tensor& flow, double scale) {
  const Shape shape = shape_of("map", map);
  check("flow", flow, shape.with_channels(2), wide(map.scalar_type()), map);
  const Launcher launch(map);
  const Tensor out = empty(shape, map.scalar_type(), map, MemoryFormat::ChannelsLast);
  dispatch(map.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto start = [&](auto kernel, int run) {
      launch.blocks(kernel, grid_of(shape, run), dim3(kThreads), static_cast<const T*>(map.const_data_ptr()),
                    pitch_of("map", map, sizeof(T)), read<Wide<T>>(flow), Wide<T>(scale),
                    static_cast<T*>(out.mutable_data_ptr()), shape);
    };
    if (in_runs(map)) {
      start(sample_map<T, kBytes / sizeof(T)>, kBytes / sizeof(T));
    } else {
      start(sample_map<T, 1>, 1);
    }
  });
  return out;
}

Tensor sample_backward(const Tensor& grad, const Tensor& flow, double scale) {
  const Shape shape = shape_of("grad", grad);
  const ScalarType type = grad.scalar_type();
  check("flow", flow, shape.with_channels(2), wide(type), grad);
  const Launcher launch(grad);
  Tensor sums = empty(shape, wide(type), grad, MemoryFormat::ChannelsLast);
  torch::stable::zero_(sums);
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const auto start = [&](auto kernel, int run) {
      launch.blocks(kernel, grid_of(shape, run), dim3(kThreads), read<T>(grad), read<Wide<T>>(flow), Wide<T>(scale),
                    static_cast<Wide<T>*>(sums.mutable_data_ptr()), shape);
    };
    shape.channels % 4 == 0 ? start(spread<T, 4>, 4) : start(spread<T, 1>, 1);
  });
  if (wide(type) == type) {
    return sums;
  }
  Tensor result = empty(shape, type, grad, MemoryFormat::ChannelsLast);
  torch::stable::copy_(result, sums);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("sample", TORCH_BOX(&sample));
  m.impl("sample_backward", TORCH_BOX(&sample_backward));
}

}  // namespace dain
