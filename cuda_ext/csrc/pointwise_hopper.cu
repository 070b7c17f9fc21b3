// Convolutions of 1 x 1 for compute capability 9.0: memory is what they wait for. The whole weight stays in shared
// memory; each team of four warps takes 64 pixels after another, whose next channels are on their way meanwhile.
#include "convolve.cuh"
#include "hopper.cuh"

namespace dain {
namespace {

using namespace pointwise;

struct Pixels {
  int64_t count;
  int packs, channels;  // in and out
  int64_t in_pitch, out_pitch;
  float slope;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Starts to copy a chunk of a tile's channels.
template <typename T>
__device__ void fetch(uint32_t target, const T* input, const Pixels& pixels, int64_t first, int chunk, int thread) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int plane = half * 8 + thread % 8, pack = chunk * kChunk + plane;
#pragma unroll
    for (int row = thread / 8; row < kRows; row += kTeam / 8) {
      const bool inside = pack < pixels.packs && first + row < pixels.count;
      copy_async(target + plane * kPlane + row * 16,
                 input + (inside ? (first + row) * pixels.in_pitch + pack * (16 / int(sizeof(T))) : 0), inside);
    }
  }
}

template <typename O, int kColumns>
__device__ void store(const float (&sums)[kColumns / 2], const float* scale, const float* bias, O* out,
                      const Pixels& pixels, int64_t first, int thread) {
  struct alignas(kPack * sizeof(O)) Pack {
    O values[kPack];
  };
  const int row = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int part = 0; part < kColumns / 32; ++part) {
    const int channel = part * 32 + thread % 4 * kPack;
    if (channel >= pixels.channels) {
      continue;
    }
    float scales[kPack], biases[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      scales[k] = scale ? __ldg(scale + channel + k) : 1.f;
      biases[k] = bias[channel + k];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pack pack;
#pragma unroll
      for (int k = 0; k < kPack; k += 2) {
        const float* pair = &sums[part * 16 + k * 2 + half * 2];
        round_pair(activate(pair[0] * scales[k] + biases[k], pixels.slope),
                   activate(pair[1] * scales[k + 1] + biases[k + 1], pixels.slope), &pack.values[k]);
      }
      const int64_t pixel = first + row + half * 8;
      if (pixel < pixels.count) {
        *reinterpret_cast<Pack*>(out + pixel * pixels.out_pitch + channel) = pack;
      }
    }
  }
}

#endif

// Weights: (packs of input channels, kColumns outputs, 16 bytes).
template <typename T, typename O, int kColumns>
__global__ void __launch_bounds__(kMostTeams* kTeam, 1)
    multiply_pixels(const T* input, const uint4* weight, const float* scale, const float* bias, O* out, Pixels pixels) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) char shared[];
  // The compiler is to know that a team goes one way.
  const int team = __shfl_sync(~0u, threadIdx.x / kTeam, 0), thread = threadIdx.x % kTeam;
  const int teams = blockDim.x / kTeam, chunks = (pixels.packs + kChunk - 1) / kChunk;
  float* biases = reinterpret_cast<float*>(shared);
  const uint32_t weights = address_of(shared) + kColumns * int(sizeof(float));
  const uint32_t mine = weights + pixels.packs * kColumns * 16 + team * kTeamBytes;

  for (int i = threadIdx.x; i < pixels.packs * kColumns; i += blockDim.x) {
    copy_async(weights + i * 16, weight + i / kColumns * kColumns + channel_of(i % kColumns), true);
  }
  for (int i = threadIdx.x; i < kColumns; i += blockDim.x) {
    biases[i] = bias[i];
  }
  commit_copies();

  // Chunks of this team's tiles, one after another: the one to be fetched, two ahead of the one to be multiplied.
  const int64_t step = int64_t(gridDim.x) * teams * kRows;
  int64_t coming = (int64_t(blockIdx.x) * teams + team) * kRows;
  int coming_chunk = 0, stage = 0;
  const auto fetch_next = [&](int stage) {
    if (coming < pixels.count) {
      fetch(mine + stage * kChunk * kPlane, input, pixels, coming, coming_chunk, thread);
    }
    commit_copies();
    if (++coming_chunk == chunks) {
      coming_chunk = 0;
      coming += step;
    }
  };
  const int64_t start = coming;
  fetch_next(0);
  fetch_next(1);
  finish_copies<2>();  // all but the last two: the weights
  __syncthreads();

  for (int64_t first = start; first < pixels.count; first += step) {
    float sums[kColumns / 2];
    for (int chunk = 0; chunk < chunks; ++chunk) {
      finish_copies<1>();
      synchronise_team(team);  // and all have multiplied what the next fetch overwrites
      fetch_next((stage + 2) % kStages);
      const uint32_t a = mine + stage * kChunk * kPlane, b = weights + chunk * kChunk * kColumns * 16;
      const int groups = min(kChunk, pixels.packs - chunk * kChunk) / 2;
      hold(sums);
      begin_products();
#pragma unroll 1
      for (int group = 0; group < groups; ++group) {
        multiply<T, kColumns>(sums, matrix(a + group * 2 * kPlane, kPlane, 128),
                              matrix(b + group * 2 * kColumns * 16, kColumns * 16, 128), chunk + group > 0);
      }
      commit_products();
      finish_products<0>();
      hold(sums);
      stage = (stage + 1) % kStages;
    }
    store<O, kColumns>(sums, scale, biases, out, pixels, first, thread);
  }
#else
  __trap();  // the caller asks for compute capability 9.0
#endif
}

template <typename T, typename O, int kColumns>
bool run(cudaStream_t stream, const Tensors& tensors, const Pixels& pixels, int limit) {
  const int processors = count_processors();
  const Launch chosen = launch(pixels.packs, kColumns, pixels.count, processors, limit);
  if (chosen.bytes == 0) {
    return false;
  }
  const auto kernel = multiply_pixels<T, O, kColumns>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel));
  const int64_t tiles = ceil_div(pixels.count, kRows);
  const int blocks = int(std::min<int64_t>(ceil_div(tiles, chosen.teams), processors));
  kernel<<<blocks, chosen.teams * kTeam, chosen.bytes, stream>>>(
      static_cast<const T*>(tensors.input), static_cast<const uint4*>(tensors.weight), tensors.scale, tensors.bias,
      static_cast<O*>(tensors.out), pixels);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return true;
}

template <typename T, typename O>
bool choose(cudaStream_t stream, const Tensors& tensors, const Pixels& pixels, int outputs, int limit) {
  switch (outputs) {
    case 64:
      return run<T, O, 64>(stream, tensors, pixels, limit);
    case 128:
      return run<T, O, 128>(stream, tensors, pixels, limit);
    case 192:
      return run<T, O, 192>(stream, tensors, pixels, limit);
    case 256:
      return run<T, O, 256>(stream, tensors, pixels, limit);
    default:
      return false;
  }
}

}  // namespace

bool convolve_pointwise(cudaStream_t stream, ScalarType input, ScalarType out, const Tensors& tensors,
                        const Layer& layer, int limit) {
  const Pixels pixels{int64_t(layer.batch) * layer.height * layer.width, 2 * layer.groups, layer.channels,
                      layer.in_pitch, layer.out_pitch, layer.slope};
  if (layer.rows * layer.columns > 1 || tensors.plus) {
    return false;
  }
  const auto call = [&](auto from, auto to) {
    return choose<decltype(from), decltype(to)>(stream, tensors, pixels, layer.outputs, limit);
  };
  if (input == ScalarType::Float8_e4m3fn) {
    return out == input ? call(__nv_fp8_e4m3(), __nv_fp8_e4m3()) : call(__nv_fp8_e4m3(), __half());
  }
  if (input != out) {
    return false;
  }
  return input == ScalarType::Half ? call(__half(), __half()) : call(__nv_bfloat16(), __nv_bfloat16());
}

}  // namespace dain
