// Convolution between channel slices of channels-last tensors, with bias and leaky ReLU: for the narrow layers, where
// cuDNN leaves the tensor cores idle and each slice must be a tensor of its own. Inference only; float16, bfloat16.
//
// An implicit matrix product: a block takes 16 x (4 kRows) pixels and 16 kPairs output channels; a warp takes kRows
// rows of 16 pixels. The input's tile and its halo lie in shared memory, 32 channels at a time; where there is room for
// two stages, the next 32 are on their way meanwhile. The weights come from the L1 cache, already in the order in which
// the tensor cores want them.
#include "convolve.cuh"

namespace dain {
namespace {

using namespace portable;

constexpr int kPack = 8;  // channels in 16 bytes

#if __CUDA_ARCH__ >= 800

__device__ void load_matrix(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

template <typename T>
__device__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Starts the copy of one chunk of channels of the tile and its halo, with zeros outside the image.
template <typename T>
__device__ void load_tile(uint32_t tile, const T* image, const Layer& layer, int groups, int left, int top,
                          int tile_width, int tile_height) {
  // A warp takes whole rows, and packs of a pixel are 2 or 4: no division tells an item's place.
  const int packs = groups * kGroup / kPack, lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < tile_height; row += kWarps) {
    const int y = top + row * layer.dilation;
    const bool row_inside = y >= 0 && y < layer.height;
    const T* line = image + (row_inside ? int64_t(y) * layer.width * layer.in_pitch : 0);
    const uint32_t target = tile + row * tile_width * kPitch;
    for (int item = lane; item < tile_width * packs; item += 32) {
      const int pixel = item >> groups, pack = item & (packs - 1);
      const int x = left + pixel * layer.dilation;
      const bool inside = row_inside && x >= 0 && x < layer.width;
      const int64_t offset = (inside ? x * layer.in_pitch : 0) + pack * kPack;
      copy_async(target + pixel * kPitch + pack * 16, line + offset, inside);
    }
  }
  asm volatile("cp.async.commit_group;");
}

template <typename O>
__device__ void store(O* target, float first, float second, int channel, int channels) {
  if constexpr (std::is_same_v<O, float>) {
    if (channel < channels) {
      target[0] = first;
    }
    if (channel + 1 < channels) {
      target[1] = second;
    }
  } else if (channel < channels) {
    struct alignas(4) Two {
      O values[2];
    };
    *reinterpret_cast<Two*>(target) = {O(first), O(second)};
  }
}

#endif

// Weights: (groups, taps, pairs of 8 outputs, 32 lanes, 2 x 2 x 2 elements). blockIdx.z: batch and outputs. `stages`: of
// tiles in shared memory, 1 or 2.
template <typename T, typename O, int kRows, int kPairs>
__global__ void __launch_bounds__(kWarps * 32, kPairs == 1 ? 6 : 2) convolve(Tensors tensors, Layer layer, int stages) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ uint4 shared[];
  const int pairs = layer.outputs / kGroup, slices = pairs / kPairs;
  const int n = blockIdx.z / slices, pair = blockIdx.z % slices * kPairs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tile_width = kTileWidth + layer.columns - 1, tile_height = kWarps * kRows + layer.rows - 1;
  const int x0 = first_pixel(blockIdx.x, kTileWidth, layer.dilation);
  const int y0 = first_pixel(blockIdx.y, kWarps * kRows, layer.dilation);
  const int left = x0 - layer.columns / 2 * layer.dilation, top = y0 - layer.rows / 2 * layer.dilation;
  const T* image =
      static_cast<const T*>(tensors.input) + int64_t(n) * layer.height * layer.width * layer.in_pitch;

  const uint32_t tiles = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t stage_bytes = tile_width * tile_height * kPitch;
  // Where this lane reads the 16 pixels of its warp's first row: pixel lane % 16, channels 8 (lane / 16) and on.
  const uint32_t mine = (warp * kRows * tile_width + lane % 16) * kPitch + lane / 16 * 16;

  float sums[kRows][kPairs][2][4] = {};
  const int64_t step = int64_t(pairs) * 32;  // from tap to tap
  const uint4* next = static_cast<const uint4*>(tensors.weight) + int64_t(pair) * 32 + lane;
  const uint4* last = next + (int64_t(layer.groups) * layer.rows * layer.columns - 1) * step;
  uint4 coming[kPairs];
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    coming[p] = __ldg(next + p * 32);
  }

  const int chunks = (layer.groups + kChunk - 1) / kChunk;
  const auto load_chunk = [&](int chunk) {
    load_tile(tiles + chunk % stages * stage_bytes, image + chunk * kChunk * kGroup, layer,
              min(kChunk, layer.groups - chunk * kChunk), left, top, tile_width, tile_height);
  };
  load_chunk(0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (stages > 1 && chunk + 1 < chunks) {
      load_chunk(chunk + 1);
      asm volatile("cp.async.wait_group 1;");
    } else {
      asm volatile("cp.async.wait_group 0;");
    }
    __syncthreads();
    const uint32_t stage = tiles + chunk % stages * stage_bytes + mine;
    const int groups = min(kChunk, layer.groups - chunk * kChunk);
    for (int group = 0; group < groups; ++group) {
      for (int ky = 0; ky < layer.rows; ++ky) {
        uint32_t address = stage + ky * tile_width * kPitch + group * kGroup * 2;
        for (int kx = 0; kx < layer.columns; ++kx, address += kPitch) {
          uint4 now[kPairs];
          next = next < last ? next + step : last;
#pragma unroll
          for (int p = 0; p < kPairs; ++p) {
            now[p] = coming[p];
            coming[p] = __ldg(next + p * 32);
          }
          uint32_t a[kRows][4];
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            load_matrix(a[r], address + r * tile_width * kPitch);
          }
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int p = 0; p < kPairs; ++p) {
              multiply<T>(sums[r][p][0], a[r], now[p].x, now[p].y);
              multiply<T>(sums[r][p][1], a[r], now[p].z, now[p].w);
            }
          }
        }
      }
    }
    __syncthreads();
    if (stages == 1 && chunk + 1 < chunks) {
      load_chunk(chunk + 1);
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int y = y0 + (warp * kRows + r) * layer.dilation;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int x = x0 + (lane / 4 + half * 8) * layer.dilation;
      if (x >= layer.width || y >= layer.height) {
        continue;
      }
      const int64_t pixel = (int64_t(n) * layer.height + y) * layer.width + x;
      O* target = static_cast<O*>(tensors.out) + pixel * layer.out_pitch;
      const O* plus = static_cast<const O*>(tensors.plus) + pixel * layer.plus_pitch;
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int channel = (pair + p) * 16 + side * 8 + lane % 4 * 2;
          float values[2];
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            float value = sums[r][p][side][2 * half + k] + tensors.bias[channel + k];
            if (tensors.plus && channel + k < layer.channels) {
              value += float(plus[channel + k]);
            }
            values[k] = activate(value, layer.slope);
          }
          store(target + channel, values[0], values[1], channel, layer.channels);
        }
      }
    }
  }
#else
  __trap();  // the caller asks for compute capability 8.0
#endif
}

template <typename T, typename O, int kRows, int kPairs>
void run(cudaStream_t stream, const Tensors& tensors, const Layer& layer, const Launch& chosen) {
  const auto kernel = convolve<T, O, kRows, kPairs>;
  allow_shared_memory(reinterpret_cast<const void*>(kernel));
  const dim3 grid = checked_grid({tiles_along(layer.width, kTileWidth, layer.dilation),
                                  tiles_along(layer.height, kWarps * kRows, layer.dilation),
                                  int64_t(layer.batch) * (layer.outputs / kGroup / kPairs)});
  kernel<<<grid, kWarps * 32, chosen.bytes, stream>>>(tensors, layer, chosen.stages);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename O>
void choose(cudaStream_t stream, const Tensors& tensors, const Layer& layer, int limit) {
  const Launch chosen = launch(layer, limit);
  STD_TORCH_CHECK(chosen.bytes > 0, "a kernel of ", layer.rows, "x", layer.columns,
                  " needs more shared memory than the ", limit, " bytes that a block may have");
  if (chosen.rows == 1) {
    const auto call = chosen.pairs == 1 ? run<T, O, 1, 1> : run<T, O, 1, 2>;
    return call(stream, tensors, layer, chosen);
  }
  const auto call = chosen.pairs == 1 ? run<T, O, 4, 1> : chosen.pairs == 2 ? run<T, O, 4, 2> : run<T, O, 4, 4>;
  call(stream, tensors, layer, chosen);
}

// ---------------------------------------------------------------- the operator

bool is_eight_bits(ScalarType type) {
  return type == ScalarType::Float8_e4m3fn;
}

bool is_hopper() {
  return attribute_of_device(cudaDevAttrComputeCapabilityMajor) == 9 &&
      attribute_of_device(cudaDevAttrComputeCapabilityMinor) == 0;
}

// Raises unless the last dimensions of a packed weight are these.
void check_packing(const Tensor& weight, std::initializer_list<int64_t> last) {
  int64_t dim = weight.dim() - int64_t(last.size());
  for (const int64_t size : last) {
    STD_TORCH_CHECK(weight.size(dim++) == size, "weight must be packed: pass what pack_weight made of it");
  }
}

// `weight` is packed as `reference.pack_weight` says: with eight dimensions for compute capability 9.0, else with nine.
// `shared_memory`: bytes that a block may have at most, 0 for as many as the device has.
void convolve_into(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& scale, const Tensor& bias,
                   const std::optional<Tensor>& plus, int64_t dilation, double slope, Tensor out,
                   int64_t shared_memory) {
  const Shape from = shape_of("input", input), to = shape_of("out", out);
  const ScalarType type = input.scalar_type();
  const bool hopper = weight.dim() == 8, wide_out = out.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(type == ScalarType::Half || type == ScalarType::BFloat16 || (hopper && is_eight_bits(type)),
                  "input must be float16 or bfloat16, or float8_e4m3fn with a weight packed for compute capability "
                  "9.0, not ", torch::headeronly::toString(type));
  STD_TORCH_CHECK(hopper || weight.dim() == 9, "weight must be packed: pass what pack_weight made of it");
  const int per_pack = 16 / int(input.element_size()), per_group = 2 * per_pack;
  const int outputs = int(hopper ? weight.size(4) * weight.size(6) : weight.size(3) * kGroup);
  const int phases = hopper ? int(weight.size(5)) : 1;
  const int groups = from.channels / per_group, rows = int(weight.size(1)), columns = int(weight.size(2));
  if (hopper) {
    STD_TORCH_CHECK(phases == 1 || phases == 2 || phases == 4,
                    "weight must be packed: pass what pack_weight made of it");
    check_packing(weight, {4, weight.size(4), phases, 16 / phases, per_pack});
    STD_TORCH_CHECK(outputs * phases % 64 == 0, "weight must be packed: pass what pack_weight made of it");
  } else {
    check_packing(weight, {8, 4, 2, 2, 2});
  }
  const void* weights = vector_of<char>("weight", weight, weight.numel(), type, input, 16);
  const auto* biases = vector_of<float>("bias", bias, outputs, ScalarType::Float, input);
  const float* scales = scale ? vector_of<float>("scale", *scale, outputs, ScalarType::Float, input) : nullptr;
  STD_TORCH_CHECK(hopper || !scale, "scale needs a weight packed for compute capability 9.0");
  check("input", input, {to.batch, groups * per_group, to.height, to.width}, type, out);
  STD_TORCH_CHECK(groups > 0 && weight.size(0) == (hopper ? (groups + 1) / 2 : groups), "input has ", from.channels,
                  " channels, the weight another number");
  const bool to_half = is_eight_bits(type) && out.scalar_type() == ScalarType::Half;
  const bool to_eight = is_eight_bits(out.scalar_type()) && hopper && type == ScalarType::Half;
  STD_TORCH_CHECK(out.scalar_type() == type || wide_out || to_half || to_eight,
                  "out must be float32 or of the dtype of input, or, with a weight packed for compute capability 9.0, "
                  "be float8_e4m3fn for float16 or the reverse, not ",
                  torch::headeronly::toString(out.scalar_type()));
  STD_TORCH_CHECK(to.channels <= outputs && (wide_out || to.channels % 8 == 0), "out has ", to.channels,
                  " channels, the weight ", outputs);
  STD_TORCH_CHECK(rows >= 1 && columns >= 1 && (phases > 1 || rows % 2 == 1) && columns % 2 == 1 &&
                      rows * phases <= 12 && columns <= 11,
                  "a kernel has odd sides of up to 11, not ", rows * phases, "x", columns);
  STD_TORCH_CHECK(dilation >= 1 && dilation <= 64, "a dilation is between 1 and 64, not ", dilation);
  const int alignment = wide_out ? 4 : 16;  // floats are written one by one, all else in vectors
  if (plus) {
    check("plus", *plus, to, out.scalar_type(), out);
  }
  const Launcher launcher(input);
  require_tensor_cores("convolve_into");
  STD_TORCH_CHECK(!hopper || is_hopper(),
                  "weight is packed for compute capability 9.0: pack it again on the GPU that it is for");
  if (to.numel() == 0) {
    return;
  }
  const int64_t in_pitch = pitch_of("input", input, 16), out_pitch = pitch_of("out", out, alignment);
  const int64_t plus_pitch = plus ? pitch_of("plus", *plus, alignment) : 0;
  const Layer layer{to.batch, to.height, to.width, groups, outputs, to.channels, rows, columns, int(dilation),
                    in_pitch, plus_pitch, out_pitch, float(slope)};
  const Tensors tensors{input.const_data_ptr(), weights, scales, biases, plus ? plus->const_data_ptr() : nullptr,
                        out.mutable_data_ptr()};
  const auto stream = launcher.stream();
  const int limit = shared_memory_limit(shared_memory);
  if (hopper && phases == 1 && !wide_out && convolve_pointwise(stream, type, out.scalar_type(), tensors, layer, limit)) {
    return;
  }
  if (hopper) {
    convolve_hopper(stream, type, out.scalar_type(), tensors, layer, phases, limit);
  } else if (type == ScalarType::Half) {
    wide_out ? choose<__half, float>(stream, tensors, layer, limit)
             : choose<__half, __half>(stream, tensors, layer, limit);
  } else {
    wide_out ? choose<__nv_bfloat16, float>(stream, tensors, layer, limit)
             : choose<__nv_bfloat16, __nv_bfloat16>(stream, tensors, layer, limit);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dain, CUDA, m) {
  m.impl("convolve_into", TORCH_BOX(&convolve_into));
}

}  // namespace dain
