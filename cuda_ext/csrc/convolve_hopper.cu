// The convolution of convolve.cu for compute capability 9.0, whose tensor cores read shared memory themselves.
//
// A block stays on its multiprocessor and takes one tile after another: 8 kBlocks x 8 kTeams pixels and kOutputs
// channels. One team of four warps fetches: a warp the weights, the others the tile and its halo, 64 bytes a pixel at a
// time. The other teams multiply, each 8 rows of pixels: one matrix product takes 8 x 8 pixels by all outputs, and the
// next tap of the kernel is the same pixels' memory one pixel further on, so a tile is fetched once for all taps.
#include "convolve.cuh"

#include <cuda_fp8.h>

#include <algorithm>

namespace dain {
namespace {

constexpr int kPlanes = 4;  // of a pixel's channels in shared memory at a time, 16 bytes each
constexpr int kSide = 8;    // pixels of a matrix product along either axis
constexpr int kTeam = 128;  // threads that issue a matrix product together
constexpr int kTileStages = 2;
constexpr int kWeightStages = 4;
constexpr int kSharedBytes = 227 * 1024;  // of a block

// The taps whose weights are fetched together, 16 KB or less.
template <int kOutputs, int kTeams>
constexpr int kTaps = (kTeams > 1 ? 256 : 128) / (kOutputs == 96 ? 128 : kOutputs);

struct Barriers {
  uint64_t tile_full[kTileStages], tile_empty[kTileStages];
  uint64_t weight_full[kWeightStages], weight_empty[kWeightStages];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// ---------------------------------------------------------------- barriers

__device__ void initialise(uint64_t& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_of(&barrier)), "r"(arrivals));
}

__device__ void arrive(uint64_t& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address_of(&barrier)) : "memory");
}

__device__ void release(uint64_t& barrier, int lane) {
  if (lane == 0) {
    arrive(barrier);
  }
}

__device__ void arrive_and_expect(uint64_t& barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address_of(&barrier)), "r"(bytes)
               : "memory");
}

// The loop is the assembler's: in C++ it would be a divergent one, around which products cannot stay in flight.
__device__ void wait(uint64_t& barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n}" ::"r"(address_of(&barrier)),
      "r"(parity)
      : "memory");
}

// Which of `stages` buffers is next, and how often they were all used.
template <int kStages>
struct Ring {
  int stage = 0, round = 0;

  __device__ int before() const {
    return (stage + kStages - 1) % kStages;
  }
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      round ^= 1;
    }
  }
};

// ---------------------------------------------------------------- matrix products

// A matrix in shared memory as blocks of 8 rows x 16 bytes: their distances along the columns and along the rows.
__device__ uint64_t matrix(uint32_t address, uint32_t along_columns, uint32_t along_rows) {
  return uint64_t(address >> 4) | uint64_t(along_columns >> 4) << 16 | uint64_t(along_rows >> 4) << 32;
}

#define LIST_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define LIST_16 LIST_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define LIST_32 LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LIST_48 LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LIST_64 LIST_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SUMS_8(i) SUMS_4(i), SUMS_4(i + 4)
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_48(i) SUMS_32(i), SUMS_16(i + 32)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)

#define ISSUE(shape, types, list, first, second, flags, ...)                                           \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned." shape "." types \
               " {" list "}, %" first ", %" second ", p, 1, 1" flags ";\n}"                            \
               : __VA_ARGS__                                                                           \
               : "l"(a), "l"(b))

#define MULTIPLY(outputs, list, first, second, ...)                                            \
  if constexpr (kOutputs == outputs) {                                                         \
    if constexpr (std::is_same_v<T, __half>) {                                                 \
      ISSUE("m64n" #outputs "k16", "f32.f16.f16", list, first, second, ", 0, 0", __VA_ARGS__);   \
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {                                   \
      ISSUE("m64n" #outputs "k16", "f32.bf16.bf16", list, first, second, ", 0, 0", __VA_ARGS__); \
    } else {                                                                                   \
      ISSUE("m64n" #outputs "k32", "f32.e4m3.e4m3", list, first, second, "", __VA_ARGS__);       \
    }                                                                                          \
  }

// Adds the product of 64 pixels x 32 bytes of channels with 32 bytes of channels x kOutputs.
template <typename T, int kOutputs>
__device__ void multiply(float (&sums)[kOutputs / 2], uint64_t a, uint64_t b) {
  MULTIPLY(16, LIST_8, "8", "9", SUMS_8(0))
  MULTIPLY(32, LIST_16, "16", "17", SUMS_16(0))
  MULTIPLY(64, LIST_32, "32", "33", SUMS_32(0))
  MULTIPLY(96, LIST_48, "48", "49", SUMS_48(0))
  MULTIPLY(128, LIST_64, "64", "65", SUMS_64(0))
}

__device__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `kPending` commits are unfinished.
template <int kPending>
__device__ void finish_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving what reads or writes sums across products that are under way.
template <int kBlocks, int kSums>
__device__ void hold(float (&sums)[kBlocks][kSums]) {
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      asm volatile("" : "+f"(sums[block][i])::"memory");
    }
  }
}

// ---------------------------------------------------------------- tiles

// The pixels and outputs that a block works on: batch, first output, first pixel.
template <int kOutputs, int kTeams, int kBlocks>
struct Tile {
  int n, output, x, y;

  __device__ Tile(int index, const Layer& layer) {
    const int slices = layer.outputs / kOutputs;
    output = index % slices * kOutputs;
    index /= slices;
    const int across = tiles_along(layer.width, kSide * kBlocks, layer.dilation);
    x = first_pixel(index % across, kSide * kBlocks, layer.dilation);
    index /= across;
    const int down = tiles_along(layer.height, kSide * kTeams, layer.dilation);
    y = first_pixel(index % down, kSide * kTeams, layer.dilation);
    n = index / down;
  }
};

// Copies 64 bytes of channels of the tile and its halo, by three warps; zeros outside the image.
template <typename T>
__device__ void fetch_tile(uint32_t target, const T* image, const Layer& layer, int planes, int left, int top,
                           int width, int height, int warp, int lane) {
  const int plane = lane / 8, plane_pixels = width * height;
  for (int row = warp; row < height; row += 3) {
    const int y = top + row * layer.dilation;
    const bool row_inside = y >= 0 && y < layer.height && plane < planes;
    const T* line = image + (row_inside ? int64_t(y) * layer.width * layer.in_pitch : 0);
    for (int column = lane % 8; column < width; column += 8) {
      const int x = left + column * layer.dilation;
      const bool inside = row_inside && x >= 0 && x < layer.width;
      const int64_t offset = inside ? x * layer.in_pitch + plane * (16 / int(sizeof(T))) : 0;
      copy_async(target + (plane * plane_pixels + row * width + column) * 16, line + offset, inside);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the tensor cores are to see it
  __syncwarp();
}

// ---------------------------------------------------------------- results

// Exchanges words within four lanes so that lane i then has word i of all four.
__device__ void transpose(uint32_t (&words)[4], int lane, uint32_t mask) {
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool upper = lane & distance;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k & distance) {
        continue;
      }
      const uint32_t sent = upper ? words[k] : words[k + distance];
      const uint32_t received = __shfl_xor_sync(mask, sent, distance);
      (upper ? words[k] : words[k + distance]) = received;
    }
  }
}

template <typename O>
__device__ uint32_t pack(float first, float second) {
  struct alignas(4) Two {
    O values[2];
  } two = {O(first), O(second)};
  return *reinterpret_cast<uint32_t*>(&two);
}

// One pixel's results: this lane's are the outputs 8 j + 2 (lane % 4) and the next, for every j.
template <typename O, int kOutputs>
__device__ void store(const float (&sums)[kOutputs / 2], int half, const Tensors& tensors, const Layer& layer,
                      int output, int64_t pixel, int lane) {
  const int mine = lane % 4 * 2;
  O* target = static_cast<O*>(tensors.out) + pixel * layer.out_pitch;
  const O* plus = static_cast<const O*>(tensors.plus) + pixel * layer.plus_pitch;
  const auto value = [&](int j, int k) {
    const int channel = output + 8 * j + mine + k;
    float result = sums[4 * j + 2 * half + k];
    result = (tensors.scale ? result * tensors.scale[channel] : result) + tensors.bias[channel];
    if (tensors.plus && channel < layer.channels) {
      result += float(plus[channel]);
    }
    return activate(result, layer.slope);
  };
  if constexpr (std::is_same_v<O, float>) {
#pragma unroll
    for (int j = 0; j < kOutputs / 8; ++j) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int channel = output + 8 * j + mine + k;
        if (channel < layer.channels) {
          target[channel] = value(j, k);
        }
      }
    }
  } else {
    constexpr int kWords = kOutputs % 32 ? 2 : 4;
    const uint32_t mask = 0xfu << (lane & 28);
#pragma unroll
    for (int j = 0; j < kOutputs / 8; j += kWords) {
      uint32_t words[4] = {};
#pragma unroll
      for (int k = 0; k < kWords; ++k) {
        words[k] = pack<O>(value(j + k, 0), value(j + k, 1));
      }
      transpose(words, lane, mask);
      const int channel = output + 8 * (j + lane % 4);
      if (lane % 4 < kWords && channel < layer.channels) {
        *reinterpret_cast<uint4*>(target + channel) = {words[0], words[1], words[2], words[3]};
      }
    }
  }
}

#endif

// ---------------------------------------------------------------- the kernel

// Weights: (chunks of 64 bytes of input channels, taps, kPlanes, layer.outputs, 16 bytes).
template <typename T, typename O, int kOutputs, int kTeams, int kBlocks>
__global__ void __launch_bounds__((kTeams + 1) * kTeam, kOutputs > 32 && kTeams > 1 ? 1 : 2)
    convolve(Tensors tensors, Layer layer, int tiles) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) char shared[];
  __shared__ Barriers barriers;
  // The compiler is to know that a team goes one way.
  const int team = __shfl_sync(~0u, threadIdx.x / kTeam, 0), warp = __shfl_sync(~0u, threadIdx.x / 32 % 4, 0);
  const int lane = threadIdx.x % 32;
  const int width = kSide * kBlocks + layer.columns - 1, height = kSide * kTeams + layer.rows - 1;
  const int plane_bytes = width * height * 16, tile_bytes = kPlanes * plane_bytes;
  constexpr int kStageTaps = kTaps<kOutputs, kTeams>;
  constexpr int kTapBytes = kPlanes * kOutputs * 16, kStageBytes = kStageTaps * kTapBytes;
  const uint32_t weights = address_of(shared), tile_memory = weights + kWeightStages * kStageBytes;
  const int taps = layer.rows * layer.columns;
  const int chunks = (2 * layer.groups + kPlanes - 1) / kPlanes;  // where the last has but half, the rest is zeros

  if (threadIdx.x == 0) {
    for (int i = 0; i < kTileStages; ++i) {
      initialise(barriers.tile_full[i], 3);
      initialise(barriers.tile_empty[i], 4 * kTeams);
    }
    for (int i = 0; i < kWeightStages; ++i) {
      initialise(barriers.weight_full[i], 1);
      initialise(barriers.weight_empty[i], 4 * kTeams);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();

  using Place = Tile<kOutputs, kTeams, kBlocks>;
  Ring<kTileStages> tile_ring;
  Ring<kWeightStages> weight_ring;
  if (team == kTeams && warp == 0) {
    const uint4* all = static_cast<const uint4*>(tensors.weight);
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Place place(index, layer);
      for (int tap = 0; tap < chunks * taps;) {
        const int count = min(kStageTaps, taps - tap % taps);
        uint64_t& full = barriers.weight_full[weight_ring.stage];
        wait(barriers.weight_empty[weight_ring.stage], weight_ring.round ^ 1);
        if (lane == 0) {
          arrive_and_expect(full, count * kTapBytes);
        }
        __syncwarp();
        for (int piece = lane; piece < count * kPlanes; piece += 32) {
          const uint4* source = all + (int64_t(tap) * kPlanes + piece) * layer.outputs + place.output;
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                  weights + weight_ring.stage * kStageBytes + piece * kOutputs * 16),
              "l"(source), "r"(kOutputs * 16), "r"(address_of(&full))
              : "memory");
        }
        weight_ring.advance();
        tap += count;
      }
    }
  } else if (team == kTeams) {
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Place place(index, layer);
      const T* image =
          static_cast<const T*>(tensors.input) + int64_t(place.n) * layer.height * layer.width * layer.in_pitch;
      for (int chunk = 0; chunk < chunks; ++chunk) {
        wait(barriers.tile_empty[tile_ring.stage], tile_ring.round ^ 1);
        fetch_tile(tile_memory + tile_ring.stage * tile_bytes, image + chunk * kPlanes * (16 / int(sizeof(T))), layer,
                   2 * layer.groups - chunk * kPlanes, place.x - layer.columns / 2 * layer.dilation,
                   place.y - layer.rows / 2 * layer.dilation, width, height, warp - 1, lane);
        if (lane == 0) {
          arrive(barriers.tile_full[tile_ring.stage]);
        }
        tile_ring.advance();
      }
    }
  } else {
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Place place(index, layer);
      float sums[kBlocks][kOutputs / 2] = {};
      hold(sums);
      for (int chunk = 0; chunk < chunks; ++chunk) {
        wait(barriers.tile_full[tile_ring.stage], tile_ring.round);
        const uint32_t tile = tile_memory + tile_ring.stage * tile_bytes + team * kSide * width * 16;
        int row = 0, column = 0;
        for (int tap = 0; tap < taps; ++tap) {
          const int part = tap % kStageTaps;
          if (part == 0) {
            wait(barriers.weight_full[weight_ring.stage], weight_ring.round);
          }
          const uint32_t pixels = tile + (row * width + column) * 16;
          const uint32_t weight = weights + weight_ring.stage * kStageBytes + part * kTapBytes;
          begin_products();
#pragma unroll
          for (int group = 0; group < kPlanes / 2; ++group) {
            const uint64_t b = matrix(weight + group * 2 * kOutputs * 16, kOutputs * 16, 128);
#pragma unroll
            for (int block = 0; block < kBlocks; ++block) {
              const uint32_t mine = pixels + 2 * group * plane_bytes + block * kSide * 16;
              multiply<T, kOutputs>(sums[block], matrix(mine, plane_bytes, width * 16), b);
            }
          }
          commit_products();
          // What came before the products just begun is done: its memory may be filled again.
          if (part == 0 && chunk + tap > 0) {
            finish_products<1>();
            release(barriers.weight_empty[weight_ring.before()], lane);
            if (tap == 0) {
              release(barriers.tile_empty[tile_ring.before()], lane);
            }
          }
          if (part == kStageTaps - 1 || tap == taps - 1) {
            weight_ring.advance();
          }
          if (++column == layer.columns) {
            column = 0;
            ++row;
          }
        }
        tile_ring.advance();
      }
      finish_products<0>();
      release(barriers.weight_empty[weight_ring.before()], lane);
      release(barriers.tile_empty[tile_ring.before()], lane);
      hold(sums);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int x = place.x + (kSide * block + lane / 4) * layer.dilation;
          const int y = place.y + (kSide * team + 2 * warp + half) * layer.dilation;
          if (x < layer.width && y < layer.height) {
            const int64_t pixel = (int64_t(place.n) * layer.height + y) * layer.width + x;
            store<O, kOutputs>(sums[block], half, tensors, layer, place.output, pixel, lane);
          }
        }
      }
    }
  }
#else
  __trap();  // the caller asks for compute capability 9.0
#endif
}

// ---------------------------------------------------------------- launching

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

template <int kTeams, int kBlocks>
int64_t tiles_of(const Layer& layer) {
  return int64_t(layer.batch) * tiles_along(layer.height, kSide * kTeams, layer.dilation) *
      tiles_along(layer.width, kSide * kBlocks, layer.dilation);
}

template <typename T, typename O, int kOutputs, int kTeams, int kBlocks>
void launch(cudaStream_t stream, const Tensors& tensors, const Layer& layer, int processors) {
  const auto kernel = convolve<T, O, kOutputs, kTeams, kBlocks>;
  const int pixels = (kSide * kBlocks + layer.columns - 1) * (kSide * kTeams + layer.rows - 1);
  const int bytes =
      kPlanes * 16 * (kTileStages * pixels + kWeightStages * kTaps<kOutputs, kTeams> * kOutputs);
  STD_TORCH_CHECK(bytes <= kSharedBytes, "a kernel of ", layer.rows, "x", layer.columns, " is too large");
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int64_t tiles = tiles_of<kTeams, kBlocks>(layer) * (layer.outputs / kOutputs);
  STD_TORCH_CHECK(tiles <= std::numeric_limits<int>::max(), "the tensors are too large for one launch: split the batch");
  const int resident = std::max(1, std::min(kTeams > 1 ? 2 : 6, kSharedBytes / (bytes + 1024)));
  const int blocks = int(std::min<int64_t>(tiles, int64_t(processors) * resident));
  kernel<<<blocks, (kTeams + 1) * kTeam, bytes, stream>>>(tensors, layer, int(tiles));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Large maps take tiles that use each weight often, small ones tiles that there are enough of for the whole GPU.
template <typename T, typename O>
void choose(cudaStream_t stream, const Tensors& tensors, const Layer& layer) {
  const int processors = attribute(cudaDevAttrMultiProcessorCount);
  const auto fits = [&](int outputs) { return layer.outputs % outputs == 0; };
  if (tiles_of<2, 2>(layer) * ceil_div(layer.outputs, 128) < processors) {
    const auto call = fits(32) ? launch<T, O, 32, 1, 1> : launch<T, O, 16, 1, 1>;
    return call(stream, tensors, layer, processors);
  }
  const auto call = fits(128) ? launch<T, O, 128, 2, 2>
      : fits(96)              ? launch<T, O, 96, 2, 2>
      : fits(64)              ? launch<T, O, 64, 2, 2>
      : fits(32)              ? launch<T, O, 32, 2, 2>
                              : launch<T, O, 16, 2, 2>;
  call(stream, tensors, layer, processors);
}

}  // namespace

void convolve_hopper(cudaStream_t stream, ScalarType input, ScalarType out, const Tensors& tensors,
                     const Layer& layer) {
  const bool wide = out == ScalarType::Float;
  if (input == ScalarType::Half) {
    wide ? choose<__half, float>(stream, tensors, layer) : choose<__half, __half>(stream, tensors, layer);
  } else if (input == ScalarType::BFloat16) {
    wide ? choose<__nv_bfloat16, float>(stream, tensors, layer)
         : choose<__nv_bfloat16, __nv_bfloat16>(stream, tensors, layer);
  } else {
    STD_TORCH_CHECK(input == ScalarType::Float8_e4m3fn && out == ScalarType::Half,
                    "input must be float16 or bfloat16, or float8_e4m3fn with an out of float16");
    choose<__nv_fp8_e4m3, __half>(stream, tensors, layer);
  }
}

}  // namespace dain
