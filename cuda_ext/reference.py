"""The operators in plain PyTorch. A CPU runs them, and tests compare the CUDA kernels with them.

`cuda_ext.ops` documents the operators and their conventions, and checks their arguments. Gradients are written out,
because the kernel of an operator runs below autograd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: The largest displacement of the correlation in each direction, in pixels.
DISPLACEMENT = 4
#: The side of the square tiles of pixels. The correlations of a tile are one matrix product.
_TILE = 8
#: The pixels that are warped at a time. What is known of the taps takes 30 times the memory of a picture.
_BAND = 2**18


def coordinate_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of coordinates and sums: float32, or float64 for a float64 tensor."""
    return torch.promote_types(tensor.dtype, torch.float32)


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Return channels-last if `tensor` is channels-last and not contiguous, else contiguous."""
    if not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _like(result: Tensor, tensor: Tensor) -> Tensor:
    """Return `result` with the dtype and the strides of `tensor`, which has the same shape."""
    return torch.empty_like(tensor).copy_(result)


def wanted(results: Sequence[Tensor], flags: Sequence[bool]) -> tuple[Tensor, ...]:
    """Return `results`, with empty tensors where the flag is False: an operator always returns as many tensors."""
    return tuple(x if flag else x.new_empty((0, 0, 0, 0)) for x, flag in zip(results, flags, strict=True))


# ---------------------------------------------------------------- correlation


def _pad_displaced(features: Tensor) -> Tensor:
    return F.pad(features, (DISPLACEMENT,) * 4)


def _displacements(height: int, width: int) -> list[tuple[slice, slice]]:
    """Return for each channel of the correlation the rows and columns of the padded map that it compares with."""
    size = 2 * DISPLACEMENT + 1
    return [(slice(y, y + height), slice(x, x + width)) for y in range(size) for x in range(size)]


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Multiply the pixels of a tile with all pixels that any of them is compared with, and keep the needed products."""
    (n, channels, h, w), wide = first.shape, coordinate_dtype(first)
    size, side = 2 * DISPLACEMENT + 1, _TILE + 2 * DISPLACEMENT
    whole = (0, -w % _TILE, 0, -h % _TILE)
    left = F.pad(first.to(wide) / channels, whole).permute(0, 2, 3, 1)
    right = _pad_displaced(F.pad(second.to(wide), whole)).permute(0, 2, 3, 1)
    tiles = left.unfold(1, _TILE, _TILE).unfold(2, _TILE, _TILE)  # (n, rows, columns, channels, 8, 8)
    windows = right.unfold(1, side, _TILE).unfold(2, side, _TILE)  # (n, rows, columns, channels, 16, 16)
    products = tiles.flatten(4).mT @ windows.flatten(4)
    # Each of the 64 rows is a pixel (y, x). The strides select its products at (y + dy, x + dx) of the window.
    rows, columns = tiles.shape[1:3]
    pixel, line = side * side, columns * _TILE**2 * side * side
    band = products.as_strided(
        (n, rows, _TILE, columns, _TILE, size, size),
        (rows * line, line, _TILE * pixel + side, _TILE**2 * pixel, pixel + 1, side, 1),
    )
    out = band.reshape(n, rows * _TILE, columns * _TILE, size * size)[:, :h, :w].permute(0, 3, 1, 2)
    return out.to(first.dtype).contiguous(memory_format=memory_format(first))


def correlation_backward(grad: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    _, channels, h, w = first.shape
    wide = coordinate_dtype(first)
    scaled, left, padded = grad.to(wide) / channels, first.to(wide), _pad_displaced(second.to(wide))
    grad_first, grad_padded = torch.zeros_like(left), torch.zeros_like(padded)
    for channel, (rows, columns) in enumerate(_displacements(h, w)):
        weight = scaled[:, channel, None]
        grad_first.addcmul_(weight, padded[..., rows, columns])
        grad_padded[..., rows, columns].addcmul_(weight, left)
    inner = slice(DISPLACEMENT, -DISPLACEMENT)
    return _like(grad_first, first), _like(grad_padded[..., inner, inner], second)


# ---------------------------------------------------------------- flow projection


def _positions(flow: Tensor, top: int = 0) -> tuple[Tensor, Tensor]:
    """Return the end of the flow of each pixel: x and y, (N, H, W) each, in pixels. The first row is row `top`."""
    _, _, h, w = flow.shape
    x = torch.arange(w, dtype=flow.dtype, device=flow.device)
    y = torch.arange(top, top + h, dtype=flow.dtype, device=flow.device)
    return x + flow[:, 0], y[:, None] + flow[:, 1]


def _inside(x: Tensor, y: Tensor) -> Tensor:
    """Return whether positions lie inside the frame; False for NaN."""
    h, w = x.shape[-2:]
    return (x >= 0) & (y >= 0) & (x <= w - 1) & (y <= h - 1)


def _projection_corners(flow: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the four targets of each pixel as indices into N*H*W, (N*H*W,) each, and whether it has any, (N*H*W, 1).

    At the right and lower border targets coincide, and such a pixel counts twice or four times.
    """
    n, _, h, w = flow.shape
    x, y = _positions(flow)
    valid = _inside(x, y)
    # NaN, and coordinates that are too large for an integer, must not be converted.
    left = torch.where(valid, x, 0).long()
    top = torch.where(valid, y, 0).long()
    right, bottom = (left + 1).clamp(max=w - 1), (top + 1).clamp(max=h - 1)
    start = torch.arange(n, device=flow.device)[:, None, None] * h
    lines = ((start + row) * w for row in (top, bottom))
    corners = [(line + column).flatten() for line in lines for column in (left, right)]
    return corners, valid.view(-1, 1)


def _pixels(tensor: Tensor) -> Tensor:
    """Return a tensor (N, C, H, W) as rows of pixels, (N*H*W, C)."""
    return tensor.permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows of pixels as (N, C, H, W), with N, H and W of `like`: the inverse of `_pixels`, as a view."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, rows.shape[1]).permute(0, 3, 1, 2)


def _splat(flow: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean flow of each target (0 without a value) and its total weight, as rows of pixels."""
    corners, valid = _projection_corners(flow)
    mass = _pixels(weight)
    # A multiplication by 0 would keep NaN.
    handed = torch.where(valid, torch.cat((-mass * _pixels(flow), mass), 1), 0)
    got = torch.zeros_like(handed)
    for corner in corners:
        got.index_add_(0, corner, handed)
    total, count = got[:, :2], got[:, 2:]
    return torch.where(count > 0, total / count, 0), count


def _nearest(known: Tensor, line: Tensor, place: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Find the nearest known places in lines: first those at or before a place, then those at or after it.

    Args:
        known: (lines, length), bool.
        line, place: the line of each place, and its position in the line.

    Returns:
        For each direction the positions in the line, and whether they exist.
    """
    length = known.shape[1]
    start = line * length
    indices = F.pad(known.flatten().nonzero().flatten(), (1, 1), value=-1)
    after = torch.searchsorted(indices[1:-1], start + place)
    before = torch.searchsorted(indices[1:-1], start + place, right=True)
    for found in (indices[before] - start, indices[1:][after] - start):
        there = (found >= 0) & (found < length)
        yield torch.where(there, found, 0), there


def _fill_holes(flow: Tensor, count: Tensor) -> None:
    """Fill each hole in place with the mean of the nearest flows above, below, to the left and to the right."""
    n, _, h, w = flow.shape
    known = count[:, 0] != 0
    batch, y, x = (~(count[:, 0] > 0)).nonzero(as_tuple=True)
    total, found = flow.new_zeros((len(x), 2)), flow.new_zeros((len(x), 1))
    above_below = _nearest(known.mT.reshape(n * w, h), batch * w + x, y)
    left_right = _nearest(known.view(n * h, w), batch * h + y, x)
    targets = [(row, x, there) for row, there in above_below]
    targets += [(y, column, there) for column, there in left_right]
    for row, column, there in targets:
        usable = there[:, None] & (count[batch, :, row, column] > 0)
        total += torch.where(usable, flow[batch, :, row, column], 0)
        found += usable
    flow[batch, :, y, x] = total / found.clamp(min=1)


def flow_projection(flow: Tensor, weight: Tensor, fill_holes: bool) -> Tensor:
    mean, count = (_image(rows, flow) for rows in _splat(flow, weight))
    if fill_holes:
        _fill_holes(mean, count)
    return mean.contiguous()


def flow_projection_backward(grad: Tensor, flow: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `flow_projection`.

    For a target, out = sum(-w f) / den with den = sum(w). So d out / d f = -w / den and d out / d w = -(f + out) / den.
    """
    mean, count = _splat(flow, weight)
    share = torch.where(count > 0, _pixels(grad) / count, 0)
    corners, valid = _projection_corners(flow)
    rows, mass = _pixels(flow), _pixels(weight)
    grad_flow, grad_weight = torch.zeros_like(rows), torch.zeros_like(mass)
    for corner in corners:
        grad_flow -= share[corner] * mass
        grad_weight -= ((rows + mean[corner]) * share[corner]).sum(1, keepdim=True)
    return (
        _like(_image(torch.where(valid, grad_flow, 0), flow), flow),
        _like(_image(torch.where(valid, grad_weight, 0), weight), weight),
    )


# ---------------------------------------------------------------- adaptive warp


class _Window:
    """The 16 taps of every pixel in some rows: their indices and their bilinear weights.

    Args:
        flow: (N, 2, H, W), in pixels.
        rows: the R rows; None is all.

    Attributes:
        index: the indices of the taps among the pixels of the batch, (N*R*W, 16), int32. All are the pixel itself if it
            is copied without a warp.
        valid: (N*R*W,), bool; False for a pixel that is copied without a warp.
        right, down: the fractions of the flow, (N*R*W,), in [0, 1).
    """

    def __init__(self, flow: Tensor, rows: range | None = None) -> None:
        n, _, h, w = flow.shape
        rows = range(h) if rows is None else rows
        part = flow[:, :, rows.start : rows.stop]
        x, y = _positions(part, rows.start)
        inside = (x >= 0) & (y >= 0) & (x <= w - 1) & (y <= h - 1)
        valid = inside & (part[:, 0].abs() < w / 2) & (part[:, 1].abs() < h / 2)
        self.valid = valid.flatten()
        x, y = torch.where(valid, x, 0).flatten(), torch.where(valid, y, 0).flatten()
        left, top = x.int(), y.int()
        self.right, self.down = x - left, y - top

        own = torch.arange(n * h * w, dtype=torch.int32, device=flow.device).view(n, h, w)
        own = own[:, rows.start : rows.stop].flatten()
        tap = torch.arange(-1, 3, dtype=torch.int32, device=flow.device)
        above = own.div(h * w, rounding_mode="floor") * h
        self.index = ((above + top) * w + left)[:, None] + (tap[:, None] * w + tap).flatten()
        # Only a few windows reach over the border. To clamp all of them would take longer than the warp.
        border = ((left < 1) | (left + 2 >= w) | (top < 1) | (top + 2 >= h)).nonzero()
        lines = above[border] + (top[border] + tap).clamp(0, h - 1)
        columns = (left[border] + tap).clamp(0, w - 1)
        self.index[border[:, 0]] = (lines[:, :, None] * w + columns[:, None, :]).flatten(1)
        self.index[~self.valid] = own[~self.valid, None]

    def _of_taps(self, *quadrants: Tensor) -> Tensor:
        """Repeat values of the quadrants, (N*H*W,) each and row by row, for each tap: (N*H*W, 16)."""
        spread = torch.eye(4, dtype=quadrants[0].dtype, device=quadrants[0].device)
        spread = spread.view(4, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return torch.stack(quadrants).T @ spread.flatten(1)

    def share(self) -> Tensor:
        """Return the bilinear weight of the quadrant of each tap, (N*H*W, 16)."""
        a, b = self.right, self.down
        return self._of_taps((1 - b) * (1 - a), (1 - b) * a, b * (1 - a), b * a)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Return the derivatives of `share` by x and by y of the flow."""
        a, b = self.right, self.down
        return self._of_taps(b - 1, 1 - b, -b, b), self._of_taps(a - 1, -a, 1 - a, a)

    def weights(self, kernel: Tensor) -> Tensor:
        """Return the weight of each tap, (N*H*W, 16). A pixel that is copied has one tap of weight 1."""
        weights = self.share().mul_(_pixels(kernel))
        weights[~self.valid] = torch.eye(1, 16, dtype=weights.dtype, device=weights.device)
        return weights


def adaptive_warp(image: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    out = torch.empty(image.shape, dtype=image.dtype, device=image.device, memory_format=memory_format(image))
    for rows, warped in _warp_in_bands(image, flow, kernel, range(image.shape[2])):
        out[:, :, rows.start : rows.stop] = warped
    return out


def _warp_in_bands(
    image: Tensor, flow: Tensor, kernel: Tensor, rows: range
) -> Iterator[tuple[range, Tensor]]:
    """Warp `rows` of an image, some at a time: return those rows, and their pixels in float32 or float64."""
    (n, _, _, w), wide = flow.shape, coordinate_dtype(image)
    pixels = _pixels(image.to(wide))
    height = max(_BAND // max(n * w, 1), 1)
    for top in rows[::height]:
        band = range(top, min(top + height, rows.stop))
        window = _Window(flow, band)
        weights = window.weights(kernel[:, :, band.start : band.stop].to(wide))
        # This computes the weighted sum of 16 taps for every pixel without a tensor of 16 times the size of the image.
        sums = F.embedding_bag(window.index, pixels, mode="sum", per_sample_weights=weights)
        yield band, sums.view(n, len(band), w, image.shape[1]).permute(0, 3, 1, 2)


def adaptive_warp_backward(
    grad: Tensor, image: Tensor, flow: Tensor, kernel: Tensor, of_image: bool = True, of_motion: bool = True
) -> tuple[Tensor, ...]:
    wide = coordinate_dtype(image)
    window = _Window(flow)
    index, taps, weights = window.index, _pixels(kernel.to(wide)), window.weights(kernel.to(wide))
    rows, pixels = _pixels(grad.to(wide)), _pixels(image.to(wide))
    grad_pixels = torch.zeros_like(pixels)
    grad_weights = torch.empty_like(weights)
    for tap in range(16):
        if of_image:
            grad_pixels.index_add_(0, index[:, tap], rows * weights[:, tap, None])
        if of_motion:
            grad_weights[:, tap] = (rows * pixels[index[:, tap]]).sum(1)
    grad_weights[~window.valid] = 0
    by_tap = grad_weights * taps
    grad_flow = torch.stack([(by_tap * slope).sum(1) for slope in window.slopes()], 1)
    gradients = (
        _like(_image(grad_pixels, image), image),
        _like(_image(grad_flow, flow), flow),
        _like(_image(grad_weights * window.share(), kernel), kernel),
    )
    return wanted(gradients, (of_image, of_motion, of_motion))


# ---------------------------------------------------------------- separable convolution


def separable_conv(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    size, wide = vertical.shape[1], coordinate_dtype(image)
    windows = image.to(wide).unfold(2, size, 1).unfold(3, size, 1)
    out = torch.einsum("nchwij,nihw,njhw->nchw", windows, vertical.to(wide), horizontal.to(wide))
    return out.to(image.dtype).contiguous(memory_format=memory_format(image))


def separable_conv_backward(
    grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (_, size, h, w), wide = vertical.shape, coordinate_dtype(image)
    grad_out, column, row = grad.to(wide), vertical.to(wide), horizontal.to(wide)
    windows = image.to(wide).unfold(2, size, 1).unfold(3, size, 1)
    by_tap = torch.einsum("nchw,nchwij->nijhw", grad_out, windows)
    grad_image = torch.zeros_like(image, dtype=wide)
    for i in range(size):
        for j in range(size):
            grad_image[..., i : i + h, j : j + w].addcmul_(grad_out, (column[:, i] * row[:, j])[:, None])
    return (
        _like(grad_image, image),
        _like(torch.einsum("nijhw,njhw->nihw", by_tap, row), vertical),
        _like(torch.einsum("nijhw,nihw->njhw", by_tap, column), horizontal),
    )


# ---------------------------------------------------------------- inference into slices


def pack_weight(weight: Tensor) -> Tensor:
    """Pack a weight, (Cout, Cin, KH, KW), in the order of tensor cores. Zeros extend Cout and Cin to multiples of 16.

    Returns:
        (Cin / 16, KH, KW, Cout / 16, 8, 4, 2, 2, 2): output channel ``16 p + 8 s + n`` and input channel
        ``16 g + 8 h + 2 t + l`` lie at ``[g, :, :, p, n, t, s, h, l]``.
    """
    outputs, inputs = weight.shape[:2]
    padded = F.pad(weight, (0, 0, 0, 0, 0, -inputs % 16, 0, -outputs % 16))
    split = padded.unflatten(1, (-1, 2, 4, 2)).unflatten(0, (-1, 2, 8))
    return split.permute(3, 7, 8, 0, 2, 5, 1, 4, 6).contiguous()


def pack_weight_hopper(weight: Tensor, itemsize: int) -> Tensor:
    """Pack a weight, (Cout, Cin, KH, KW), for compute capability 9.0.

    Its tensor cores take four times 16 bytes of input channels, and multiply 64 rows at once. With few outputs, a group
    of rows has several taps of each output (`phases`), one below the other.

    Args:
        weight: the weight.
        itemsize: the size in bytes of an element of the packed weight.

    Returns:
        (Cin / 4 l, ceil(KH / phases), KW, 4, Cout phases / 16, phases, 16 / phases, l), where l is 16 / `itemsize`.
        Output channel ``16 / phases w + o``, input channel ``4 l c + l p + k`` and row ``phases g + q`` lie at
        ``[c, g, :, p, w, q, o, k]``. Zeros extend the channels. If there are several phases, zeros also extend the rows
        at both ends, so that the middle row has the number ``phases ceil(KH / phases) / 2 - 1``.
    """
    per_plane = 16 // itemsize
    outputs, inputs, rows = weight.shape[:3]
    phases = 4 if outputs <= 16 else 2 if outputs <= 32 else 1
    groups = -(-rows // phases)
    above = phases * groups // 2 - 1 - rows // 2 if phases > 1 else 0
    below = phases * groups - rows - above
    padding = (0, 0, above, below, 0, -inputs % (4 * per_plane), 0, -outputs % (64 // phases))
    split = F.pad(weight, padding).unflatten(2, (groups, phases)).unflatten(1, (-1, 4, per_plane))
    return split.unflatten(0, (-1, 16 // phases)).permute(2, 5, 7, 3, 0, 6, 1, 4).contiguous()


#: A type of eight bits. It holds no more than 448: what would be more becomes that.
EIGHT_BITS = torch.float8_e4m3fn


def _store(values: Tensor, out: Tensor) -> None:
    out.copy_(values.clamp(-448, 448) if out.dtype == EIGHT_BITS else values)


def _unpack_weight(packed: Tensor) -> Tensor:
    split = packed.permute(3, 6, 4, 0, 7, 5, 8, 1, 2)
    return split.flatten(3, 6).flatten(0, 2)


def convolve_into(
    input: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor,
    plus: Tensor | None,
    dilation: int,
    slope: float,
    out: Tensor,
    shared_memory: int = 0,
) -> None:
    dtype = torch.float32 if input.dtype == EIGHT_BITS else input.dtype
    full = _unpack_weight(weight.to(dtype))
    if scale is not None:
        full = full * scale.to(dtype)[:, None, None, None]
    reach = [dilation * (side // 2) for side in full.shape[2:]]
    result = F.conv2d(input.to(dtype), full, bias.to(dtype), padding=reach, dilation=dilation)[
        :, : out.shape[1]
    ]
    _store(F.leaky_relu(result if plus is None else result + plus.to(dtype), slope), out)


def adaptive_warp_into(
    image: Tensor, first_row: int, flow: Tensor, kernel: Tensor, top: int, out: Tensor
) -> None:
    (n, _, h, w), there = flow.shape, range(first_row, first_row + image.shape[2])
    if image.dtype == EIGHT_BITS:
        image = image.to(kernel.dtype)
    whole = F.pad(image, (0, 0, there.start, h - there.stop)) if len(there) < h else image
    for rows, warped in _warp_in_bands(whole, flow, kernel, range(top, top + out.shape[2])):
        band = out[:, :, rows.start - top : rows.stop - top]
        if whole is not image:
            row = _Window(flow, rows).index % (h * w) // w
            known = ((row >= there.start) & (row < there.stop)).all(1).view(n, 1, len(rows), w)
            warped = torch.where(known, warped, band.to(warped.dtype))
        _store(warped, band)


def blend_into(
    first: Tensor,
    second: Tensor,
    flow_1: Tensor,
    flow_2: Tensor,
    kernel_1: Tensor,
    kernel_2: Tensor,
    time: Tensor,
    top: int,
    blend: Tensor,
    out: Tensor,
) -> None:
    image_1, depth_1 = adaptive_warp(first, flow_1, kernel_1.to(first.dtype)).split((3, 1), 1)
    image_2, depth_2 = adaptive_warp(second, flow_2, kernel_2.to(second.dtype)).split((3, 1), 1)
    rows = slice(top, top + out.shape[2])
    blended = (1 - time) * image_1 + time * image_2
    blend.copy_(blended[:, :, rows])
    sides = (image_1, image_2, flow_1, flow_2, kernel_1.float(), kernel_2.float(), depth_1, depth_2)
    seen = torch.cat((blended, *sides), 1)
    _store(seen[:, :, rows], out.zero_()[:, : seen.shape[1]])


def pool_into(input: Tensor, mean: bool, out: Tensor) -> None:
    wide = input.float() if input.dtype == EIGHT_BITS else input
    _store(F.avg_pool2d(wide, 2) if mean else F.max_pool2d(wide, 2), out)


def upsample_add_into(low: Tensor, high: Tensor, bilinear: bool, out: Tensor) -> None:
    wide = low.float() if low.dtype == EIGHT_BITS else low
    larger = F.interpolate(wide, scale_factor=2, mode="bilinear" if bilinear else "nearest")
    _store(larger + high.to(wide.dtype), out)


def unfold_row_into(image: Tensor, taps: int, out: Tensor) -> None:
    width, reach = image.shape[3], taps // 2
    padded = F.pad(image, (reach, reach))
    out.zero_()
    for tap in range(taps):
        out[:, 3 * tap : 3 * tap + 3].copy_(padded[..., tap : tap + width])


# ---------------------------------------------------------------- flow between two frames


def _sample(features: Tensor, flow: Tensor) -> Tensor:
    """Sample `features` bilinearly at each pixel plus `flow`; 0 where less than 0.9999 of a sample lies inside."""
    h, w = features.shape[2:]
    x, y = _positions(flow)
    grid = torch.stack((2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1), -1)
    sampled = F.grid_sample(features, grid, align_corners=True)
    coverage = F.grid_sample(torch.ones_like(features[:, :1]), grid, align_corners=True)
    return sampled * (coverage >= 0.9999)


def _fill(out: Tensor, channels: Tensor) -> None:
    out.zero_()[:, : channels.shape[1]].copy_(channels)


def match_into(first: Tensor, second: Tensor, out: Tensor, shared_memory: int = 0) -> None:
    matches = torch.ops.dain.correlation(torch.cat((first, second)), torch.cat((second, first)))
    _fill(out, F.leaky_relu(matches, 0.1))


def match_warped_into(
    first: Tensor,
    second: Tensor,
    coarse: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: float,
    out: Tensor,
    shared_memory: int = 0,
) -> None:
    wide = coordinate_dtype(first)
    ours, theirs = torch.cat((first, second)).to(wide), torch.cat((second, first)).to(wide)
    flow = F.conv_transpose2d(coarse[:, :2], weight.permute(2, 3, 0, 1), bias, stride=2, padding=1)
    matches = F.leaky_relu(torch.ops.dain.correlation(ours, _sample(theirs, scale * flow)), 0.1)
    _fill(out, torch.cat((matches, ours, flow, F.pixel_shuffle(coarse[:, 2:], 2)), 1))


def enlarge_flow(flow: Tensor, scale: float) -> Tensor:
    return F.interpolate((scale * flow).contiguous(), scale_factor=4, mode="bilinear")


def stack_into(first: Tensor, second: Tensor, out: Tensor) -> None:
    _fill(out, torch.cat((first, second), 1))


def unshuffle_into(image: Tensor, out: Tensor) -> None:
    _fill(out, F.pixel_unshuffle(image, 2))


def sample(map: Tensor, flow: Tensor, scale: float) -> Tensor:
    grid = _border_grid(flow, scale)
    made = F.grid_sample(map.to(grid.dtype), grid, padding_mode="border", align_corners=False)
    return made.to(map.dtype).contiguous(memory_format=torch.channels_last)


def sample_backward(grad: Tensor, flow: Tensor, scale: float) -> Tensor:
    grid = _border_grid(flow, scale)
    wide = grad.to(grid.dtype)
    bilinear, border = 0, 1
    found, _ = torch.ops.aten.grid_sampler_2d_backward(
        wide, torch.empty_like(wide), grid, bilinear, border, False, (True, False)
    )
    return found.to(grad.dtype).contiguous(memory_format=torch.channels_last)


def _border_grid(flow: Tensor, scale: float) -> Tensor:
    """Return each pixel plus its flow in the coordinates of `F.grid_sample`, (N, H, W, 2)."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + scale * flow[:, 0]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + scale * flow[:, 1]
    return torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)


# ---------------------------------------------------------------- what stands still
#
# `csrc/stillness.cu` has the same numbers.

SAME = 6 / 255  # the most by which two frames differ where nothing moves: what a codec leaves of a still edge
HARD = 0.2  # the least step of a hard edge, from pixel to pixel
UNEXPLAINED = 0.08  # the least by which a pixel lies outside of what motion leads to
CELL = 8  # pixels on a side of the cells in which motion and edges are counted
AROUND = 2  # cells on each side of one whose motion, or whose edges, count with its own
SLOWEST = 1.0  # pixels that the surroundings move, at least
DISAGREEMENT = 0.2  # of the motion: the most by which the flows both ways differ, beside half a pixel
SHARE = 0.04  # of still edges that motion must fail to explain. Of bricks in motion it is less than 0.01
CHANGED = 0.25  # of the pixels in a window of half the frame's height: less is no moving picture
FEWEST = 0.002  # of all pixels of the cells: a few pixels are chance


def stillness(first: Tensor, second: Tensor, there: Tensor, back: Tensor) -> Tensor:
    height, width = first.shape[2:]
    difference = (first - second).abs().amax(1, keepdim=True)
    same = difference < SAME
    # What moves has changed. Where nothing has changed the flow says nothing about the surroundings.
    changed = (difference > 2 * SAME).float()
    cells = _cells(torch.cat((changed, changed * there, changed * back), 1))
    far = cells.shape[2] // 4
    moving, weight = _around(cells), _around(cells[:, :1]) + 1e-6
    there, back = moving[:, 1:3] / weight, moving[:, 3:] / weight
    distance = _length(there)
    steady = (
        (_around(cells[:, :1], far) > CHANGED)
        & (distance > SLOWEST)
        & (_length(back) > SLOWEST)
        & (_length(there + back) < DISAGREEMENT * distance + 0.5)
    )
    there, back = _to_pixels(torch.cat((there, back), 1), height, width, "bilinear").split(2, 1)

    one, two = first.mean(1, keepdim=True), second.mean(1, keepdim=True)
    low_one, high_one, low_two, high_two = *_range(one), *_range(two)
    edges = same & (torch.minimum(high_one - low_one, high_two - low_two) > HARD)
    moved_two, low_two, high_two, in_two = _led_to((two, low_two, high_two), there)
    moved_one, low_one, high_one, in_one = _led_to((one, low_one, high_one), back)
    # By the range around where motion leads to: flow is off by parts of a pixel, and an edge then by all of its step.
    beyond = torch.minimum(
        torch.maximum(one - high_two, low_two - one), torch.maximum(two - high_one, low_one - two)
    )
    unexplained = edges & (beyond > UNEXPLAINED) & (in_two > 0.5) & (in_one > 0.5)
    evidence, candidates = _around(_cells(torch.cat((unexplained, edges), 1).float())).split(1, 1)
    region = steady & (evidence > SHARE * candidates) & (evidence > FEWEST)
    worse = torch.minimum(_mean((one - moved_two).abs()), _mean((two - moved_one).abs()))
    kept = edges & (worse > 2 * SAME + _mean(difference))
    kept = kept.float() * _to_pixels(region.float(), height, width, "nearest")
    return F.max_pool2d(kept, 3, 1, 1) * same


def _cells(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, CELL, ceil_mode=True, count_include_pad=False)


def _around(cells: Tensor, reach: int = AROUND) -> Tensor:
    """The means over windows that reach so many cells far."""
    for axis in ((1, 0), (0, 1)):
        window, padding = (
            (1 + 2 * reach * axis[0], 1 + 2 * reach * axis[1]),
            (reach * axis[0], reach * axis[1]),
        )
        cells = F.avg_pool2d(cells, window, 1, padding, count_include_pad=False)
    return cells


def _to_pixels(cells: Tensor, height: int, width: int, mode: str) -> Tensor:
    smooth = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(cells, scale_factor=float(CELL), mode=mode, **smooth)[:, :, :height, :width]


def _mean(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 3, 1, 1, count_include_pad=False)


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of a pixel and those beside it."""
    return -F.max_pool2d(-values, 3, 1, 1), F.max_pool2d(values, 3, 1, 1)


def _length(flow: Tensor) -> Tensor:
    return torch.linalg.vector_norm(flow, dim=1, keepdim=True)


def _led_to(planes: tuple[Tensor, ...], flow: Tensor) -> tuple[Tensor, ...]:
    """Planes (1, 1, H, W) where the flow leads to, beyond the frame its border, and whether that is within it."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    within = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    found = F.grid_sample(
        torch.cat(planes, 1), _border_grid(flow, 1.0), padding_mode="border", align_corners=False
    )
    return (*found.split(1, 1), within[:, None].float())
