// Depth-aware flow projection. Contributions are added atomically, in whatever order they come: two runs may
// differ in the last bits of a float.
#include "common.cuh"

namespace dain {
namespace {

// The four pixels around where a pixel's flow leads. At the far border they coincide, and the one pixel counts
// twice or four times.
struct Corners {
  bool inside;
  int x[2], y[2];
};

template <typename A>
__device__ Corners corners_of(int x, int y, A flow_x, A flow_y, const Shape& shape) {
  const A to_x = A(x) + flow_x, to_y = A(y) + flow_y;
  // False for NaN as well.
  if (!(to_x >= 0 && to_y >= 0 && to_x <= A(shape.width - 1) && to_y <= A(shape.height - 1))) {
    return {false, {0, 0}, {0, 0}};
  }
  const int left = int(to_x), top = int(to_y);
  return {true, {left, min(left + 1, shape.width - 1)}, {top, min(top + 1, shape.height - 1)}};
}

// Adds each pixel's reversed flow, times its weight, to `total` and the weight to `count`.
template <typename A>
__global__ void splat(View<const A> flow, View<const A> weight, View<A> total, View<A> count, Shape shape) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const A flow_x = *flow.at(n, 0, y, x), flow_y = *flow.at(n, 1, y, x);
  const Corners to = corners_of(x, y, flow_x, flow_y, shape);
  if (!to.inside) {
    return;
  }
  const A mass = *weight.at(n, 0, y, x);
  for (const int yc : to.y) {
    for (const int xc : to.x) {
      atomicAdd(total.at(n, 0, yc, xc), -mass * flow_x);
      atomicAdd(total.at(n, 1, yc, xc), -mass * flow_y);
      atomicAdd(count.at(n, 0, yc, xc), mass);
    }
  }
}

// Turns the totals into means, in place; 0 where nothing came.
template <typename A>
__global__ void average(View<A> total, View<const A> count, Shape shape) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const A mass = *count.at(n, 0, y, x);
  for (int axis = 0; axis < 2; ++axis) {
    A* value = total.at(n, axis, y, x);
    *value = mass > 0 ? *value / mass : A(0);
  }
}

// ---------------------------------------------------------------- holes
//
// Which pixels got something is kept as bits, 32 to a word, along rows and along columns. A hole finds its
// nearest source by the first set bit, reading one word for every 32 pixels it passes; neighbours read the same
// words. Even a frame that is one large hole takes a fraction of what the splat does.

constexpr int kWord = 32;
constexpr unsigned kAllLanes = 0xffffffff;

// Blocks of 32 x 32. Words along rows are (N, H, ceil(W / 32)), along columns (N, ceil(H / 32), W).
template <typename A>
__global__ void mark_known(View<const A> count, unsigned* row_words, unsigned* column_words, Shape shape) {
  __shared__ unsigned tile[kWord];
  const int x = blockIdx.x * kWord + threadIdx.x, y = blockIdx.y * kWord + threadIdx.y;
  const int64_t n = blockIdx.z;
  const bool known = x < shape.width && y < shape.height && *count.at(n, 0, y, x) != 0;
  const unsigned row = __ballot_sync(kAllLanes, known);
  if (threadIdx.x == 0) {
    tile[threadIdx.y] = row;
  }
  __syncthreads();
  // The tile on its side: warp i gathers bit i of every row, which is column i.
  const unsigned column = __ballot_sync(kAllLanes, tile[threadIdx.x] >> threadIdx.y & 1);
  if (threadIdx.x == 0) {
    const int column_x = blockIdx.x * kWord + threadIdx.y;
    if (y < shape.height) {
      row_words[(n * shape.height + y) * gridDim.x + blockIdx.x] = row;
    }
    if (column_x < shape.width) {
      column_words[(n * gridDim.y + blockIdx.y) * shape.width + column_x] = column;
    }
  }
}

// The nearest set bit before `position` in a line of words, or -1.
__device__ int nearest_before(const unsigned* words, int stride, int position) {
  int word = position / kWord;
  unsigned bits = words[int64_t(word) * stride] & ((1u << position % kWord) - 1);
  while (bits == 0 && word > 0) {
    bits = words[int64_t(--word) * stride];
  }
  return bits ? word * kWord + kWord - 1 - __clz(bits) : -1;
}

// The nearest set bit after `position` in a line of `length` bits, or -1.
__device__ int nearest_after(const unsigned* words, int stride, int position, int length) {
  const int last = (length - 1) / kWord;
  int word = position / kWord;
  unsigned bits = words[int64_t(word) * stride] & ~((2u << position % kWord) - 1);
  while (bits == 0 && word < last) {
    bits = words[int64_t(++word) * stride];
  }
  return bits ? word * kWord + __ffs(bits) - 1 : -1;
}

// Gives each hole the mean of its nearest sources above, below, left and right, in place: a hole is no source.
template <typename A>
__global__ void fill_holes(View<A> mean, View<const A> count, const unsigned* row_words,
                           const unsigned* column_words, Shape shape) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int64_t n = blockIdx.z;
  if (x >= shape.width || y >= shape.height || *count.at(n, 0, y, x) > 0) {
    return;
  }
  const int row_length = (shape.width + kWord - 1) / kWord, columns = (shape.height + kWord - 1) / kWord;
  const unsigned* row = row_words + (n * shape.height + y) * row_length;
  const unsigned* column = column_words + n * columns * shape.width + x;
  const int source_y[4] = {nearest_before(column, shape.width, y),
                           nearest_after(column, shape.width, y, shape.height), y, y};
  const int source_x[4] = {x, x, nearest_before(row, 1, x), nearest_after(row, 1, x, shape.width)};

  A sum_x = 0, sum_y = 0;
  int found = 0;
  for (int side = 0; side < 4; ++side) {
    const int xs = source_x[side], ys = source_y[side];
    if (xs >= 0 && ys >= 0 && *count.at(n, 0, ys, xs) > 0) {
      sum_x += *mean.at(n, 0, ys, xs);
      sum_y += *mean.at(n, 1, ys, xs);
      ++found;
    }
  }
  *mean.at(n, 0, y, x) = found ? sum_x / A(found) : A(0);
  *mean.at(n, 1, y, x) = found ? sum_y / A(found) : A(0);
}

// ---------------------------------------------------------------- gradient

// A target's value is out = sum(-w f) / sum(w), so d out / d f = -w / count and d out / d w = -(f + out) / count.
template <typename A>
__global__ void splat_backward(View<const A> grad, View<const A> flow, View<const A> weight,
                               View<const A> mean, View<const A> count, View<A> grad_flow,
                               View<A> grad_weight, Shape shape) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  const int n = blockIdx.z;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  const A flow_x = *flow.at(n, 0, y, x), flow_y = *flow.at(n, 1, y, x);
  const Corners to = corners_of(x, y, flow_x, flow_y, shape);
  A share_x = 0, share_y = 0, by_weight = 0;
  if (to.inside) {
    for (const int yc : to.y) {
      for (const int xc : to.x) {
        const A mass = *count.at(n, 0, yc, xc);
        if (mass > 0) {
          const A gx = *grad.at(n, 0, yc, xc) / mass, gy = *grad.at(n, 1, yc, xc) / mass;
          share_x += gx;
          share_y += gy;
          by_weight += (flow_x + *mean.at(n, 0, yc, xc)) * gx + (flow_y + *mean.at(n, 1, yc, xc)) * gy;
        }
      }
    }
  }
  const A mass = *weight.at(n, 0, y, x);
  *grad_flow.at(n, 0, y, x) = -mass * share_x;
  *grad_flow.at(n, 1, y, x) = -mass * share_y;
  *grad_weight.at(n, 0, y, x) = -by_weight;
}

// ---------------------------------------------------------------- operators

// Coordinates need float32 or float64, so these kernels exist for no other.
template <typename Body>
void dispatch_flow(ScalarType type, Body body) {
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "flow must be float32 or float64, not ", torch::headeronly::toString(type));
  type == ScalarType::Float ? body(float()) : body(double());
}

struct Projection {
  Tensor mean, count;
};

Projection project(const Launcher& launch, const Tensor& flow, const Tensor& weight, const Shape& shape) {
  const Tensor total = zeros(shape, flow.scalar_type(), flow);
  const Tensor count = zeros(shape.with_channels(1), flow.scalar_type(), flow);
  dispatch_flow(flow.scalar_type(), [&](auto zero) {
    using A = decltype(zero);
    launch.pixels(splat<A>, shape.batch, shape.height, shape.width, read<A>(flow), read<A>(weight),
                  write<A>(total), write<A>(count), shape);
    launch.pixels(average<A>, shape.batch, shape.height, shape.width, write<A>(total), read<A>(count), shape);
  });
  return {total, count};
}

void fill(const Launcher& launch, const Projection& projection, const Shape& shape) {
  const int64_t across = ceil_div(shape.width, kWord), down = ceil_div(shape.height, kWord);
  const Tensor rows = empty({shape.batch, 1, shape.height, int(across)}, ScalarType::Int, projection.mean);
  const Tensor columns = empty({shape.batch, 1, int(down), shape.width}, ScalarType::Int, projection.mean);
  auto* row_words = static_cast<unsigned*>(rows.mutable_data_ptr());
  auto* column_words = static_cast<unsigned*>(columns.mutable_data_ptr());
  dispatch_flow(projection.mean.scalar_type(), [&](auto zero) {
    using A = decltype(zero);
    launch.blocks(mark_known<A>, {across, down, shape.batch}, dim3(kWord, kWord), read<A>(projection.count),
                  row_words, column_words, shape);
    launch.pixels(fill_holes<A>, shape.batch, shape.height, shape.width, write<A>(projection.mean),
                  read<A>(projection.count), row_words, column_words, shape);
  });
}

Shape check_arguments(const Tensor& flow, const Tensor& weight) {
  const Shape shape = shape_of("flow", flow);
  STD_TORCH_CHECK(shape.channels == 2, "flow must be (N, 2, H, W), not ", text(shape));
  check("weight", weight, shape.with_channels(1), flow.scalar_type(), flow);
  return shape;
}

Tensor flow_projection(const Tensor& flow, const Tensor& weight, bool fill_holes) {
  const Shape shape = check_arguments(flow, weight);
  const Launcher launch(flow);
  const Projection projection = project(launch, flow, weight, shape);
  if (fill_holes) {
    fill(launch, projection, shape);
  }
  return projection.mean;
}

std::tuple<Tensor, Tensor> flow_projection_backward(
    const Tensor& grad, const Tensor& flow, const Tensor& weight) {
  const Shape shape = check_arguments(flow, weight);
  check("grad", grad, shape, flow.scalar_type(), flow);
  const Launcher launch(flow);
  const Projection projection = project(launch, flow, weight, shape);
  const Tensor grad_flow = empty(shape, flow.scalar_type(), flow);
  const Tensor grad_weight = empty(shape.with_channels(1), flow.scalar_type(), flow);
  dispatch_flow(flow.scalar_type(), [&](auto zero) {
    using A = decltype(zero);
    launch.pixels(splat_backward<A>, shape.batch, shape.height, shape.width, read<A>(grad), read<A>(flow),
                  read<A>(weight), read<A>(projection.mean), read<A>(projection.count), write<A>(grad_flow),
                  write<A>(grad_weight), shape);
  });
  return {like(grad_flow, flow), like(grad_weight, weight)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("flow_projection", TORCH_BOX(&flow_projection));
  m.impl("flow_projection_backward", TORCH_BOX(&flow_projection_backward));
}

}  // namespace dain
