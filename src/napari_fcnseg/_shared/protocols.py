"""The one seam between the engine and whatever computes scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import torch

Box: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open interval ``(start, stop)`` for each spatial axis."""

Margins: TypeAlias = tuple[tuple[int, int], ...]
"""Pixels ``(before, after)`` for each spatial axis."""


@runtime_checkable
class Segmenter(Protocol):
    """All that the engine knows of a model.

    Networks, forests, ONNX models and sliding-window classifiers meet it alike.

    Attributes
    ----------
    in_channels, out_channels : int
        Channels of the batch and of the scores.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    stride : tuple of int
        Tile origins must be multiples of it, in pixels per spatial axis.
    halo : tuple of (int, int)
        Pixels ``(before, after)`` that have to be read around an aligned
        tile, per spatial axis, for its scores to equal those of the whole image.
    border : tuple of (int, int)
        Pixels ``(before, after)`` that the model loses on each side because
        its convolutions are not padded; the whole image is padded by as much.
        After includes what an unpadded pooling needs to come out even.
    padding_mode : str
        How the whole image is extended, once: ``"reflect"``.
    exact_tiling : bool
        False when a layer looks at the whole image or at batch statistics.
    inexact_reason : str
        Why `exact_tiling` is False; empty otherwise.
    progressive : bool
        True when `predict` computes only what `keep` needs.
    """

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def ndim(self) -> int: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def halo(self) -> Margins: ...
    @property
    def border(self) -> Margins: ...
    @property
    def padding_mode(self) -> str: ...
    @property
    def exact_tiling(self) -> bool: ...
    @property
    def inexact_reason(self) -> str: ...
    @property
    def progressive(self) -> bool: ...

    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return scores ``(n, out_channels, *spatial)`` of a batch ``(n, in_channels, *spatial)``.

        Parameters
        ----------
        batch : torch.Tensor
            Normalised pixels, float.
        keep : tuple of (int, int), optional
            The box of the output that the caller will use, in pixels of the
            output of this batch. Only that box is returned.
        """
        ...
