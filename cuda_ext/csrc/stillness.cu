// What stands still before a moving picture, in five launches. Inference only.
//
// Most pixels are no hard edges, so what only edges need is computed where one is, from the frames themselves: little is
// written in between, and little memory is taken.
#include "common.cuh"

namespace dain {
namespace {

// As in `cuda_ext.reference`.
constexpr float kSame = 6 / 255.0;
constexpr float kHard = 0.2;
constexpr float kUnexplained = 0.08;
constexpr int kCell = 8;
constexpr int kAround = 2;
constexpr float kSlowest = 1.0;
constexpr float kDisagreement = 0.2;
constexpr float kShare = 0.04;
constexpr float kChanged = 0.25;
constexpr float kFewest = 0.002;

constexpr float kMoved = 2 * 6 / 255.0;  // by which two frames differ where something moves

constexpr int kColours = 3;
constexpr int kThreads = kBlockWidth * kBlockHeight;
constexpr int kCells = kBlockWidth / kCell;  // of a block, side by side
static_assert(kBlockHeight == kCell, "a block is a row of cells");
constexpr int kTileWidth = kBlockWidth + 2, kTileHeight = kBlockHeight + 2;  // with the pixels beside it

// Of a pixel, in one byte.
constexpr uint8_t kIsSame = 1, kIsEdge = 2;

// The mean flow around each cell, there and back, and the mean of what has changed in its column.
enum Plane { kThere, kBack = 2, kColumn = 4, kPlanes };

using Image = View<const float>;

// ---------------------------------------------------------------- pixels

__device__ float grey(const Image& image, int y, int x) {
  return (*image.at(0, 0, y, x) + *image.at(0, 1, y, x) + *image.at(0, 2, y, x)) / kColours;
}

__device__ float difference_of(const Image& first, const Image& second, int y, int x) {
  float largest = 0;
#pragma unroll
  for (int c = 0; c < kColours; ++c) {
    largest = fmaxf(largest, fabsf(*first.at(0, c, y, x) - *second.at(0, c, y, x)));
  }
  return largest;
}

__device__ int within(int place, int length) {
  return min(max(place, 0), length - 1);
}

// The least and the largest of some pixels.
struct Range {
  float low = INFINITY, high = -INFINITY;

  __device__ void add(float value) {
    low = fminf(low, value), high = fmaxf(high, value);
  }
};

// Of a pixel and those beside it.
__device__ Range range_of(const Image& image, const Shape& shape, int y, int x) {
  Range range;
  for (int i = 0; i < 9; ++i) {
    range.add(grey(image, within(y + i / 3 - 1, shape.height), within(x + i % 3 - 1, shape.width)));
  }
  return range;
}

// ---------------------------------------------------------------- cells

// Values of all cells, one plane after another.
struct Cells {
  float* data;
  int rows, columns;

  __device__ float* plane(int index) const {
    return data + int64_t(index) * rows * columns;
  }

  // The mean over cells of one column, and over a window, as far as they lie within the plane.
  __device__ float column_mean(int index, int y, int x, int reach) const {
    const int from = max(y - reach, 0), to = min(y + reach, rows - 1);
    float sum = 0;
    for (int i = from; i <= to; ++i) {
      sum += plane(index)[i * columns + x];
    }
    return sum / (to - from + 1);
  }
  __device__ float mean(int index, int y, int x, int reach_y, int reach_x) const {
    const int from = max(x - reach_x, 0), to = min(x + reach_x, columns - 1);
    float sum = 0;
    for (int i = from; i <= to; ++i) {
      sum += column_mean(index, y, i, reach_y);
    }
    return sum / (to - from + 1);
  }

  // At a pixel: bilinear, pixels and cells as areas.
  __device__ float at_pixel(int index, int y, int x) const {
    const float from_y = fmaxf((y + 0.5f) / kCell - 0.5f, 0), from_x = fmaxf((x + 0.5f) / kCell - 0.5f, 0);
    const int top = min(int(from_y), rows - 1), left = min(int(from_x), columns - 1);
    const int bottom = min(top + 1, rows - 1), right = min(left + 1, columns - 1);
    const float down = from_y - top, across = from_x - left;
    const float* values = plane(index);
    return (1 - down) * ((1 - across) * values[top * columns + left] + across * values[top * columns + right]) +
        down * ((1 - across) * values[bottom * columns + left] + across * values[bottom * columns + right]);
  }
};

// How many pixels of a cell lie within the frame.
__device__ int area_of(const Shape& shape, int row, int column) {
  return min(kCell, shape.height - row * kCell) * min(kCell, shape.width - column * kCell);
}

// Where the motion around a pixel leads to; beyond the frame its border goes on.
struct Target {
  int left, top, right, bottom;
  float across, down;
  bool inside;

  __device__ Target(const Cells& motion, int plane, const Shape& shape, int y, int x) {
    const float to_x = x + motion.at_pixel(plane, y, x), to_y = y + motion.at_pixel(plane + 1, y, x);
    const float last_x = shape.width - 1, last_y = shape.height - 1;
    inside = to_x >= 0 && to_x <= last_x && to_y >= 0 && to_y <= last_y;
    const float at_x = fminf(fmaxf(to_x, 0), last_x), at_y = fminf(fmaxf(to_y, 0), last_y);  // no number is 0
    left = int(at_x), top = int(at_y);
    right = min(left + 1, shape.width - 1), bottom = min(top + 1, shape.height - 1);
    across = at_x - left, down = at_y - top;
  }
  __device__ float blend(float top_left, float top_right, float bottom_left, float bottom_right) const {
    return (1 - down) * ((1 - across) * top_left + across * top_right) +
        down * ((1 - across) * bottom_left + across * bottom_right);
  }
  __device__ float grey_of(const Image& image) const {
    return blend(grey(image, top, left), grey(image, top, right), grey(image, bottom, left),
                 grey(image, bottom, right));
  }
  __device__ Range ranges_of(const Image& image, const Shape& shape) const {
    const Range a = range_of(image, shape, top, left), b = range_of(image, shape, top, right);
    const Range c = range_of(image, shape, bottom, left), d = range_of(image, shape, bottom, right);
    return {blend(a.low, b.low, c.low, d.low), blend(a.high, b.high, c.high, d.high)};
  }
};

// ---------------------------------------------------------------- kernels

// Marks what is the same in both frames, and hard edges of that. Of a cell it writes how much has changed, and the sums
// of the flows of what has, as shares of all pixels.
__global__ void look(Image first, Image second, Image there, Image back, uint8_t* marks, Cells seen, Shape shape) {
  constexpr int kSums = 5;
  __shared__ float greys[2][kTileHeight][kTileWidth];
  __shared__ float parts[kSums][kThreads + 1];
  const int thread = threadIdx.y * kBlockWidth + threadIdx.x;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  for (int i = thread; i < kTileHeight * kTileWidth; i += kThreads) {
    const int row = i / kTileWidth, column = i % kTileWidth;
    const int at_y = within(int(blockIdx.y) * kBlockHeight + row - 1, shape.height);
    const int at_x = within(int(blockIdx.x) * kBlockWidth + column - 1, shape.width);
    greys[0][row][column] = grey(first, at_y, at_x);
    greys[1][row][column] = grey(second, at_y, at_x);
  }
  __syncthreads();
  const bool inside = x < shape.width && y < shape.height;
  float values[kSums] = {};
  if (inside) {
    const float difference = difference_of(first, second, y, x);
    Range one, two;
    for (int i = 0; i < 9; ++i) {
      one.add(greys[0][threadIdx.y + i / 3][threadIdx.x + i % 3]);
      two.add(greys[1][threadIdx.y + i / 3][threadIdx.x + i % 3]);
    }
    const bool same = difference < kSame;
    const bool edge = same && fminf(one.high - one.low, two.high - two.low) > kHard;
    marks[int64_t(y) * shape.width + x] = (same ? kIsSame : 0) | (edge ? kIsEdge : 0);
    values[0] = difference > kMoved;
    for (int c = 0; c < 2; ++c) {
      // A flow that is no number counts where nothing has changed, too.
      values[1 + kThere + c] = values[0] * *there.at(0, c, y, x);
      values[1 + kBack + c] = values[0] * *back.at(0, c, y, x);
    }
  }
  for (int i = 0; i < kSums; ++i) {
    parts[i][thread] = values[i];
  }
  __syncthreads();
  const int value = thread / kCells, column = blockIdx.x * kCells + thread % kCells, row = blockIdx.y;
  if (value < kSums && column < seen.columns) {
    float sum = 0;
    for (int i = 0; i < kCell * kCell; ++i) {
      sum += parts[value][i / kCell * kBlockWidth + thread % kCells * kCell + i % kCell];
    }
    seen.plane(value)[row * seen.columns + column] = sum / area_of(shape, row, column);
  }
}

// The motion around every cell.
__global__ void surround(Cells seen, Cells motion, int far) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  if (x >= seen.columns || y >= seen.rows) {
    return;
  }
  const int cell = y * seen.columns + x;
  const float weight = seen.mean(0, y, x, kAround, kAround) + 1e-6f;
  for (int i = 0; i < kColumn; ++i) {
    motion.plane(i)[cell] = seen.mean(1 + i, y, x, kAround, kAround) / weight;
  }
  motion.plane(kColumn)[cell] = seen.column_mean(0, y, x, far);
}

// Whether a hard edge is what the motion around it leads to in neither frame. By the range around that place: flow is off
// by parts of a pixel, and an edge then by all of its step.
__device__ bool is_unexplained(const Image& first, const Image& second, const Cells& motion, const Shape& shape, int y,
                               int x) {
  const Target in_second(motion, kThere, shape, y, x), in_first(motion, kBack, shape, y, x);
  if (!in_second.inside || !in_first.inside) {
    return false;
  }
  const float one = grey(first, y, x), two = grey(second, y, x);
  const Range of_second = in_second.ranges_of(second, shape), of_first = in_first.ranges_of(first, shape);
  return fminf(fmaxf(one - of_second.high, of_second.low - one), fmaxf(two - of_first.high, of_first.low - two)) >
      kUnexplained;
}

// Writes what share of a cell are edges that motion does not explain, and edges.
__global__ void count(Image first, Image second, const uint8_t* marks, Cells motion, Cells counts, Shape shape) {
  __shared__ int found[2][kCells];
  const int thread = threadIdx.y * kBlockWidth + threadIdx.x;
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  if (thread < 2 * kCells) {
    found[thread / kCells][thread % kCells] = 0;
  }
  __syncthreads();
  if (x < shape.width && y < shape.height && marks[int64_t(y) * shape.width + x] & kIsEdge) {
    atomicAdd(&found[1][threadIdx.x / kCell], 1);
    if (is_unexplained(first, second, motion, shape, y, x)) {
      atomicAdd(&found[0][threadIdx.x / kCell], 1);
    }
  }
  __syncthreads();
  const int column = blockIdx.x * kCells + thread % kCells, row = blockIdx.y;
  if (thread < 2 * kCells && column < counts.columns) {
    counts.plane(thread / kCells)[row * counts.columns + column] =
        float(found[thread / kCells][thread % kCells]) / area_of(shape, row, column);
  }
}

// The cells in which edges stand still.
__global__ void choose(Cells motion, Cells counts, int far, uint8_t* region) {
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  if (x >= motion.columns || y >= motion.rows) {
    return;
  }
  const int cell = y * motion.columns + x;
  float flow[kColumn];
  for (int i = 0; i < kColumn; ++i) {
    flow[i] = motion.plane(i)[cell];
  }
  const auto length = [](float x, float y) { return sqrtf(x * x + y * y); };
  const float distance = length(flow[kThere], flow[kThere + 1]);
  const bool steady = motion.mean(kColumn, y, x, 0, far) > kChanged && distance > kSlowest &&
      length(flow[kBack], flow[kBack + 1]) > kSlowest &&
      length(flow[kThere] + flow[kBack], flow[kThere + 1] + flow[kBack + 1]) < kDisagreement * distance + 0.5f;
  const float evidence = counts.mean(0, y, x, kAround, kAround), edges = counts.mean(1, y, x, kAround, kAround);
  region[cell] = steady && evidence > kShare * edges && evidence > kFewest;
}

// Whether motion explains the pixels around an edge worse than rest does, in both frames.
__device__ bool is_kept(const Image& first, const Image& second, const Cells& motion, const Shape& shape, int y,
                        int x) {
  float error_of_first = 0, error_of_second = 0, difference = 0;
  int pixels = 0;
  for (int i = 0; i < 9; ++i) {
    const int at_y = y + i / 3 - 1, at_x = x + i % 3 - 1;
    if (at_y < 0 || at_x < 0 || at_y >= shape.height || at_x >= shape.width) {
      continue;
    }
    const Target in_second(motion, kThere, shape, at_y, at_x), in_first(motion, kBack, shape, at_y, at_x);
    error_of_first += fabsf(grey(first, at_y, at_x) - in_second.grey_of(second));
    error_of_second += fabsf(grey(second, at_y, at_x) - in_first.grey_of(first));
    difference += difference_of(first, second, at_y, at_x);
    ++pixels;
  }
  return fminf(error_of_first / pixels, error_of_second / pixels) > kMoved + difference / pixels;
}

// Writes 1 for the edges that are kept and what is the same beside them, else 0.
__global__ void keep(Image first, Image second, const uint8_t* marks, Cells motion, const uint8_t* region, float* out,
                     Shape shape) {
  __shared__ bool kept[kTileHeight][kTileWidth];
  const int thread = threadIdx.y * kBlockWidth + threadIdx.x;
  for (int i = thread; i < kTileHeight * kTileWidth; i += kThreads) {
    const int row = i / kTileWidth, column = i % kTileWidth;
    const int y = int(blockIdx.y) * kBlockHeight + row - 1, x = int(blockIdx.x) * kBlockWidth + column - 1;
    kept[row][column] = y >= 0 && x >= 0 && y < shape.height && x < shape.width &&
        region[y / kCell * motion.columns + x / kCell] && marks[int64_t(y) * shape.width + x] & kIsEdge &&
        is_kept(first, second, motion, shape, y, x);
  }
  __syncthreads();
  const int x = blockIdx.x * kBlockWidth + threadIdx.x, y = blockIdx.y * kBlockHeight + threadIdx.y;
  if (x >= shape.width || y >= shape.height) {
    return;
  }
  bool beside = false;
  for (int i = 0; i < 9; ++i) {
    beside |= kept[threadIdx.y + i / 3][threadIdx.x + i % 3];
  }
  const int64_t pixel = int64_t(y) * shape.width + x;
  out[pixel] = beside && marks[pixel] & kIsSame;
}

// ---------------------------------------------------------------- operator

Tensor stillness(const Tensor& first, const Tensor& second, const Tensor& there, const Tensor& back) {
  const Shape shape = shape_of("first", first);
  STD_TORCH_CHECK(shape.batch == 1 && shape.channels == kColours, "first must be (1, 3, H, W), not ", text(shape));
  check("first", first, shape, ScalarType::Float, first);
  check("second", second, shape, ScalarType::Float, first);
  check("there", there, shape.with_channels(2), ScalarType::Float, first);
  check("back", back, shape.with_channels(2), ScalarType::Float, first);
  const Launcher launch(first);
  const int rows = ceil_div(shape.height, kCell), columns = ceil_div(shape.width, kCell), far = rows / 4;
  const auto cells = [&](int planes) { return empty({1, planes, rows, columns}, ScalarType::Float, first); };
  const auto bytes = [&](int height, int width) { return empty({1, 1, height, width}, ScalarType::Byte, first); };
  const auto at = [&](const Tensor& tensor) { return static_cast<uint8_t*>(tensor.mutable_data_ptr()); };
  const auto of = [&](const Tensor& tensor) {
    return Cells{static_cast<float*>(tensor.mutable_data_ptr()), rows, columns};
  };
  const Tensor marks = bytes(shape.height, shape.width), region = bytes(rows, columns);
  const Tensor seen = cells(5), motion = cells(kPlanes), counts = cells(2);
  const Tensor out = empty(shape.with_channels(1), ScalarType::Float, first);
  const Image one = read<float>(first), two = read<float>(second);
  launch.pixels(look, 1, shape.height, shape.width, one, two, read<float>(there), read<float>(back), at(marks),
                of(seen), shape);
  launch.pixels(surround, 1, rows, columns, of(seen), of(motion), far);
  launch.pixels(count, 1, shape.height, shape.width, one, two, at(marks), of(motion), of(counts), shape);
  launch.pixels(choose, 1, rows, columns, of(motion), of(counts), far, at(region));
  launch.pixels(keep, 1, shape.height, shape.width, one, two, at(marks), of(motion), at(region),
                static_cast<float*>(out.mutable_data_ptr()), shape);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("stillness", TORCH_BOX(&stillness));
}

}  // namespace dain
