"""A segmenter whose scores are the mean over mirrored and turned copies of its input.

The copies are those of the whole padded image: it is padded once, at its end up to
the stride, mirrored or turned, and read with the border of the model. So the pixels
at the image's own border see the padding on one side in some copies, on the other
side in the rest; a network that pads with zeros pads each copy by itself.

References
----------
.. [1] F. Isensee et al., "nnU-Net", Nature Methods 18, 2021; its version 2 takes the
       mean of the scores before the softmax over all mirrored copies.
.. [2] N. Moshkov et al., "Test-time augmentation for deep learning-based cell
       segmentation on microscopy images", Scientific Reports 10, 2020: turns as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box, Margins, Segmenter
from napari_fcnseg._shared.settings import AUGMENTATIONS
from napari_fcnseg.engine.planning import pixel_bytes
from napari_fcnseg.tiling.plan import round_up


@dataclass(frozen=True)
class Flip:
    """Mirrors a batch along one spatial axis; twice is not at all."""

    axis: int

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the mirrored batch ``(n, channels, *spatial)``."""
        return batch.flip(2 + self.axis)

    def box(self, box: Box, shape: tuple[int, ...]) -> Box:
        """Return where a box of an array of this shape is afterwards."""
        (start, stop), length = box[self.axis], shape[self.axis]
        return (*box[: self.axis], (length - stop, length - start), *box[self.axis + 1 :])


@dataclass(frozen=True)
class Swap:
    """Exchanges y and x, the last two axes; with mirroring that makes the right-angle turns."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the batch ``(n, channels, *spatial)`` with its last axes exchanged."""
        return batch.transpose(-1, -2)

    def box(self, box: Box, shape: tuple[int, ...]) -> Box:
        """Return where a box is afterwards."""
        return (*box[:-2], box[-1], box[-2])


Change: TypeAlias = Flip | Swap


def changes(ndim: int, kind: str) -> tuple[Change, ...]:
    """Return the changes whose combinations are averaged; each undoes itself.

    Parameters
    ----------
    ndim : int
        Number of spatial axes.
    kind : str
        ``"flips"``: mirrored along every spatial axis, 2, 4 or 8 copies.
        ``"full"``: turned by right angles in the y-x plane as well, 8 copies in
        2D and 16 in 3D; in 1D the same as flips.

    Raises
    ------
    InputError
        For another word.
    """
    if kind not in AUGMENTATIONS:
        raise InputError(f"tta={kind!r} is not known; take {' or '.join(map(repr, AUGMENTATIONS))}.")
    flips = tuple(Flip(axis) for axis in range(ndim))
    return (Swap(), *flips) if kind == "full" and ndim > 1 else flips


class AugmentedSegmenter:
    """Meets :class:`~napari_fcnseg._shared.protocols.Segmenter` for a segmenter on mirrored and turned input.

    One copy is computed at a time. Halo, border and stride are the largest of all
    copies, so that tiles remain exact where those of the segmenter are. Pairs of
    copies are added, then pairs of pairs, so that the mirrored image gives the
    mirrored scores to the last bit.

    Parameters
    ----------
    segmenter : Segmenter
        What computes scores.
    kind : str
        ``"flips"`` or ``"full"``, see :func:`changes`.

    Attributes
    ----------
    copies : int
        How many are averaged: how much longer it takes.

    Examples
    --------
    >>> from napari_fcnseg import as_model
    >>> from napari_fcnseg.networks import build_network
    >>> network = build_network("unet", in_channels=1, classes=2, depth=1, base_channels=2)
    >>> plain = as_model(network.eval(), classes=["cell"]).segmenter
    >>> segmenter = AugmentedSegmenter(plain, "full")
    >>> segmenter.copies
    8
    >>> image = torch.rand(1, 1, 32, 32)
    >>> torch.equal(segmenter.predict(image.flip(2)), segmenter.predict(image).flip(2))
    True
    """

    def __init__(self, segmenter: Segmenter, kind: str) -> None:
        self.segmenter, self.kind = segmenter, kind
        self.changes = changes(segmenter.ndim, kind)
        self.copies = 2 ** len(self.changes)
        self.in_channels, self.out_channels = segmenter.in_channels, segmenter.out_channels
        self.ndim, self.padding_mode = segmenter.ndim, segmenter.padding_mode
        self.exact_tiling, self.inexact_reason = segmenter.exact_tiling, segmenter.inexact_reason
        self.progressive = segmenter.progressive
        self.float32_reason = str(getattr(segmenter, "float32_reason", ""))
        self.device = getattr(segmenter, "device", torch.device("cpu"))
        self.stride = self._stride()
        self.border, self.halo = self._margins()

    @property
    def _turned(self) -> bool:
        return Swap() in self.changes

    def _stride(self) -> tuple[int, ...]:
        stride = self.segmenter.stride
        return (*stride[:-2], *(math.lcm(*stride[-2:]),) * 2) if self._turned else stride

    def _margins(self) -> tuple[Margins, Margins]:
        """Return border and halo: what the segmenter needs on any side that comes to lie on this one."""
        border, halo = [], []
        for axis in range(self.ndim):
            others = (-1, -2) if self._turned and axis >= self.ndim - 2 else (axis,)
            lost = max(max(self.segmenter.border[other]) for other in others)
            beyond = round_up(max(self._beyond(other) for other in others), self.stride[axis])
            border.append((lost, lost))
            halo.append((lost + beyond, lost + beyond))
        return tuple(border), tuple(halo)

    def _beyond(self, axis: int) -> int:
        """Return how far the segmenter looks beyond its border, on either side."""
        pairs = zip(self.segmenter.halo[axis], self.segmenter.border[axis], strict=True)
        return max(halo - lost for halo, lost in pairs)

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes for each pixel that is read: of one copy, and of the sums and copies that wait for it."""
        waiting = 4 * len(self.changes) * (self.in_channels + self.out_channels)
        return pixel_bytes(self.segmenter) + waiting

    def on(self, device: torch.device | str, dtype: torch.dtype) -> AugmentedSegmenter:
        """Return this segmenter, or one like it, for a device and precision."""
        place = getattr(self.segmenter, "on", None)
        return self if place is None else AugmentedSegmenter(place(device, dtype), self.kind)

    @torch.inference_mode()
    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return the mean scores of a batch ``(n, in_channels, *spatial)``, float32, on the device.

        Parameters
        ----------
        batch : torch.Tensor
            Normalised pixels.
        keep : Box, optional
            The box of the output to return; all of it by default.
        """
        whole = tuple((0, length) for length in self._output_shape(batch))
        return self._total(batch, keep or whole, self.changes).div_(self.copies)

    def _output_shape(self, batch: torch.Tensor) -> tuple[int, ...]:
        return tuple(n - sum(lost) for n, lost in zip(batch.shape[2:], self.border, strict=True))

    def _total(self, batch: torch.Tensor, keep: Box, remaining: tuple[Change, ...]) -> torch.Tensor:
        """Return the sum over all combinations of the remaining changes, changed back."""
        if not remaining:
            return self.segmenter.predict(self._trimmed(batch), keep)
        change, rest = remaining[0], remaining[1:]
        total = self._total(batch, keep, rest)
        box = change.box(keep, self._output_shape(batch))
        return total.add_(change(self._total(change(batch), box, rest)))

    def _trimmed(self, batch: torch.Tensor) -> torch.Tensor:
        """Return a batch with the border that the segmenter loses, which may differ between sides."""
        lengths = zip(batch.shape[2:], self.border, self.segmenter.border, strict=True)
        inner: Any = (..., *(slice(most - a, n - most + b) for n, (most, _), (a, b) in lengths))
        return batch[inner]
