// How the kernels with dynamic shared memory are launched: the tile, the stages and the bytes of a block, chosen by the
// limit of the device. This header is plain C++: the kernels include it, and a test compiles it where there is no GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__CUDACC__)
#define DAIN_HOST_DEVICE __host__ __device__
#else
#define DAIN_HOST_DEVICE
#endif

namespace dain {

// `limit` is always what a device lets a block have (cudaDevAttrMaxSharedMemoryPerBlockOptin): dynamic shared memory, and
// what some kernels declare beside it, which this covers.
constexpr int kDeclaredBytes = 1024;

// ---------------------------------------------------------------- convolutions

struct Layer {
  int batch, height, width;
  int groups;         // of input channels, 32 bytes each
  int outputs;        // of the weight; `channels` of them are written
  int channels;
  int rows, columns;  // of the kernel
  int dilation;
  int64_t in_pitch, plus_pitch, out_pitch;  // elements from pixel to pixel
  float slope;
};

// Pixels `dilation` apart never meet another's neighbours: a dilated convolution is `dilation`^2 plain ones, each on a
// lattice of its own. A tile lies in one lattice; `index` counts the lattices' tiles side by side.
DAIN_HOST_DEVICE inline int tiles_along(int length, int side, int dilation) {
  const int lattice = (length + dilation - 1) / dilation;
  return dilation * ((lattice + side - 1) / side);
}

DAIN_HOST_DEVICE inline int first_pixel(int index, int side, int dilation) {
  return index % dilation + index / dilation * side * dilation;
}

namespace portable {

constexpr int kGroup = 16;      // channels that one tensor-core instruction multiplies
constexpr int kChunk = 2;       // groups in shared memory at a time
constexpr int kTileWidth = 16;  // pixels of one instruction, side by side
constexpr int kWarps = 4;
constexpr int kPitch = kChunk * kGroup * 2 + 16;  // bytes a pixel in shared memory: 8 neighbours then hit all banks

// A warp takes `rows` rows of 16 pixels and `pairs` times 16 outputs. Of two stages, one is filled while the other is
// multiplied.
struct Launch {
  int rows, pairs, stages;
  int bytes;  // 0 if no launch stays within the limit
};

inline int bytes_of_stage(const Layer& layer, int rows) {
  return (kTileWidth + layer.columns - 1) * (kWarps * rows + layer.rows - 1) * kPitch;
}

// Large maps take tiles that use each weight often, small maps tiles that there are enough of for the whole GPU. Within
// the limit, a large tile in one stage is better than a small tile in two: the taps of a large kernel take many times
// longer to multiply than the tile takes to arrive.
inline Launch launch(const Layer& layer, int limit) {
  constexpr int kEnoughBlocks = 256, kMostRows = 4;
  const int64_t blocks = int64_t(layer.batch) * tiles_along(layer.width, kTileWidth, layer.dilation) *
      tiles_along(layer.height, kWarps * kMostRows, layer.dilation);
  const int pairs = layer.outputs / kGroup, most_stages = layer.groups > kChunk ? 2 : 1;
  const bool large = blocks >= kEnoughBlocks;
  for (const int rows : {kMostRows, 1}) {
    for (int stages = most_stages; stages > 0 && (large || rows == 1); --stages) {
      const int bytes = stages * bytes_of_stage(layer, rows);
      if (bytes <= limit) {
        return {rows, pairs % 2 ? 1 : rows > 1 && pairs % 4 == 0 ? 4 : 2, stages, bytes};
      }
    }
  }
  return {};
}

}  // namespace portable

namespace hopper {

constexpr int kTeam = 128;   // threads that issue a product together
constexpr int kPlanes = 4;   // of a pixel's channels in shared memory at a time, 16 bytes each
constexpr int kSide = 8;     // pixels of a product side by side
constexpr int kMatrix = 64;  // rows of weights of a product
constexpr int kMaxTileStages = 4;
constexpr int kWeightStages = 4;

// How a block divides its work. `out_bytes`: of an element of the result.
template <int out_bytes, int phases, int rows, int slices, int across>
struct Plan {
  static constexpr int kPhases = phases, kRows = rows, kSlices = slices, kAcross = across;
  static constexpr int kTeams = kSlices * kAcross;
  static constexpr int kOutputs = kMatrix / kPhases;        // of a team
  static constexpr int kValidRows = kRows - (kPhases - 1);  // that no phase lacks
  static constexpr int kWidth = kSide * kAcross;            // pixels of a tile
  static constexpr int kTapBytes = kPlanes * kSlices * kMatrix * 16;
  static constexpr int kStageTaps = 2;  // whose weights are fetched together
  static constexpr int kStageBytes = kStageTaps * kTapBytes;
  static constexpr int kStoredRows = kRows < 16 ? kRows : 16;  // at a time
  static constexpr int kStoredPitch = kOutputs * out_bytes + 16;
  static constexpr int kStoredBytes = kStoredRows * kSide * kStoredPitch;  // of a team
  static constexpr int kFixedBytes = kWeightStages * kStageBytes + kTeams * kStoredBytes;
  static constexpr int kThreads = (kTeams + 1) * kTeam;
  static constexpr int kResident = kRows > 8 ? 1 : 3;  // blocks on a multiprocessor, if its memory allows
};

// A layer's kernel as the products see it: `groups` times kPhases taps one below the other. Zeros fill it up above and
// below so that its middle stays where `reach` says.
struct Taps {
  int groups, columns, phases;

  DAIN_HOST_DEVICE int count() const {
    return groups * columns;
  }
  DAIN_HOST_DEVICE int reach() const {
    return phases == 1 ? groups / 2 : groups * phases / 2 - 1;
  }
  DAIN_HOST_DEVICE int tile_width(int pixels) const {
    return pixels + columns - 1;
  }
  DAIN_HOST_DEVICE int tile_height(int rows) const {
    return rows + phases * (groups - 1);
  }
};

template <typename P>
int64_t tiles_of(const Layer& layer) {
  return int64_t(layer.batch) * tiles_along(layer.height, P::kValidRows, layer.dilation) *
      tiles_along(layer.width, P::kWidth, layer.dilation) * (layer.outputs * P::kPhases / (P::kSlices * kMatrix));
}

// Calls `body` with the plan of a layer. Large maps take large tiles, which use each weight often, small maps tiles that
// there are enough of for the whole GPU.
template <int out_bytes, int phases, typename Body>
void with_plan(const Layer& layer, int processors, Body body) {
  using Small = Plan<out_bytes, phases, 8, 1, 1>;
  using Wide = Plan<out_bytes, phases, 32, 1, 2>;
  if constexpr (phases == 1) {
    using Deep = Plan<out_bytes, phases, 32, 2, 1>;
    if (layer.outputs % (2 * kMatrix) == 0 && tiles_of<Deep>(layer) >= processors) {
      return body(Deep());
    }
  }
  tiles_of<Wide>(layer) < processors ? body(Small()) : body(Wide());
}

// `resident` blocks fit onto a multiprocessor, each with so many stages of tiles.
struct Launch {
  int resident, stages;
  int bytes;  // 0 if no launch stays within the limit
};

template <typename P>
Launch launch(const Taps& taps, int limit) {
  const int tile_bytes = kPlanes * 16 * taps.tile_width(P::kWidth) * taps.tile_height(P::kRows);
  for (int resident = P::kResident; resident > 0; --resident) {
    const int room = limit / resident - kDeclaredBytes - P::kFixedBytes;
    const int stages = std::min(kMaxTileStages, room / tile_bytes);
    if (stages >= 2) {
      return {resident, stages, P::kFixedBytes + stages * tile_bytes};
    }
  }
  return {};
}

}  // namespace hopper

namespace pointwise {

constexpr int kRows = 64;   // pixels of a product
constexpr int kChunk = 16;  // packs of a pixel in shared memory at a time
constexpr int kStages = 3;  // such chunks of a team
constexpr int kMostTeams = 3;
constexpr int kPlane = kRows * 16 + 16;  // bytes of one pack of all pixels; 8 of them then hit all banks
constexpr int kTeamBytes = kStages * kChunk * kPlane;

struct Launch {
  int teams;
  int bytes;  // 0 if no launch stays within the limit
};

// For `packs` of 16 bytes of input channels, `columns` outputs and so many pixels.
inline Launch launch(int packs, int columns, int64_t pixels, int processors, int limit) {
  const int fixed = columns * int(sizeof(float)) + packs * columns * 16;
  const int most = std::min(kMostTeams, (limit - fixed) / kTeamBytes);
  if (most < 1) {
    return {};
  }
  const int64_t tiles = (pixels + kRows - 1) / kRows;
  const int teams = int(std::min<int64_t>(most, (tiles + processors - 1) / processors));
  return {teams, fixed + teams * kTeamBytes};
}

}  // namespace pointwise

// ---------------------------------------------------------------- matching

namespace matching {

constexpr int kReach = 4;  // displacement, each way
constexpr int kTileWidth = 16, kTileHeight = 4;
constexpr int kHaloWidth = kTileWidth + 2 * kReach, kHaloHeight = kTileHeight + 2 * kReach;
constexpr int kOurs = kTileWidth * kTileHeight, kTheirs = kHaloWidth * kHaloHeight;
constexpr int kPack = 8;    // channels in 16 bytes
constexpr int kGroup = 16;  // channels that one tensor-core instruction multiplies
constexpr int kElementBytes = 2;

DAIN_HOST_DEVICE constexpr int round_up(int channels) {
  return (channels + kGroup - 1) / kGroup * kGroup;
}

struct Launch {
  int chunk;  // channels that are in shared memory at a time
  int bytes;  // 0 if no launch stays within the limit
};

// For maps of so many channels, and results of `width` channels, which are put together where the maps were.
inline Launch launch(int channels, int width, int limit) {
  limit -= kDeclaredBytes;
  const int room = (limit / ((kOurs + kTheirs) * kElementBytes) - kPack) / kGroup * kGroup;
  const int chunk = std::min(round_up(channels), room);
  const int ours = kOurs * (chunk + kPack), theirs = kTheirs * (chunk + kPack), result = kOurs * (width + kPack);
  const int bytes = (ours + std::max(theirs, result)) * kElementBytes;
  return chunk > 0 && bytes <= limit ? Launch{chunk, bytes} : Launch{};
}

}  // namespace matching

}  // namespace dain
