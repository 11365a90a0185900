"""A classifier of patches at every pixel: what segmented images before networks became dense.

Every pixel gets the answer to the patch around it. Neighbours share almost all
of their patches and none of the work, which is why a dense network that gives
the same scores is faster by orders of magnitude.

References
----------
.. [1] D. Cireşan, A. Giusti, L. Gambardella, J. Schmidhuber, "Deep Neural Networks
       Segment Neuronal Membranes in Electron Microscopy Images", NIPS 2012.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box, Margins
from napari_fcnseg.refine.option_checks import check_count

Classifier = Callable[[torch.Tensor], torch.Tensor]
"""Takes patches ``(n, channels, *patch)``, returns scores ``(n, classes)``."""


class SlidingWindow:
    """Scores every pixel by the patch around it; meets :class:`~napari_fcnseg._shared.protocols.Segmenter`.

    Parameters
    ----------
    classifier : torch.nn.Module or callable
        Takes patches ``(n, in_channels, *patch)``, float32, and returns scores
        ``(n, classes)``. Of a module a copy in evaluation mode is kept. A
        function is always called on the CPU, whatever device is asked for.
    patch : sequence of int
        Size of a patch along each of 1 to 3 axes, in pixels. The pixel it
        belongs to is number ``size // 2`` of each axis.
    in_channels, classes : int
        Channels of a patch, and scores for each.
    batch_size : int
        Patches at a time.

    Raises
    ------
    InputError
        For sizes that are not possible, or a classifier that does not give
        ``(n, classes)`` for patches of this size.

    See Also
    --------
    napari_fcnseg.networks.dense_conversion.convolutionize : The same scores at
        every stride-th pixel, from a classifier that pads nothing, in one pass.
    napari_fcnseg.networks.striding.shift_and_stitch : The same at every pixel.

    Notes
    -----
    The whole image is mirrored by ``size // 2`` pixels at its borders, once, by
    the engine; tiles equal the whole image whatever their size.

    Examples
    --------
    >>> mean = lambda patches: torch.stack([1 - patches.mean((1, 2, 3)), patches.mean((1, 2, 3))], 1)
    >>> window = SlidingWindow(mean, (3, 5), in_channels=1, classes=2)
    >>> window.border
    ((1, 1), (2, 2))
    >>> window.predict(torch.ones(1, 1, 8, 9)).shape
    torch.Size([1, 2, 6, 5])
    """

    padding_mode = "reflect"
    exact_tiling = True
    inexact_reason = ""
    progressive = True

    def __init__(
        self,
        classifier: Classifier,
        patch: Sequence[int],
        *,
        in_channels: int,
        classes: int,
        batch_size: int = 1024,
    ) -> None:
        if not isinstance(patch, Sequence) or not 1 <= len(patch) <= 3:
            raise InputError(
                f"patch={patch!r} is not possible; give the sizes of 1 to 3 axes, such as (33, 33)."
            )
        self.patch = tuple(patch)
        counts = {"in_channels": in_channels, "classes": classes, "batch_size": batch_size}
        for name, value in [*(("patch", size) for size in self.patch), *counts.items()]:
            check_count(name, value, least=1)
        self.in_channels, self.out_channels, self.batch_size = in_channels, classes, batch_size
        self.device, self.dtype = torch.device("cpu"), torch.float32
        own = copy.deepcopy(classifier).eval() if isinstance(classifier, nn.Module) else classifier
        self.classifier: Classifier = own
        self._place(self.device, self.dtype)
        self.predict(torch.zeros(1, in_channels, *self.patch))  # a misfit is told now, not at the first tile

    def _place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._running = self.classifier
        if isinstance(self.classifier, nn.Module):
            self._running = copy.deepcopy(self.classifier).to(device=device, dtype=dtype)

    def on(self, device: torch.device | str, dtype: torch.dtype) -> SlidingWindow:
        """Return this segmenter, or one like it, for a device and precision."""
        same = torch.device(device) == self.device and dtype == self.dtype
        if same or not isinstance(self.classifier, nn.Module):
            return self
        other = copy.copy(self)
        other._place(torch.device(device), dtype)
        return other

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.patch)

    @property
    def stride(self) -> tuple[int, ...]:
        """One: every pixel has a patch of its own."""
        return (1,) * self.ndim

    @property
    def border(self) -> Margins:
        """Pixels without a whole patch, before and after."""
        return tuple((size // 2, size - 1 - size // 2) for size in self.patch)

    @property
    def halo(self) -> Margins:
        """Pixels read before and after a tile: the reach of a patch."""
        return self.border

    @torch.inference_mode()
    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return scores ``(n, classes, *positions)`` of a batch, float32.

        Parameters
        ----------
        batch : torch.Tensor, shape (n, in_channels, *spatial)
            Normalised pixels, at least as many as a patch has.
        keep : Box, optional
            The box of patch positions to score; by default all of them, one
            less than the patch fewer than the pixels of each axis.

        Raises
        ------
        InputError
            If the batch is smaller than a patch or has other channels, or the
            classifier gives another shape.
        """
        self._check_batch(batch)
        patches = batch.to(device=self.device, dtype=self.dtype)
        for axis, size in enumerate(self.patch, start=2):
            patches = patches.unfold(axis, size, 1)
        for axis, (start, stop) in enumerate(keep or (), start=2):
            patches = patches.narrow(axis, start, stop - start)
        patches = patches.movedim(1, 1 + self.ndim)
        places = patches.shape[: 1 + self.ndim]
        scores = torch.cat([self._scores(patches[at]) for at in self._groups(places)])
        return scores.reshape(*places, self.out_channels).movedim(-1, 1)

    def _groups(self, places: Sequence[int]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Return the indices of `batch_size` patches at a time, as only these become arrays of their own."""
        total = math.prod(places)
        for start in range(0, total, self.batch_size):
            part = torch.arange(start, min(start + self.batch_size, total), device=self.device)
            yield torch.unravel_index(part, tuple(places))

    def _scores(self, patches: torch.Tensor) -> torch.Tensor:
        scores: Any = self._running(patches)
        expected = (len(patches), self.out_channels)
        if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != expected:
            got = tuple(scores.shape) if hasattr(scores, "shape") else type(scores).__name__
            raise InputError(
                f"the classifier gave {got} for patches of shape {tuple(patches.shape)}; it must give a "
                f"tensor of shape {expected}, a score for each class."
            )
        return scores.float()

    def _check_batch(self, batch: torch.Tensor) -> None:
        sides = tuple(batch.shape[2:])
        fits = batch.ndim == 2 + self.ndim and batch.shape[1] == self.in_channels
        if not fits or any(side < size for side, size in zip(sides, self.patch, strict=True)):
            raise InputError(
                f"a batch of shape {tuple(batch.shape)} has no patch of {self.in_channels} channels and "
                f"{' x '.join(map(str, self.patch))} pixels; give (n, channels, *spatial), not smaller."
            )
