"""A network as the engine sees it: stride, halo, border and scores."""

from __future__ import annotations

import copy
import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import TilingError
from napari_fcnseg._shared.protocols import Box, Margins
from napari_fcnseg.networks.anysize import AnySize, mirrored
from napari_fcnseg.networks.field import TRACING, Field, WithField, derive_field
from napari_fcnseg.networks.folding import folded
from napari_fcnseg.networks.footprint import bytes_per_pixel
from napari_fcnseg.networks.geometry import MAX_UNPOOLS, WholeImageError, check_bounded
from napari_fcnseg.networks.progressive import ProgressiveNetwork, cut

SWITCHES = "unpools with switches, which rounding would send elsewhere"


class NetworkSegmenter(WithField):
    """Meets :class:`~napari_fcnseg._shared.protocols.Segmenter` for a network.

    Parameters
    ----------
    network : torch.nn.Module
        Takes ``(n, in_channels, *spatial)``, returns ``(n, out_channels, *spatial)``.
        A folded copy in evaluation mode is kept; the module itself is not changed.
    in_channels, out_channels, ndim : int
        What the network takes and gives.
    halo : int or sequence of int, optional
        More than the derived halo if wanted, or the halo of a network that
        cannot be walked. Never less than what the layers need.
    stride : int or sequence of int, optional
        Only for a network that cannot be walked.
    device : torch.device or str
        Where scores are computed.
    dtype : torch.dtype
        ``torch.float32`` or ``torch.bfloat16``; scores come out as float32.
        A network with switches (DeconvNet, SegNet) is run in float32 in any
        case: rounded to bfloat16 the largest of a window is often another
        pixel, and the switch would put values elsewhere.

    Raises
    ------
    TilingError
        If `halo` or `stride` is smaller than what the layers need.
    """

    padding_mode = "reflect"

    def __init__(
        self,
        network: nn.Module,
        *,
        in_channels: int,
        out_channels: int,
        ndim: int,
        halo: Any = None,
        stride: Any = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network
        self.in_channels, self.out_channels, self.ndim = in_channels, out_channels, ndim
        derived = derive_field(network, ndim)
        self.field = _with_override(network, derived, halo, stride, ndim)
        self.float32_only = any(isinstance(m, MAX_UNPOOLS) for m in network.modules())
        self.float32_reason = SWITCHES if self.float32_only else ""
        # A switch names a place in the whole map, not in a box of it.
        self.progressive = derived.exact and not self.float32_only
        # Every device and precision runs what the network was now, whatever becomes of it.
        self._folded = folded(network)
        self._place(torch.device(device), dtype)

    def _place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, torch.float32 if self.float32_only else dtype
        running = copy.deepcopy(self._folded).to(device=device, dtype=self.dtype)
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(self.ndim)
        self._running = running.to(memory_format=layout) if layout else running  # type: ignore[call-overload]
        self._progressive = ProgressiveNetwork(self._running, self.ndim) if self.progressive else None

    def on(self, device: torch.device | str, dtype: torch.dtype) -> NetworkSegmenter:
        """Return this segmenter, or one like it, for a device and precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        other = copy.copy(self)
        other.__dict__.pop("bytes_per_pixel", None)
        other._place(torch.device(device), dtype)
        return other

    @functools.cached_property
    def bytes_per_pixel(self) -> int:
        """Bytes that the maps alive at one time take for each input pixel."""
        return bytes_per_pixel(self.network, self.in_channels, self.ndim, itemsize=self.dtype.itemsize)

    def _full_float32(self) -> AbstractContextManager[None]:
        """Keep a CUDA card from rounding float32 convolutions to 11 bits (TF32)."""
        if self.device.type != "cuda" or self.dtype != torch.float32:
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    @property
    def _proper(self) -> Any:
        """The network without its mirroring, as a plan with its stride and border pads the image once."""
        network: Any = self._running
        planned = isinstance(network, AnySize) and self.stride == (network.step,) * self.ndim
        return network.scores if planned else network

    def _large_enough(self, x: torch.Tensor) -> torch.Tensor:
        """Mirror a batch up to the least size; tiles have their halo, so it is an image as small as that."""
        network = self._running
        least = network.smallest + sum(network.margin) if isinstance(network, AnySize) else 1
        for axis, length in enumerate(x.shape[2:], start=2):
            x = mirrored(x, axis, 0, max(least - length, 0))
        return x

    def _everything(self, shape: torch.Size) -> Box:
        """Return the box of the scores of a batch of this shape."""
        return tuple((0, n - sum(lost)) for n, lost in zip(shape, self.border, strict=True))

    @torch.inference_mode()
    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return scores of a batch ``(n, in_channels, *spatial)``, float32, on the device.

        Parameters
        ----------
        batch : torch.Tensor
            Normalised pixels; moved to the device and precision of the segmenter.
        keep : Box, optional
            The box of the output to return; all of it by default.
        """
        x = self._large_enough(batch.to(device=self.device, dtype=self.dtype))
        if self.ndim in (2, 3):
            x = _channels_last(x)
        if keep is not None and self._progressive is not None:
            with self._full_float32():
                return self._progressive(x, keep).float()
        with TRACING, self._full_float32():
            scores: torch.Tensor = self._proper(x)
        have = tuple((0, n) for n in scores.shape[2:])
        return cut(scores, have, keep or self._everything(batch.shape[2:])).float()


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return a batch with its channels side by side, and with strides that say so.

    One channel lies so in any case; but only by its strides torch knows to put
    the maps of the first convolution so, and need not copy them for the second.
    """
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    x = x.contiguous(memory_format=layout)
    return x.as_strided(x.shape, torch.empty(x.shape, device="meta", memory_format=layout).stride())


def _pairs(name: str, value: Any, ndim: int) -> Margins:
    """Return ``(before, after)`` per axis from a number, one per axis, or pairs."""
    values = [value] * ndim if isinstance(value, int) else list(value)
    pairs = [(v, v) if isinstance(v, int) else tuple(v) for v in values]
    if len(pairs) != ndim or any(len(pair) != 2 for pair in pairs):
        raise TilingError(
            f"{name}={value!r} does not fit {ndim} axes; give one number, or one for each axis."
        )
    return tuple(pairs)


def _with_override(network: nn.Module, derived: Field, halo: Any, stride: Any, ndim: int) -> Field:
    """Merge what the user gave with what the layers say; refuse less than that."""
    if halo is None and stride is None:
        return derived
    given = _pairs("halo", halo, ndim) if halo is not None else derived.halo
    strides = (
        tuple(before for before, _ in _pairs("stride", stride, ndim))
        if stride is not None
        else derived.stride
    )
    if derived.exact:
        if strides != derived.stride:
            raise TilingError(
                f"stride={stride!r} was given, but the layers make it {derived.stride}; leave it out."
            )
        return _enlarged(derived, given)
    try:
        for layer in network.modules():
            check_bounded(layer)
    except WholeImageError as error:
        raise TilingError(f"no halo makes this network exact: {error}; leave halo and stride out.") from error
    if halo is None or stride is None:
        raise TilingError(
            f"the halo of this network cannot be derived ({derived.reason}); give both halo= and stride=."
        )
    aligned = tuple((_up(a, s), _up(b, s)) for (a, b), s in zip(given, strides, strict=True))
    return Field(strides, aligned, derived.border)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _enlarged(derived: Field, given: Margins) -> Field:
    rows = zip(given, derived.halo, derived.border, derived.stride, strict=True)
    wanted = []
    for pair, least, lost, step in rows:
        if any(g < n for g, n in zip(pair, least, strict=True)):
            raise TilingError(
                f"a halo of {pair} is smaller than the {least} that the layers of this network look at, "
                "so tiles would differ from the whole image; leave it out to have it derived."
            )
        wanted.append(tuple(b + _up(g - b, step) for g, b in zip(pair, lost, strict=True)))
    return Field(derived.stride, tuple(wanted), derived.border)  # type: ignore[arg-type]
