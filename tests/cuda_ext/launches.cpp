// What the kernels' launches are, for test_launches.py: the functions of cuda_ext/csrc/launch.h behind a C interface.
#include "launch.h"

using namespace dain;

namespace {

Layer layer_of(int height, int width, int groups, int outputs, int rows, int columns, int dilation) {
  return {1, height, width, groups, outputs, outputs, rows, columns, dilation, 0, 0, 0, 0.f};
}

struct Hopper {
  int bytes, plan;  // of a launch; rows, slices and tiles across, as one number
};

template <int out_bytes, int phases>
Hopper hopper_of(const Layer& layer, int processors, int limit) {
  Hopper found = {};
  hopper::with_plan<out_bytes, phases>(layer, processors, [&](auto plan) {
    using P = decltype(plan);
    found.bytes = hopper::launch<P>({layer.rows, layer.columns, phases}, limit).bytes;
    found.plan = 100 * P::kRows + 10 * P::kSlices + P::kAcross;
  });
  return found;
}

Hopper hopper_of(const Layer& layer, int phases, int out_bytes, int processors, int limit) {
  if (out_bytes == 4) {
    return hopper_of<4, 4>(layer, processors, limit);
  }
  return phases == 4 ? hopper_of<2, 4>(layer, processors, limit)
      : phases == 2  ? hopper_of<2, 2>(layer, processors, limit)
                     : hopper_of<2, 1>(layer, processors, limit);
}

}  // namespace

extern "C" {

// found: rows, pairs, stages, bytes.
void portable_launch(int height, int width, int groups, int outputs, int rows, int columns, int dilation, int limit,
                     int* found) {
  const auto chosen = portable::launch(layer_of(height, width, groups, outputs, rows, columns, dilation), limit);
  found[0] = chosen.rows, found[1] = chosen.pairs, found[2] = chosen.stages, found[3] = chosen.bytes;
}

// The bytes of a launch, 0 if there is none. `rows` counts groups of `phases` rows.
int hopper_bytes(int height, int width, int groups, int outputs, int rows, int columns, int dilation, int phases,
                 int out_bytes, int processors, int limit) {
  const Layer layer = layer_of(height, width, groups, outputs, rows, columns, dilation);
  return hopper_of(layer, phases, out_bytes, processors, limit).bytes;
}

int hopper_plan(int height, int width, int groups, int outputs, int rows, int columns, int dilation, int phases,
                int out_bytes, int processors) {
  const Layer layer = layer_of(height, width, groups, outputs, rows, columns, dilation);
  return hopper_of(layer, phases, out_bytes, processors, 0).plan;
}

int pointwise_bytes(int packs, int columns, int64_t pixels, int processors, int limit) {
  return pointwise::launch(packs, columns, pixels, processors, limit).bytes;
}

// found: chunk, bytes.
void matching_launch(int channels, int width, int limit, int* found) {
  const auto chosen = matching::launch(channels, width, limit);
  found[0] = chosen.chunk, found[1] = chosen.bytes;
}

}  // extern "C"
