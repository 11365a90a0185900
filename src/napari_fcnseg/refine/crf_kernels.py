"""The Gaussian kernels of the dense CRF: exact, on a lattice, and separable on the pixel grid.

Each is one linear map of what all pixels believe, shape (pixels, classes), to
what each pixel hears. It is used in two steps, so that the answer of a few
rows of the image is computed, used and forgotten while it is in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from napari_fcnseg.refine.permutohedral import Lattice

# A kernel of so many entries is held; of a larger one so many are computed at a time, again and again.
ENTRIES_HELD = 4096**2
# Where the separable kernel ends, in standard deviations: 0.27 % of it are beyond, along each axis.
TRUNCATION = 3.0
# Pixels whose exact sums scale the lattice where no normalisation does.
SAMPLES = 64

Answer = Callable[[int, int], Tensor]


class Kernel(Protocol):
    """A weighted kernel over all pixels, the pixel itself included."""

    def listen(self, beliefs: Tensor) -> Answer:
        """Take in what all pixels believe, shape (pixels, classes).

        Returns a function of two pixel numbers, `start` and `stop`, which must
        be multiples of the pixels in one row, slice or whatever the first axis
        counts. It gives what those pixels hear, shape (stop - start, classes).
        """
        ...


class ExactKernel:
    """The full matrix ``weight · exp(-|f_i - f_j|² / 2)`` of features, shape (pixels, d)."""

    def __init__(self, features: Tensor, weight: float, *, normalized: bool) -> None:
        self.features = features
        self.weight = weight
        pixels = len(features)
        self.height = max(ENTRIES_HELD // pixels, 1)
        self.held = _gaussian(features, features) if pixels**2 <= ENTRIES_HELD else None
        self.scale = torch.ones_like(features[:, 0])
        if normalized:
            sums = [self._rows(a, b).sum(1) for a, b in self._parts(0, pixels)]
            self.scale = torch.cat(sums).rsqrt_()

    def _parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        return [(a, min(a + self.height, stop)) for a in range(start, stop, self.height)]

    def _rows(self, start: int, stop: int) -> Tensor:
        if self.held is not None:
            return self.held[start:stop]
        return _gaussian(self.features[start:stop], self.features)

    def listen(self, beliefs: Tensor) -> Answer:
        """See :class:`Kernel`."""
        given = beliefs * self.scale[:, None]

        def answer(start: int, stop: int) -> Tensor:
            heard = torch.cat([self._rows(a, b) @ given for a, b in self._parts(start, stop)])
            return heard.mul_(self.weight * self.scale[start:stop, None])

        return answer


class LatticeKernel:
    """The kernel of :class:`ExactKernel`, nearly, in a time linear in the pixels."""

    def __init__(self, features: Tensor, weight: float, *, normalized: bool) -> None:
        lattice = Lattice.around(features)
        ones = torch.ones_like(features[:, :1])
        if normalized:
            scale = lattice.slice(lattice.splat(ones))[:, 0].clamp_(min=1e-20).rsqrt_()
            self.lattice = lattice.scaled(scale, weight * scale)
        else:
            height = _height(lattice, features)
            self.lattice = lattice.scaled(ones[:, 0], weight * height * ones[:, 0])

    def listen(self, beliefs: Tensor) -> Answer:
        """See :class:`Kernel`."""
        spread = self.lattice.splat(beliefs)
        return lambda start, stop: self.lattice.slice(spread, start, stop)


def _height(lattice: Lattice, features: Tensor) -> float:
    """Return what makes the lattice's sums equal to the exact ones, over some pixels."""
    step = max(len(features) // SAMPLES, 1)
    exact = sum(float(_gaussian(f[None], features).sum()) for f in features[step // 2 :: step])
    found = lattice.slice(lattice.splat(torch.ones_like(features[:, :1])))[step // 2 :: step]
    return exact / float(found.sum())


class GridKernel:
    """``weight · exp(-|p_i - p_j|² / 2σ²)`` of pixels on their grid, by a convolution along each axis.

    `sigmas` are in pixels, one for each axis of `shape`. Cut off at
    :data:`TRUNCATION`; time grows with the sigmas.
    """

    def __init__(
        self,
        shape: Sequence[int],
        sigmas: Sequence[float],
        weight: float,
        *,
        normalized: bool,
        device: torch.device,
    ) -> None:
        self.shape = tuple(shape)
        self.taps = [_taps(s, n).to(device) for s, n in zip(sigmas, shape, strict=True)]
        self.weight = weight
        self.scale = torch.ones(math.prod(shape), 1, device=device)
        self._smooth: Tensor | None = None
        if normalized:
            weight_sums = _outer([_sums(t, n) for t, n in zip(self.taps, shape, strict=True)])
            self.scale = weight_sums.rsqrt_().view(-1, 1)

    def listen(self, beliefs: Tensor) -> Answer:
        """See :class:`Kernel`."""
        if self._smooth is None or self._smooth.shape != beliefs.shape:
            self._smooth = torch.empty_like(beliefs)
        smooth, row = self._smooth, math.prod(self.shape[1:])
        for start, stop in bands(len(beliefs), row):
            smooth[start:stop] = self._within_rows(beliefs[start:stop] * self.scale[start:stop])

        def answer(start: int, stop: int) -> Tensor:
            heard = self._across_rows(smooth, start // row, stop // row)
            return heard.mul_(self.weight * self.scale[start:stop])

        return answer

    def _within_rows(self, values: Tensor) -> Tensor:
        """Convolve along all axes but the first."""
        before, classes = len(values) // math.prod(self.shape[1:]), values.shape[1]
        for taps, length in zip(self.taps[1:], self.shape[1:], strict=True):
            planes = values.reshape(before, length, -1, classes)
            values = _convolved(planes, taps, len(taps) // 2)
            before *= length
        return values.reshape(-1, classes)

    def _across_rows(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Convolve along the first axis, for the rows `start` to `stop`."""
        taps, rows, classes = self.taps[0], self.shape[0], values.shape[1]
        reach = len(taps) // 2
        low, high = max(start - reach, 0), min(stop + reach, rows)
        planes = values.view(rows, -1, classes)[low:high].unsqueeze(0)
        outside = (low - (start - reach), stop + reach - high)
        if any(outside):
            planes = pad(planes, (0, 0, 0, 0, *outside))
        return _convolved(planes, taps, 0).reshape(-1, classes)


def bands(pixels: int, row: int) -> list[tuple[int, int]]:
    """Cut pixels into runs of whole rows that stay in the processor's cache."""
    step = row * max((1 << 15) // row, 1)
    return [(start, min(start + step, pixels)) for start in range(0, pixels, step)]


def _gaussian(some: Tensor, others: Tensor) -> Tensor:
    # By differences: |a|² - 2ab + |b|² would lose the digits of near pixels.
    distance = torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.square_().mul_(-0.5).exp_()


def _taps(sigma: float, length: int) -> Tensor:
    """Return the one-dimensional kernel, no longer than it can matter on an axis of `length`."""
    reach = min(math.ceil(TRUNCATION * sigma), length - 1)
    return torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)


def _sums(taps: Tensor, length: int) -> Tensor:
    ones = torch.ones(1, length, 1, 1, device=taps.device)
    return _convolved(ones, taps, len(taps) // 2).reshape(-1)


def _outer(sides: Sequence[Tensor]) -> Tensor:
    product = sides[0]
    for side in sides[1:]:
        product = product[..., None] * side
    return product


def _convolved(planes: Tensor, taps: Tensor, padding: int) -> Tensor:
    """Convolve along the second axis of (planes, length, others, classes)."""
    before, length, others, classes = planes.shape
    # Single lines are laid below each other as one plane: ten times as fast as one by one.
    lines = others == 1
    image = planes.reshape(1, before, length, classes) if lines else planes
    shape, padded = ((1, -1), (0, padding)) if lines else ((-1, 1), (padding, 0))
    weight = taps.view(shape).repeat(classes, 1, 1, 1)
    found = conv2d(image.permute(0, 3, 1, 2), weight, padding=padded, groups=classes)
    return found.permute(0, 2, 3, 1)
