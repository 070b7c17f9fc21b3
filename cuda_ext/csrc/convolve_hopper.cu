// The convolution of convolve.cu for compute capability 9.0, whose tensor cores read shared memory themselves.
//
// One matrix product is 64 rows of weights by 8 x kRows pixels. The pixels lie in shared memory so that the next tap of
// the kernel is the same matrix some bytes further on: a tile is fetched once for all taps. Where a layer has fewer than
// 64 outputs, the rows are kPhases taps of each, one below the other: what they give belongs to pixels as far apart, and
// is added up when the tile is done.
//
// A block stays on its multiprocessor and takes one tile after another. One team of four warps fetches: a warp the
// weights, the others the tile and its halo, 64 bytes of channels at a time. The other teams multiply, each with other
// outputs (kSlices) or other pixels (kAcross) than its neighbour.
#include "convolve.cuh"
#include "hopper.cuh"

namespace dain {
namespace {

using namespace hopper;

constexpr int kFetchers = 96;  // threads that fetch tiles

struct Barriers {
  uint64_t tile_full[kMaxTileStages], tile_empty[kMaxTileStages];
  uint64_t weight_full[kWeightStages], weight_empty[kWeightStages];
};
static_assert(sizeof(Barriers) <= kDeclaredBytes, "the launch leaves room for them");

// What results are in shared memory: stmatrix transposes 16 bits, so eight bits come to be on the way from there.
template <typename O>
using Stored = std::conditional_t<std::is_same_v<O, __nv_fp8_e4m3>, __half, O>;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

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

// Buffers in turn, and whether they were all used an odd number of times.
struct Ring {
  int stages, stage = 0, round = 0;

  __device__ explicit Ring(int stages) : stages(stages) {}
  __device__ int before() const {
    return (stage + stages - 1) % stages;
  }
  __device__ void advance() {
    if (++stage == stages) {
      stage = 0;
      round ^= 1;
    }
  }
};

// ---------------------------------------------------------------- tiles

// The part of the result that a block works on: batch, first row of weights, first pixel.
template <typename P>
struct Tile {
  int n, row, x, y;

  __device__ Tile(int index, const Layer& layer) {
    const int slices = layer.outputs * P::kPhases / (P::kSlices * kMatrix);
    row = index % slices * P::kSlices * kMatrix;
    index /= slices;
    const int across = tiles_along(layer.width, P::kWidth, layer.dilation);
    x = first_pixel(index % across, P::kWidth, layer.dilation);
    index /= across;
    const int down = tiles_along(layer.height, P::kValidRows, layer.dilation);
    y = first_pixel(index % down, P::kValidRows, layer.dilation);
    n = index / down;
  }
};

// Starts to copy 64 bytes of channels of a tile and its halo, by three warps; zeros outside the image.
template <typename T>
__device__ void fetch_tile(uint32_t target, const T* image, const Layer& layer, int planes, int left, int top,
                           int width, int height, int warp, int lane) {
  const int plane = lane / 8, plane_pixels = width * height;
  for (int row = warp; row < height; row += kFetchers / 32) {
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
}

// ---------------------------------------------------------------- results

template <typename O, int kCount>
struct alignas(sizeof(O) * kCount) Several {
  O values[kCount];
};

template <typename O>
__device__ uint32_t pack(float first, float second) {
  struct alignas(4) Two {
    O values[2];
  } two = {O(first), O(second)};
  return *reinterpret_cast<uint32_t*>(&two);
}

// Four matrices of 8 outputs x 8 pixels, transposed: each of 8 lanes names where the 8 outputs of a pixel go.
__device__ void store_transposed(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// One team's results. A lane has the rows lane / 4 and that plus 8 of its warp's 16, at pixels 2 (lane % 4) and the
// next of every row. The 16 rows are kPhases times 16 / kPhases outputs: phases lie in one lane, or (of four) the odd
// ones 16 lanes on. They go to shared memory, and from there whole pixels to their place.
template <typename P, typename O>
struct Results {
  using S = Stored<O>;
  const Tensors& tensors;
  const Layer& layer;
  char* stored;
  int team, warp, lane;

  // The sum of the phases at row i, pixel 2 (lane % 4) + c; of one phase, of the k-th row of weights.
  __device__ float sum(const float (&sums)[4 * P::kRows], int i, int c, int k) const {
    const auto at = [&](int row, int second) { return row < P::kRows ? sums[4 * row + 2 * second + c] : 0.f; };
    if constexpr (P::kPhases == 1) {
      return at(i, k);
    } else if constexpr (P::kPhases == 2) {
      return at(i, 0) + at(i + 1, 1);
    } else {
      const float odd = __shfl_down_sync(~0u, at(i + 1, 0) + at(i + 3, 1), 16);
      return at(i, 0) + at(i + 2, 1) + odd;
    }
  }

  // Rows `first` to `first` + kStoredRows of the tile, scaled and with their bias, to shared memory; activated, too, if
  // nothing is to be added first.
  __device__ void keep(const float (&sums)[4 * P::kRows], int first, int output) const {
    constexpr int kOwn = 16 / P::kPhases;  // outputs of a warp
    constexpr int kLines = P::kPhases == 1 ? 2 : 1;
    const int mine = warp * kOwn + lane / 4 % kOwn;
    float scale[kLines], bias[kLines];
#pragma unroll
    for (int k = 0; k < kLines; ++k) {
      const int channel = output + mine + 8 * k;
      scale[k] = tensors.scale ? tensors.scale[channel] : 1.f;
      bias[k] = tensors.bias[channel];
    }
    const float slope = tensors.plus ? 1.f : layer.slope;
    const auto value = [&](int i, int c, int k) {
      return activate(sum(sums, first + i, c, k) * scale[k] + bias[k], slope);
    };
    if constexpr (P::kPhases == 4) {
#pragma unroll
      for (int i = 0; i < P::kStoredRows; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float result = value(i, c, 0);
          if (lane < 16) {
            char* pixel = stored + (i * kSide + lane % 4 * 2 + c) * P::kStoredPitch;
            reinterpret_cast<S*>(pixel)[mine] = S(result);
          }
        }
      }
    } else {
      constexpr int kTogether = 4 / kLines;  // rows of one store
      const int matrix = lane / 8, pixel = lane % 8;
      const uint32_t to = address_of(stored) + (matrix / kLines * kSide + pixel) * P::kStoredPitch +
          (warp * kOwn + matrix % kLines * 8) * int(sizeof(S));
#pragma unroll
      for (int i = 0; i < P::kStoredRows; i += kTogether) {
        uint32_t words[4];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          words[m] = pack<S>(value(i + m / kLines, 0, m % kLines), value(i + m / kLines, 1, m % kLines));
        }
        store_transposed(to + i * kSide * P::kStoredPitch, words);
      }
    }
  }

  // From shared memory to their place, 16 bytes (or a float) at a time, with what is to be added. That may be what is
  // overwritten, so the compiler would not read ahead by itself. A lane keeps to one column of pixels.
  __device__ void put(const Tile<P>& tile, int first, int output) const {
    constexpr int kVector = sizeof(S) == 2 ? 8 : 1, kVectors = P::kOutputs / kVector;
    constexpr int kRowsAtOnce = kTeam / kVectors / kSide;
    constexpr int kItems = P::kStoredRows / kRowsAtOnce, kBatch = kItems < 4 ? kItems : 4;
    using Vector = Several<O, kVector>;
    const int thread = warp * 32 + lane, part = thread % kVectors * kVector, pixel = thread / kVectors;
    const int x = tile.x + (team / P::kSlices * kSide + pixel % kSide) * layer.dilation;
    const int row = first + pixel / kSide, y = tile.y + row * layer.dilation;
    if (x >= layer.width || output + part >= layer.channels) {
      return;
    }
    const int step = kRowsAtOnce * layer.dilation;
    const int rows = min((layer.height - y + step - 1) / step, (P::kValidRows - row + kRowsAtOnce - 1) / kRowsAtOnce);
    const int64_t place = (int64_t(tile.n) * layer.height + y) * layer.width + x;
    O* target = static_cast<O*>(tensors.out) + place * layer.out_pitch + output + part;
    const O* plus = static_cast<const O*>(tensors.plus) + place * layer.plus_pitch + output + part;
    const char* from = stored + pixel * P::kStoredPitch + part * int(sizeof(S));
    const int64_t to_next = int64_t(step) * layer.width;
#pragma unroll
    for (int item = 0; item < kItems; item += kBatch) {
      Vector added[kBatch] = {};
      if (tensors.plus) {
#pragma unroll
        for (int k = item; k < item + kBatch; ++k) {
          if (k < rows) {
            added[k - item] = *reinterpret_cast<const Vector*>(plus + k * to_next * layer.plus_pitch);
          }
        }
      }
#pragma unroll
      for (int k = item; k < item + kBatch; ++k) {
        if (k < rows) {
          const auto sums = *reinterpret_cast<const Several<S, kVector>*>(
              from + k * kRowsAtOnce * kSide * P::kStoredPitch);
          Vector values;
          if constexpr (std::is_same_v<O, S>) {
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
              values.values[i] = sums.values[i];
              if (tensors.plus) {
                const float value = float(sums.values[i]) + float(added[k - item].values[i]);
                values.values[i] = O(activate(value, layer.slope));
              }
            }
          } else {
            // Eight bits in pairs, for each of which a conversion is one instruction.
            const auto* halves = reinterpret_cast<const __half2*>(sums.values);
            const auto* more = reinterpret_cast<const __nv_fp8x2_e4m3*>(added[k - item].values);
#pragma unroll
            for (int i = 0; i < kVector / 2; ++i) {
              float2 value = __half22float2(halves[i]);
              if (tensors.plus) {
                const float2 other = float2(more[i]);
                value.x = activate(value.x + other.x, layer.slope);
                value.y = activate(value.y + other.y, layer.slope);
              }
              round_pair(value.x, value.y, &values.values[2 * i]);
            }
          }
          *reinterpret_cast<Vector*>(target + k * to_next * layer.out_pitch) = values;
        }
      }
    }
  }

  __device__ void store(const float (&sums)[4 * P::kRows], const Tile<P>& tile) const {
    const int output = (tile.row / kMatrix + team % P::kSlices) * P::kOutputs;
#pragma unroll
    for (int first = 0; first < P::kRows; first += P::kStoredRows) {
      synchronise_team(team);
      keep(sums, first, output);
      synchronise_team(team);
      put(tile, first, output);
    }
  }
};

// ---------------------------------------------------------------- roles

// What every thread of a block knows. In shared memory: weights, results, then the stages of tiles.
template <typename T, typename O, typename P>
struct Block {
  const Tensors& tensors;
  const Layer& layer;
  const Taps& taps;
  Barriers& barriers;
  char* shared;
  int tiles, tile_stages, team, warp, lane;

  __device__ int width() const {
    return taps.tile_width(P::kWidth);
  }
  __device__ int height() const {
    return taps.tile_height(P::kRows);
  }
  __device__ int plane_bytes() const {
    return width() * height() * 16;
  }
  __device__ uint32_t tile_memory(int stage) const {
    return address_of(shared) + P::kFixedBytes + stage * kPlanes * plane_bytes();
  }
  // Chunks have 64 bytes of input channels. Where the last chunk has but half, the rest is zeros.
  __device__ int chunks() const {
    return (2 * layer.groups + kPlanes - 1) / kPlanes;
  }

  __device__ void fetch_weights() const {
    constexpr int kPieceBytes = P::kTapBytes / kPlanes;
    const uint4* all = static_cast<const uint4*>(tensors.weight);
    const int rows = layer.outputs * P::kPhases;
    Ring ring(kWeightStages);
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Tile<P> tile(index, layer);
      for (int tap = 0; tap < chunks() * taps.count();) {
        const int count = min(P::kStageTaps, taps.count() - tap % taps.count());
        uint64_t& full = barriers.weight_full[ring.stage];
        wait(barriers.weight_empty[ring.stage], ring.round ^ 1);
        if (lane == 0) {
          arrive_and_expect(full, count * P::kTapBytes);
        }
        __syncwarp();
        for (int piece = lane; piece < count * kPlanes; piece += 32) {
          const uint4* source = all + (int64_t(tap) * kPlanes + piece) * rows + tile.row;
          const uint32_t target = address_of(shared) + ring.stage * P::kStageBytes + piece * kPieceBytes;
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
              "l"(source), "r"(kPieceBytes), "r"(address_of(&full))
              : "memory");
        }
        ring.advance();
        tap += count;
      }
    }
  }

  __device__ void fetch_tiles() const {
    const int above = taps.reach() * layer.dilation, before = taps.columns / 2 * layer.dilation;
    Ring ring(tile_stages);
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const Tile<P> tile(index, layer);
      const T* image =
          static_cast<const T*>(tensors.input) + int64_t(tile.n) * layer.height * layer.width * layer.in_pitch;
      for (int chunk = 0; chunk < chunks(); ++chunk) {
        wait(barriers.tile_empty[ring.stage], ring.round ^ 1);
        fetch_tile(tile_memory(ring.stage), image + chunk * kPlanes * (16 / int(sizeof(T))), layer,
                   2 * layer.groups - chunk * kPlanes, tile.x - before, tile.y - above, width(), height(), warp - 1,
                   lane);
        // Arrives when this thread's copies have.
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                         address_of(&barriers.tile_full[ring.stage]))
                     : "memory");
        ring.advance();
      }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
  }

  __device__ void multiply_tiles() const {
    char* stored = shared + kWeightStages * P::kStageBytes + team * P::kStoredBytes;
    const Results<P, O> results{tensors, layer, stored, team, warp, lane};
    Ring tile_ring(tile_stages), weight_ring(kWeightStages);
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      float sums[4 * P::kRows] = {};
      hold(sums);
      for (int chunk = 0; chunk < chunks(); ++chunk) {
        wait(barriers.tile_full[tile_ring.stage], tile_ring.round);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the tensor cores are to see what was copied
        int group = 0, column = 0;
        for (int tap = 0; tap < taps.count(); ++tap) {
          const int part = tap % P::kStageTaps;
          if (part == 0) {
            wait(barriers.weight_full[weight_ring.stage], weight_ring.round);
          }
          multiply_tap(sums, weight_ring.stage * P::kStageBytes + part * P::kTapBytes,
                       tile_memory(tile_ring.stage) + (group * P::kPhases * width() + column) * 16);
          // What came before the products just begun is done: its memory may be filled again.
          if (part == 0 && chunk + tap > 0) {
            finish_products<1>();
            release(barriers.weight_empty[weight_ring.before()], lane);
            if (tap == 0) {
              release(barriers.tile_empty[tile_ring.before()], lane);
            }
          }
          if (part == P::kStageTaps - 1 || tap == taps.count() - 1) {
            weight_ring.advance();
          }
          if (++column == taps.columns) {
            column = 0;
            ++group;
          }
        }
        tile_ring.advance();
      }
      finish_products<0>();
      release(barriers.weight_empty[weight_ring.before()], lane);
      release(barriers.tile_empty[tile_ring.before()], lane);
      hold(sums);
      results.store(sums, Tile<P>(index, layer));
    }
  }

  // Starts to add the products of one tap, whose weights and first pixel lie there.
  __device__ void multiply_tap(float (&sums)[4 * P::kRows], int weight_offset, uint32_t pixels) const {
    constexpr int kPieceBytes = P::kTapBytes / kPlanes;
    const uint32_t rows = address_of(shared) + weight_offset + team % P::kSlices * kMatrix * 16;
    const uint32_t seen = pixels + team / P::kSlices * kSide * 16;
    begin_products();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t a = matrix(rows + half * 2 * kPieceBytes, kPieceBytes, 128);
      multiply<T, kSide * P::kRows>(sums, a, matrix(seen + half * 2 * plane_bytes(), plane_bytes(), width() * 16), true);
    }
    commit_products();
  }
};

template <typename P>
__device__ void initialise(Barriers& barriers, int tile_stages) {
  for (int i = 0; i < tile_stages; ++i) {
    initialise(barriers.tile_full[i], kFetchers);
    initialise(barriers.tile_empty[i], 4 * P::kTeams);
  }
  for (int i = 0; i < kWeightStages; ++i) {
    initialise(barriers.weight_full[i], 1);
    initialise(barriers.weight_empty[i], 4 * P::kTeams);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif

// Weights: (chunks of 64 bytes of input channels, taps, kPlanes, rows, 16 bytes).
template <typename T, typename O, typename P>
__global__ void __launch_bounds__(P::kThreads, P::kResident)
    convolve(Tensors tensors, Layer layer, Taps taps, int tiles, int tile_stages) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) char shared[];
  __shared__ Barriers barriers;
  // The compiler is to know that a team goes one way.
  const int team = __shfl_sync(~0u, threadIdx.x / kTeam, 0), warp = __shfl_sync(~0u, threadIdx.x / 32 % 4, 0);
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    initialise<P>(barriers, tile_stages);
  }
  __syncthreads();

  const Block<T, O, P> block{tensors, layer, taps, barriers, shared, tiles, tile_stages, team, warp, lane};
  // Who fetches leaves registers to who multiplies.
  if (team == P::kTeams) {
    if constexpr (P::kTeams == 2) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    }
    warp == 0 ? block.fetch_weights() : block.fetch_tiles();
  } else {
    if constexpr (P::kTeams == 2) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    }
    block.multiply_tiles();
  }
#else
  __trap();  // the caller asks for compute capability 9.0
#endif
}

// ---------------------------------------------------------------- launching

template <typename T, typename O, typename P>
void run(cudaStream_t stream, const Tensors& tensors, const Layer& layer, const Taps& taps, int processors, int limit) {
  const Launch chosen = launch<P>(taps, limit);
  STD_TORCH_CHECK(chosen.bytes > 0, "a kernel of ", layer.rows * taps.phases, "x", layer.columns,
                  " needs more shared memory than the ", limit, " bytes that a block may have");
  const auto kernel = convolve<T, O, P>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel));
  const int64_t tiles = tiles_of<P>(layer);
  STD_TORCH_CHECK(tiles <= std::numeric_limits<int>::max(), kTooLarge);
  const int blocks = int(std::min<int64_t>(tiles, int64_t(processors) * chosen.resident));
  kernel<<<blocks, P::kThreads, chosen.bytes, stream>>>(tensors, layer, taps, int(tiles), chosen.stages);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename O, int kPhases>
void choose(cudaStream_t stream, const Tensors& tensors, const Layer& layer, const Taps& taps, int limit) {
  const int processors = count_processors();
  with_plan<sizeof(Stored<O>), kPhases>(layer, processors, [&](auto plan) {
    run<T, O, decltype(plan)>(stream, tensors, layer, taps, processors, limit);
  });
}

template <typename T, typename O>
void choose(cudaStream_t stream, const Tensors& tensors, const Layer& layer, const Taps& taps, int limit) {
  if (taps.phases == 4) {
    choose<T, O, 4>(stream, tensors, layer, taps, limit);
  } else if constexpr (std::is_same_v<O, float>) {
    STD_TORCH_CHECK(false, "an out of float32 has at most 16 channels");
  } else if (taps.phases == 2) {
    choose<T, O, 2>(stream, tensors, layer, taps, limit);
  } else {
    choose<T, O, 1>(stream, tensors, layer, taps, limit);
  }
}

}  // namespace

void convolve_hopper(cudaStream_t stream, ScalarType input, ScalarType out, const Tensors& tensors, const Layer& layer,
                     int phases, int limit) {
  const Taps taps{layer.rows, layer.columns, phases};
  const auto call = [&](auto from, auto to) {
    choose<decltype(from), decltype(to)>(stream, tensors, layer, taps, limit);
  };
  const bool wide = out == ScalarType::Float, eight = out == ScalarType::Float8_e4m3fn;
  if (input == ScalarType::BFloat16) {
    wide ? call(__nv_bfloat16(), float()) : call(__nv_bfloat16(), __nv_bfloat16());
  } else if (input == ScalarType::Half) {
    wide ? call(__half(), float()) : eight ? call(__half(), __nv_fp8_e4m3()) : call(__half(), __half());
  } else {
    wide ? call(__nv_fp8_e4m3(), float())
         : eight ? call(__nv_fp8_e4m3(), __nv_fp8_e4m3()) : call(__nv_fp8_e4m3(), __half());
  }
}

}  // namespace dain
