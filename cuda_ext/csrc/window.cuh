// The geometry of adaptive warping: a 4x4 kernel a pixel, placed by the flow, its quadrants weighted bilinearly.
#pragma once

#include "common.cuh"

namespace dain {

// Where the 4x4 window of one output pixel lies, and how the flow's fraction weighs its quadrants. Tap (j, i) is
// number 4j + i, in the quadrant (j / 2, i / 2). A pixel that is not warped is one tap of weight 1 on itself.
template <typename A>
struct Window {
  bool warped;
  int left, top;   // of the four pixels around the position, or the pixel itself
  A across, down;  // the position's fraction

  __device__ int column(int i, int width) const {
    return warped ? min(max(left - 1 + i, 0), width - 1) : left;
  }
  __device__ int row(int j, int height) const {
    return warped ? min(max(top - 1 + j, 0), height - 1) : top;
  }
  __device__ A share_across(int right) const {
    return right ? across : 1 - across;
  }
  __device__ A share_down(int bottom) const {
    return bottom ? down : 1 - down;
  }
  __device__ A share(int tap) const {
    return share_down(tap / 8) * share_across(tap % 4 / 2);
  }
  __device__ A weight(int tap, A kernel) const {
    return warped ? share(tap) * kernel : A(tap == 0);
  }
};

template <typename A>
__device__ Window<A> window_of(int x, int y, A flow_x, A flow_y, const Shape& shape) {
  const A to_x = A(x) + flow_x, to_y = A(y) + flow_y;
  const A width = A(shape.width), height = A(shape.height);
  // False for NaN as well.
  const bool warped = to_x >= 0 && to_y >= 0 && to_x <= width - 1 && to_y <= height - 1 &&
      fabs(flow_x) < width / 2 && fabs(flow_y) < height / 2;
  const int left = warped ? int(to_x) : x, top = warped ? int(to_y) : y;
  return {warped, left, top, to_x - A(left), to_y - A(top)};
}

template <typename A>
__device__ Window<A> window_at(const View<const A>& flow, int n, int y, int x, const Shape& shape) {
  return window_of(x, y, *flow.at(n, 0, y, x), *flow.at(n, 1, y, x), shape);
}

}  // namespace dain
