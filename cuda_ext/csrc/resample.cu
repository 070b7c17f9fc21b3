// Halving and doubling channels-last maps, and rows of neighbours as channels: between slices of channels, 16 bytes of a
// pixel's channels a thread. Inference only.
#include "common.cuh"

namespace dain {
namespace {

constexpr int kThreads = 256;

template <typename T>
constexpr int kWidth = 16 / sizeof(T);  // channels that a thread takes

template <typename T>
struct alignas(16) Channels {
  T values[kWidth<T>];
};

// A slice of channels of a channels-last tensor.
template <typename T>
struct Map {
  T* data;
  int64_t pitch;  // elements from pixel to pixel
  int height, width;

  __device__ T* at(int n, int y, int x, int pack) const {
    return data + ((int64_t(n) * height + y) * width + x) * pitch + pack * kWidth<T>;
  }
  __device__ auto load(int n, int y, int x, int pack) const {
    return *reinterpret_cast<const Channels<std::remove_const_t<T>>*>(at(n, y, x, pack));
  }
  __device__ void store(int n, int y, int x, int pack, const Channels<T>& channels) const {
    *reinterpret_cast<Channels<T>*>(at(n, y, x, pack)) = channels;
  }
};

// What a thread of a grid of `rows_of_blocks` works on.
struct Item {
  int x, y, n, pack;

  __device__ explicit Item(int packs) {
    const int item = blockIdx.x * kThreads + threadIdx.x;
    x = item / packs, y = blockIdx.y, n = blockIdx.z, pack = item % packs;
  }
};

std::array<int64_t, 3> rows_of_blocks(int batch, int height, int width, int packs) {
  return {ceil_div(int64_t(width) * packs, kThreads), height, batch};
}

// ---------------------------------------------------------------- pooling

template <typename T, bool kMean>
__global__ void pool(Map<const T> input, Map<T> out, int packs) {
  const Item at(packs);
  if (at.x >= out.width) {
    return;
  }
  Channels<T> corners[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    corners[i] = input.load(at.n, 2 * at.y + i / 2, 2 * at.x + i % 2, at.pack);
  }
  Channels<T> result;
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) {
    Wide<T> value = Wide<T>(corners[0].values[k]);
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      const Wide<T> other = Wide<T>(corners[i].values[k]);
      // What is no number must show: the larger of it and a number is itself.
      value = kMean ? value + other : other > value || other != other ? other : value;
    }
    result.values[k] = T(kMean ? value / 4 : value);
  }
  out.store(at.n, at.y, at.x, at.pack, result);
}

// ---------------------------------------------------------------- doubling

// A thread makes the 2 x 2 pixels that are made of the same pixels of `low`: of one, or of the four around them.
template <typename T, bool kBilinear>
__global__ void upsample_add(Map<const T> low, Map<const T> high, Map<T> out, int packs) {
  const Item at(packs);
  if (at.x >= low.width + kBilinear) {
    return;
  }
  constexpr int kCorners = kBilinear ? 4 : 1;
  Channels<T> corners[kCorners];
#pragma unroll
  for (int i = 0; i < kCorners; ++i) {
    const int y = at.y - kBilinear + i / 2, x = at.x - kBilinear + i % 2;
    corners[i] = low.load(at.n, min(max(y, 0), low.height - 1), min(max(x, 0), low.width - 1), at.pack);
  }
  // All of `high` first: `out` may be the same tensor, and then no load passes a store.
  const int top = 2 * at.y - kBilinear, left = 2 * at.x - kBilinear;
  Channels<T> result[4];
  bool inside[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int y = top + i / 2, x = left + i % 2;
    inside[i] = !kBilinear || (y >= 0 && x >= 0 && y < out.height && x < out.width);
    if (inside[i]) {
      result[i] = high.load(at.n, y, x, at.pack);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // A quarter of the way to the next pixel of `low`, from either side.
    const Wide<T> down = i / 2 ? 0.75f : 0.25f, across = i % 2 ? 0.75f : 0.25f;
#pragma unroll
    for (int k = 0; k < kWidth<T>; ++k) {
      Wide<T> value = Wide<T>(corners[0].values[k]);
      if constexpr (kBilinear) {
        value = (1 - down) * ((1 - across) * value + across * Wide<T>(corners[1].values[k])) +
            down * ((1 - across) * Wide<T>(corners[2].values[k]) + across * Wide<T>(corners[3].values[k]));
      }
      result[i].values[k] = T(value + Wide<T>(result[i].values[k]));
    }
    if (inside[i]) {
      out.store(at.n, top + i / 2, left + i % 2, at.pack, result[i]);
    }
  }
}

// ---------------------------------------------------------------- rows as channels

constexpr int kColours = 3;

template <typename I, typename T>
__global__ void unfold_row(View<const I> image, int taps, Map<T> out, int packs) {
  const Item at(packs);
  if (at.x >= out.width) {
    return;
  }
  Channels<T> result;
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) {
    const int channel = at.pack * kWidth<T> + k, tap = channel / kColours;
    const int x = at.x + tap - taps / 2;
    const bool inside = tap < taps && x >= 0 && x < out.width;
    result.values[k] = inside ? T(*image.at(at.n, channel % kColours, at.y, x)) : T(0.f);
  }
  out.store(at.n, at.y, at.x, at.pack, result);
}

// ---------------------------------------------------------------- operators

template <typename T>
int packs_of(const char* name, int channels) {
  STD_TORCH_CHECK(channels % kWidth<T> == 0, name, " must have a multiple of ", kWidth<T>, " channels, not ",
                  channels);
  return channels / kWidth<T>;
}

template <typename T>
Map<const T> source(const char* name, const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), pitch_of(name, tensor, 16), int(tensor.size(2)),
          int(tensor.size(3))};
}

template <typename T>
Map<T> target(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), pitch_of("out", tensor, 16), int(tensor.size(2)),
          int(tensor.size(3))};
}

// `dispatch`, or eight bits.
template <typename Body>
void dispatch_map(ScalarType type, Body body) {
  type == ScalarType::Float8_e4m3fn ? body(__nv_fp8_e4m3()) : dispatch(type, body);
}

void pool_into(const Tensor& input, bool mean, Tensor out) {
  const Shape from = shape_of("input", input);
  const Shape to{from.batch, from.channels, from.height / 2, from.width / 2};
  check("out", out, to, input.scalar_type(), input);
  if (to.numel() == 0) {
    return;
  }
  const Launcher launch(input);
  dispatch_map(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const int packs = packs_of<T>("input", from.channels);
    launch.blocks(mean ? pool<T, true> : pool<T, false>, rows_of_blocks(to.batch, to.height, to.width, packs),
                  dim3(kThreads), source<T>("input", input), target<T>(out), packs);
  });
}

void upsample_add_into(const Tensor& low, const Tensor& high, bool bilinear, Tensor out) {
  const Shape from = shape_of("low", low);
  const Shape to{from.batch, from.channels, 2 * from.height, 2 * from.width};
  check("high", high, to, low.scalar_type(), low);
  check("out", out, to, low.scalar_type(), low);
  if (to.numel() == 0) {
    return;
  }
  const Launcher launch(low);
  dispatch_map(low.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const int packs = packs_of<T>("low", from.channels);
    launch.blocks(bilinear ? upsample_add<T, true> : upsample_add<T, false>,
                  rows_of_blocks(from.batch, from.height + bilinear, from.width + bilinear, packs), dim3(kThreads),
                  source<T>("low", low), source<T>("high", high), target<T>(out), packs);
  });
}

void unfold_row_into(const Tensor& image, int64_t taps, Tensor out) {
  const Shape to = shape_of("out", out);
  const ScalarType type = image.scalar_type();
  check("image", image, to.with_channels(kColours), type, out);
  STD_TORCH_CHECK(type == ScalarType::Float || type == out.scalar_type(),
                  "image must be float32 or of the dtype of out");
  STD_TORCH_CHECK(taps % 2 == 1 && taps * kColours <= to.channels, "out has no room for an odd number of taps, ", taps);
  if (to.numel() == 0) {
    return;
  }
  const Launcher launch(out);
  dispatch(out.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const int packs = packs_of<T>("out", to.channels);
    const auto grid = rows_of_blocks(to.batch, to.height, to.width, packs);
    if (type == ScalarType::Float) {
      launch.blocks(unfold_row<float, T>, grid, dim3(kThreads), read<float>(image), int(taps), target<T>(out), packs);
    } else {
      launch.blocks(unfold_row<T, T>, grid, dim3(kThreads), read<T>(image), int(taps), target<T>(out), packs);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("pool_into", TORCH_BOX(&pool_into));
  m.impl("upsample_add_into", TORCH_BOX(&upsample_add_into));
  m.impl("unfold_row_into", TORCH_BOX(&unfold_row_into));
}

}  // namespace dain
