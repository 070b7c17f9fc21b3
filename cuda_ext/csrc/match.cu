// What a level of the flow network sees of two frames, each way: how well every pixel of one matches the pixels around
// its place in the other, warped by the coarser level's flow, and what that level knows besides. Inference only.
//
// The correlation is a matrix product: a row of 16 pixels of ours times the 24 of theirs that lie within reach, of
// which a band is kept. A block takes a tile of ours and the tile of theirs with its halo into shared memory, as many
// channels at a time as there is room for, warping it on the way; a warp then takes one row of ours and three of the nine
// rows of theirs that it meets.
#include "common.cuh"
#include "launch.h"

namespace dain {
namespace {

using namespace matching;

constexpr int kSpan = 2 * kReach + 1;  // displacements along an axis
constexpr int kMatches = kSpan * kSpan;
constexpr int kPrior = 4;  // channels that the coarser level gives: flow, features

constexpr int kRows = 3;  // of theirs that a warp takes
constexpr int kParts = kHaloWidth / 8;
constexpr int kThreads = kTileHeight * (kSpan / kRows) * 32;
constexpr int kTeam = 4;  // threads that copy a pixel, and then the others of theirs
constexpr int kTeams = kThreads / kTeam;
constexpr int kTheirsOfTeam = kTheirs / kTeams;
static_assert(kTheirs % kTeams == 0 && kTheirsOfTeam <= kTeam && kOurs <= kTeams, "each thread has its pixels");
static_assert(kOurs * kPrior * kElementBytes <= kDeclaredBytes, "the launch leaves room for what is known before");

constexpr float kSlope = 0.1f;         // of the leaky ReLU
constexpr float kCovered = 0.9999f;    // of a sample must lie inside the frame

template <typename T>
struct alignas(16) Channels {
  T values[kPack];
};

// Feature maps of both frames: pixels `pitch` elements apart.
template <typename T>
struct Frames {
  const T *first, *second;
  int first_pitch, second_pitch;
};

// The coarser level's result at half the size, and the transposed convolution that enlarges its flow.
struct Coarse {
  const float* map;  // (2N, H/2, W/2) pixels: flow; two features, each as its 2 x 2 pixels of the finer level
  int pitch;
  const float4* weight;  // (4, 4): x to x, x to y, y to x, y to y
  const float2* bias;
  float scale;  // from the flow's unit to pixels
};

// Where a pixel is sampled: the four pixels around it, in elements of the map, and their weights.
struct alignas(16) Sample {
  uint32_t offsets[4];
  float weights[4];
};

// The coarser level's flow at (y, x) of this one: kernel 4, stride 2, padding 1. Of the four taps along an axis two
// meet pixels: 1 and 3 where the coordinate is even, 0 and 2 where it is odd.
__device__ float2 enlarged_flow(const Coarse& coarse, const float* map, int y, int x, const Shape& shape) {
  float2 flow = *coarse.bias;
  const int height = shape.height / 2, width = shape.width / 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int ky = (y + 1) % 2 + i / 2 * 2, kx = (x + 1) % 2 + i % 2 * 2;
    const int from_y = (y + 1) / 2 - i / 2, from_x = (x + 1) / 2 - i % 2;
    const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
    const auto value = *reinterpret_cast<const float2*>(map + (inside ? (from_y * width + from_x) * coarse.pitch : 0));
    const float4 weight = coarse.weight[ky * 4 + kx];
    flow.x += inside ? value.x * weight.x + value.y * weight.z : 0;
    flow.y += inside ? value.x * weight.y + value.y * weight.w : 0;
  }
  return flow;
}

__device__ Sample sample_at(float x, float y, int pitch, const Shape& shape) {
  const float left = floorf(x), top = floorf(y);
  const float right_share = x - left, bottom_share = y - top;
  const float last_x = float(shape.width - 1), last_y = float(shape.height - 1);
  // What of the sample lies inside, by axis. Comparisons with NaN are false.
  const float across[2] = {left >= 0 && left <= last_x ? 1 - right_share : 0,
                           left >= -1 && left < last_x ? right_share : 0};
  const float along[2] = {top >= 0 && top <= last_y ? 1 - bottom_share : 0,
                          top >= -1 && top < last_y ? bottom_share : 0};
  Sample sample = {};
  if ((across[0] + across[1]) * (along[0] + along[1]) >= kCovered) {
    const int columns[2] = {max(int(left), 0), min(int(left) + 1, shape.width - 1)};
    const int rows[2] = {max(int(top), 0), min(int(top) + 1, shape.height - 1)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sample.offsets[i] = uint32_t(rows[i / 2] * shape.width + columns[i % 2]) * pitch;
      sample.weights[i] = along[i / 2] * across[i % 2];
    }
  }
  return sample;
}

template <typename T>
__device__ Channels<T> load(const T* channels) {
  return *reinterpret_cast<const Channels<T>*>(channels);
}

template <typename T>
__device__ void store(T* target, const Channels<T>& channels) {
  *reinterpret_cast<Channels<T>*>(target) = channels;
}

// Zeros for all but the first `count`.
template <typename T>
__device__ Channels<T> clip(Channels<T> channels, int count) {
  if (count < kPack) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      channels.values[k] = k < count ? channels.values[k] : T(0.f);
    }
  }
  return channels;
}

template <typename T>
__device__ Channels<T> blend(const T* map, const Sample& sample) {
  Channels<T> around[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    around[i] = load(map + sample.offsets[i]);
  }
  Channels<T> result;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum += sample.weights[i] * float(around[i].values[k]);
    }
    result.values[k] = T(sum);
  }
  return result;
}

// The one pixel of a sample that is not warped.
template <typename T>
__device__ Channels<T> pick(const T* map, const Sample& sample) {
  return sample.weights[0] != 0 ? load(map + sample.offsets[0]) : Channels<T>{};
}

#if __CUDA_ARCH__ >= 800

__device__ uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ void load_matrices(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

__device__ void load_matrices(uint32_t (&b)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(b[0]), "=r"(b[1]) : "r"(address));
}

template <typename T>
__device__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Adds the products of `channels` channels of a row of ours with kRows rows of theirs.
template <typename T>
__device__ void correlate(float (&sums)[kRows][kParts][4], uint32_t ours, uint32_t theirs, int pitch, int channels) {
  const int lane = threadIdx.x % 32;
  ours += lane % 16 * pitch + lane / 16 * 16;
  const uint32_t first_parts = theirs + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
  const uint32_t last_part = theirs + (16 + lane % 8) * pitch + lane / 8 % 2 * 16;
#pragma unroll 2
  for (int c = 0; c < channels; c += kGroup) {
    uint32_t a[4];
    load_matrices(a, ours + c * 2);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      uint32_t b[4], last[2];
      load_matrices(b, first_parts + row * kHaloWidth * pitch + c * 2);
      load_matrices(last, last_part + row * kHaloWidth * pitch + c * 2);
      multiply<T>(sums[row][0], a, b[0], b[1]);
      multiply<T>(sums[row][1], a, b[2], b[3]);
      multiply<T>(sums[row][2], a, last[0], last[1]);
    }
  }
}

// ---------------------------------------------------------------- a tile

// The sample that member `member` of this thread's team has.
__device__ Sample sample_of(const Sample& mine, int member) {
  Sample result;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    result.offsets[i] = __shfl_sync(~0u, mine.offsets[i], member, kTeam);
    result.weights[i] = __shfl_sync(~0u, mine.weights[i], member, kTeam);
  }
  return result;
}

// What a thread knows of its block's tile: blockIdx.z counts the first frames, then the second ones.
template <typename T>
struct Tile {
  const Shape shape;
  int x0, y0, team, member;  // of ours a team takes pixel `team`, of theirs with the halo every kTeams-th from there
  bool has_ours;             // the team, inside the frame
  const T *ours, *theirs;    // the team's pixel, and the whole map
  int their_pitch, tile_pitch;  // elements from pixel to pixel; in shared memory 8 neighbours then hit all banks
  T *our_tile, *their_tile;

  __device__ Tile(const Frames<T>& frames, const Shape& shape, int chunk, void* shared)
      : shape(shape), x0(blockIdx.x * kTileWidth), y0(blockIdx.y * kTileHeight), team(threadIdx.x / kTeam),
        member(threadIdx.x % kTeam), tile_pitch(chunk + kPack), our_tile(static_cast<T*>(shared)),
        their_tile(our_tile + kOurs * tile_pitch) {
    const bool forward = blockIdx.z < shape.batch;
    const int64_t before = int64_t(blockIdx.z - (forward ? 0 : shape.batch)) * shape.height * shape.width;
    const int our_pitch = forward ? frames.first_pitch : frames.second_pitch;
    const int y = y0 + team / kTileWidth, x = x0 + team % kTileWidth;
    has_ours = team < kOurs && y < shape.height && x < shape.width;
    their_pitch = forward ? frames.second_pitch : frames.first_pitch;
    ours = (forward ? frames.first : frames.second) + (before + (has_ours ? y * shape.width + x : 0)) * our_pitch;
    theirs = (forward ? frames.second : frames.first) + before * their_pitch;
  }

  // Where one of the team's pixels of theirs is sampled. What the coarser level says of ours goes into `prior`.
  template <bool kWarped>
  __device__ Sample find(const Coarse& coarse, T (*prior)[kPrior]) const {
    const int pixel = team + member * kTeams;
    const int tile_y = pixel / kHaloWidth - kReach, tile_x = pixel % kHaloWidth - kReach;
    const int y = y0 + tile_y, x = x0 + tile_x;
    if (member >= kTheirsOfTeam || y < 0 || y >= shape.height || x < 0 || x >= shape.width) {
      return {};
    }
    if constexpr (!kWarped) {
      return {{uint32_t(y * shape.width + x) * their_pitch}, {1}};
    }
    const int half_width = shape.width / 2;
    const float* map = coarse.map + int64_t(blockIdx.z) * (shape.height / 2) * half_width * coarse.pitch;
    const float2 flow = enlarged_flow(coarse, map, y, x, shape);
    if (tile_y >= 0 && tile_y < kTileHeight && tile_x >= 0 && tile_x < kTileWidth) {
      const float* features = map + (y / 2 * half_width + x / 2) * coarse.pitch + 2 + y % 2 * 2 + x % 2;
      const float known[kPrior] = {flow.x, flow.y, features[0], features[4]};
#pragma unroll
      for (int i = 0; i < kPrior; ++i) {
        prior[tile_y * kTileWidth + tile_x][i] = T(known[i]);
      }
    }
    return sample_at(x + coarse.scale * flow.x, y + coarse.scale * flow.y, their_pitch, shape);
  }

  // Brings `count` channels from `c0` on into shared memory, up to a whole group of them. `mine`: what `find` gave.
  template <bool kWarped>
  __device__ void fill(const Sample& mine, int c0, int count) const {
    Sample samples[kTheirsOfTeam];
#pragma unroll
    for (int i = 0; i < kTheirsOfTeam; ++i) {
      samples[i] = sample_of(mine, i);
    }
#pragma unroll 1
    for (int c = member * kPack; c < round_up(count); c += kTeam * kPack) {
      Channels<T> values[kTheirsOfTeam] = {}, value = {};
      if (c < count) {
#pragma unroll
        for (int i = 0; i < kTheirsOfTeam; ++i) {
          values[i] = kWarped ? blend(theirs + c0 + c, samples[i]) : pick(theirs + c0 + c, samples[i]);
        }
        if (has_ours) {
          value = load(ours + c0 + c);
        }
      }
#pragma unroll
      for (int i = 0; i < kTheirsOfTeam; ++i) {
        store(their_tile + (team + i * kTeams) * tile_pitch + c, clip(values[i], count - c));
      }
      if (team < kOurs) {
        store(our_tile + team * tile_pitch + c, clip(value, count - c));
      }
    }
    __syncthreads();
  }

  // The result is put together in the place of theirs, so that whole pixels are written: here the matches of a row.
  __device__ void put_matches(const float (&sums)[kRows][kParts][4], int row, int first_row, int pitch) const {
    const int lane = threadIdx.x % 32;
    const float mean = 1.f / shape.channels;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      // Our pixel x meets their pixels x to x + 8, which lie in two parts.
      const int x = lane / 4 + k / 2 * 8, from_x = lane % 4 * 2 + k % 2 - lane / 4;
      T* target = their_tile + (row * kTileWidth + x) * pitch + first_row * kSpan + from_x;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          if (side == 0 ? from_x >= 0 : from_x <= 0) {
            const float value = sums[i][k / 2 + side][k] * mean;
            target[i * kSpan + side * 8] = T(fmaxf(value, kSlope * value));
          }
        }
      }
    }
  }

  // What follows the matches, of `width` channels in all.
  template <bool kWarped>
  __device__ void put_rest(const T (*prior)[kPrior], int width, int pitch) const {
    if (team >= kOurs) {
      return;
    }
    T* const end = their_tile + team * pitch + width;
    T* target = end - width + kMatches;
    if constexpr (kWarped) {
#pragma unroll 1
      for (int c = member * kPack; c < shape.channels; c += kTeam * kPack) {
        const Channels<T> value = has_ours ? load(ours + c) : Channels<T>{};
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          if (c + k < shape.channels) {
            target[c + k] = value.values[k];
          }
        }
      }
      target += shape.channels;
      target[member] = prior[team][member];
      target += kPrior;
    }
#pragma unroll 1
    for (T* zero = target + member; zero < end; zero += kTeam) {
      *zero = T(0.f);
    }
  }

  __device__ void write(T* out, int out_pitch, int width, int pitch) const {
    constexpr int kWriters = 16;  // threads that write a pixel
    out += int64_t(blockIdx.z) * shape.height * shape.width * out_pitch;
#pragma unroll 1
    for (int pixel = threadIdx.x / kWriters; pixel < kOurs; pixel += kThreads / kWriters) {
      const int y = y0 + pixel / kTileWidth, x = x0 + pixel % kTileWidth;
      if (y < shape.height && x < shape.width) {
        T* target = out + int64_t(y * shape.width + x) * out_pitch;
#pragma unroll 1
        for (int c = threadIdx.x % kWriters * kPack; c < width; c += kWriters * kPack) {
          store(target + c, load(their_tile + pixel * pitch + c));
        }
      }
    }
  }
};

#endif

// `chunk` channels are in shared memory at a time: all, if kWhole, which takes fewer registers. `width`: channels of `out`.
template <typename T, bool kWarped, bool kWhole>
__global__ void __launch_bounds__(kThreads, kWarped ? 2 : 1)
    match(Frames<T> frames, Coarse coarse, T* out, int out_pitch, int width, int chunk, Shape shape) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ uint4 shared[];
  __shared__ T prior[kWarped ? kOurs : 1][kPrior];
  const Tile<T> tile(frames, shape, chunk, shared);
  const Sample mine = tile.template find<kWarped>(coarse, prior);
  const int warp = threadIdx.x / 32, row = warp / (kSpan / kRows), first_row = warp % (kSpan / kRows) * kRows;
  const uint32_t bytes = tile.tile_pitch * sizeof(T);
  int c0 = 0, count = min(chunk, shape.channels);
  tile.template fill<kWarped>(mine, c0, count);
  float sums[kRows][kParts][4] = {};
#pragma unroll 1
  while (true) {
    correlate<T>(sums, address_of(tile.our_tile) + row * kTileWidth * bytes,
                 address_of(tile.their_tile) + (row + first_row) * kHaloWidth * bytes, bytes, round_up(count));
    __syncthreads();
    c0 += chunk;
    if (kWhole || c0 >= shape.channels) {
      break;
    }
    count = min(chunk, shape.channels - c0);
    tile.template fill<kWarped>(mine, c0, count);
  }

  const int result_pitch = width + kPack;
  tile.put_matches(sums, row, first_row, result_pitch);
  tile.template put_rest<kWarped>(prior, width, result_pitch);
  __syncthreads();
  tile.write(out, out_pitch, width, result_pitch);
#else
  __trap();  // the caller asks for compute capability 8.0
#endif
}

// ---------------------------------------------------------------- operators

template <typename T, bool kWarped>
void run(const Tensor& first, const Tensor& second, const Coarse& coarse, const Tensor& out, const Shape& shape,
         int64_t shared_memory) {
  const int width = int(out.size(1));
  const Launcher launcher(first);
  const int limit = shared_memory_limit(shared_memory);
  const Launch chosen = launch(shape.channels, width, limit);
  STD_TORCH_CHECK(chosen.bytes > 0, "an out of ", width, " channels needs more shared memory than the ", limit,
                  " bytes that a block may have");
  const auto kernel = kWarped && chosen.chunk >= shape.channels ? match<T, kWarped, kWarped> : match<T, kWarped, false>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel));
  const Frames<T> frames{static_cast<const T*>(first.const_data_ptr()), static_cast<const T*>(second.const_data_ptr()),
                         int(pitch_of("first", first, 16)), int(pitch_of("second", second, 16))};
  const dim3 grid = checked_grid({ceil_div(shape.width, kTileWidth), ceil_div(shape.height, kTileHeight),
                                  2 * int64_t(shape.batch)});
  kernel<<<grid, kThreads, chosen.bytes, launcher.stream()>>>(
      frames, coarse, static_cast<T*>(out.mutable_data_ptr()), int(pitch_of("out", out, 16)), width, chosen.chunk,
      shape);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Offsets into a map are 32 bits wide.
void check_offsets(const char* name, const Tensor& map, int64_t pitch) {
  STD_TORCH_CHECK(map.size(2) * map.size(3) * pitch < int64_t(1) << 31, name, " is too large: ",
                  text(shape_of(name, map)), " with pixels ", pitch, " elements apart");
}

template <bool kWarped>
void match_frames(const Tensor& first, const Tensor& second, const Coarse& coarse, const Tensor& out,
                  int64_t shared_memory) {
  const Shape shape = shape_of("first", first), found = shape_of("out", out);
  const ScalarType type = first.scalar_type();
  check("second", second, shape, type, first);
  check("out", out, {2 * shape.batch, found.channels, shape.height, shape.width}, type, first);
  const int needed = kMatches + (kWarped ? shape.channels + kPrior : 0);
  STD_TORCH_CHECK(found.channels >= needed && found.channels % kPack == 0, "out must have at least ", needed,
                  " channels, a multiple of 8, not ", found.channels);
  STD_TORCH_CHECK(type == ScalarType::Half || type == ScalarType::BFloat16,
                  "first must be float16 or bfloat16, not ", torch::headeronly::toString(type));
  {
    const Launcher launcher(first);
    require_tensor_cores("matching");
  }
  if (shape.numel() == 0) {
    return;
  }
  check_offsets("first", first, pitch_of("first", first, 16));
  check_offsets("second", second, pitch_of("second", second, 16));
  check_offsets("out", out, 1);
  type == ScalarType::Half ? run<__half, kWarped>(first, second, coarse, out, shape, shared_memory)
                           : run<__nv_bfloat16, kWarped>(first, second, coarse, out, shape, shared_memory);
}

// `shared_memory`: bytes that a block may have at most, 0 for as many as the device has.
void match_into(const Tensor& first, const Tensor& second, Tensor out, int64_t shared_memory) {
  match_frames<false>(first, second, {}, out, shared_memory);
}

void match_warped_into(const Tensor& first, const Tensor& second, const Tensor& coarse, const Tensor& weight,
                       const Tensor& bias, double scale, Tensor out, int64_t shared_memory) {
  const Shape shape = shape_of("first", first);
  STD_TORCH_CHECK(shape.height % 2 == 0 && shape.width % 2 == 0, "first must have even sides, not ", text(shape));
  check("coarse", coarse, {2 * shape.batch, 10, shape.height / 2, shape.width / 2}, ScalarType::Float, first);
  check("weight", weight, {4, 4, 2, 2}, ScalarType::Float, first);
  const auto* weights = vector_of<float4>("weight", weight, weight.numel(), ScalarType::Float, first);
  const auto* biases = vector_of<float2>("bias", bias, 2, ScalarType::Float, first);
  const int64_t pitch = coarse.numel() ? pitch_of("coarse", coarse, 8) : 0;
  check_offsets("coarse", coarse, pitch);
  match_frames<true>(first, second, {static_cast<const float*>(coarse.const_data_ptr()), int(pitch), weights, biases,
                                     float(scale)}, out, shared_memory);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("match_into", TORCH_BOX(&match_into));
  m.impl("match_warped_into", TORCH_BOX(&match_warped_into));
}

}  // namespace dain
