"""Pre- and post-processing as a package of the BioImage Model Zoo states it, and as the engine runs it.

What needs statistics of the image becomes a
:class:`~napari_fcnseg.preprocess.normalization.Normalization`, decided once
for the whole image; what treats each pixel by itself becomes a step around
the network, tile by tile. Names and meanings are those of bioimageio.spec,
``model.v0_5``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from napari_fcnseg._shared.errors import ModelFileError
from napari_fcnseg._shared.protocols import Box, Margins, Segmenter
from napari_fcnseg.preprocess.normalization import Normalization

Step = Callable[[torch.Tensor], torch.Tensor]
"""Takes ``(n, channels, *spatial)`` and returns the same shape; each pixel by itself."""

STATISTICS = ("zero_mean_unit_variance", "scale_range")


class ProcessedSegmenter:
    """A segmenter with steps before and after it.

    Parameters
    ----------
    inner : Segmenter
        What computes scores.
    before, after : sequence of Step
        Applied to its input and its output.
    """

    def __init__(self, inner: Segmenter, before: Sequence[Step], after: Sequence[Step]) -> None:
        self.inner, self.before, self.after = inner, tuple(before), tuple(after)
        self.in_channels, self.out_channels, self.ndim = inner.in_channels, inner.out_channels, inner.ndim
        self.stride: tuple[int, ...] = inner.stride
        self.halo: Margins = inner.halo
        self.border: Margins = inner.border
        self.padding_mode = inner.padding_mode
        self.exact_tiling, self.inexact_reason = inner.exact_tiling, inner.inexact_reason
        self.progressive = inner.progressive
        self.float32_reason = str(getattr(inner, "float32_reason", ""))

    def on(self, device: torch.device | str, dtype: torch.dtype) -> ProcessedSegmenter:
        """Return this segmenter for a device and precision."""
        place = getattr(self.inner, "on", None)
        return self if place is None else ProcessedSegmenter(place(device, dtype), self.before, self.after)

    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return processed scores; see :meth:`Segmenter.predict`."""
        for step in self.before:
            batch = step(batch)
        scores = self.inner.predict(batch, keep)
        for step in self.after:
            scores = step(scores)
        return scores


def read_preprocessing(
    steps: Sequence[Any], spatial: Sequence[str], channels: int, tensor: str
) -> tuple[Normalization, tuple[Step, ...]]:
    """Return what the statistics of the image decide, and the steps that follow.

    Parameters
    ----------
    steps : sequence
        As bioimageio.spec describes them.
    spatial : sequence of str
        Names of the spatial axes.
    channels : int
        Channels of the image.
    tensor : str
        Name of the input.

    Raises
    ------
    ModelFileError
        For a step that is not supported, by its name.
    """
    steps = [step for step in steps if not _keeps_values(step)]
    places = [i for i, step in enumerate(steps) if step.id in STATISTICS]
    if not places:
        return Normalization("none"), tuple(pixel_step(step, channels) for step in steps)
    if len(places) > 1:
        raise ModelFileError(
            f"{steps[places[1]].id} follows {steps[places[0]].id}; one of them is supported."
        )
    first = places[0]
    gain = _leading_gain(steps[:first], steps[first].id)
    normalization = _normalization(steps[first], spatial, channels, tensor, gain)
    return normalization, tuple(pixel_step(step, channels) for step in steps[first + 1 :])


def read_postprocessing(steps: Sequence[Any], channels: int) -> tuple[Step, ...]:
    """Return the steps after the network.

    Raises
    ------
    ModelFileError
        For a step that is not supported, or that looks at the whole output.
    """
    return tuple(pixel_step(step, channels) for step in steps if not _keeps_values(step))


def pixel_step(step: Any, channels: int) -> Step:
    """Return a step that treats each pixel by itself.

    Raises
    ------
    ModelFileError
        If it is none, or not supported.
    """
    if step.id not in _STEPS:
        known = ", ".join(sorted({*_STEPS, *STATISTICS}))
        why = "looks at the whole image after other steps" if step.id in STATISTICS else "is not supported"
        raise ModelFileError(f"the package's processing step {step.id!r} {why}; supported are {known}.")
    return _STEPS[step.id](step, channels)


def _keeps_values(step: Any) -> bool:
    return step.id == "ensure_dtype" and str(step.kwargs.dtype).startswith("float")


def _leading_gain(steps: Sequence[Any], statistics: str) -> float:
    """Return by how much fixed steps before the statistics scale the image; they cancel but for `eps`."""
    gain = 1.0
    for step in steps:
        factor = None
        if step.id == "scale_linear":
            factor = _only(step.kwargs.gain)
        elif step.id == "fixed_zero_mean_unit_variance":
            factor = 1 / deviation if (deviation := _only(step.kwargs.std)) else None
        if factor is None or factor <= 0:
            raise ModelFileError(
                f"{statistics} after {step.id} is not supported: it needs the statistics of a changed image."
            )
        gain *= factor
    return gain


def _only(values: float | Sequence[float]) -> float | None:
    listed = _listed(values)
    return listed[0] if len(set(listed)) == 1 else None


def _listed(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, Sequence) else (float(values),)


def _normalization(
    step: Any, spatial: Sequence[str], channels: int, tensor: str, gain: float
) -> Normalization:
    axes = None if step.kwargs.axes is None else [str(axis) for axis in step.kwargs.axes]
    if axes is not None and not set(spatial) <= set(axes):
        raise ModelFileError(
            f"{step.id} over the axes {', '.join(axes)} alone is not supported; it must run over all of "
            f"{', '.join(spatial)}."
        )
    together = channels > 1 and (axes is None or "channel" in axes)
    eps = float(step.kwargs.eps) / gain
    if step.id == "zero_mean_unit_variance":
        return Normalization("standard", together=together, eps=eps)
    if step.kwargs.reference_tensor not in (None, tensor):
        raise ModelFileError(
            f"{step.id} by another tensor ({step.kwargs.reference_tensor}) is not supported."
        )
    low, high = float(step.kwargs.min_percentile), float(step.kwargs.max_percentile)
    return Normalization("percentile", low, high, together=together, eps=eps)


def _per_channel(values: Any, like: torch.Tensor) -> torch.Tensor:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(shape)


def _numbers(step: Any, name: str, channels: int) -> tuple[float, ...]:
    """Return one number for all channels, or one for each."""
    values = _listed(getattr(step.kwargs, name))
    axis = getattr(step.kwargs, "axis", None)
    if axis not in (None, "channel") or len(values) not in (1, channels):
        raise ModelFileError(
            f"{step.id} has {len(values)} values for {name} along the axis {axis}; one for all, or one for "
            f"each of {channels} channels, is supported."
        )
    return values


def _linear(x: torch.Tensor, gain: tuple[float, ...], offset: tuple[float, ...]) -> torch.Tensor:
    return x * _per_channel(gain, x) + _per_channel(offset, x)


def _standardised(x: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (x - _per_channel(mean, x)) / _per_channel(std, x)


def _binarized(x: torch.Tensor, threshold: tuple[float, ...]) -> torch.Tensor:
    return (x > _per_channel(threshold, x)).to(x.dtype)


def _linear_step(step: Any, channels: int) -> Step:
    gain, offset = (_numbers(step, name, channels) for name in ("gain", "offset"))
    return partial(_linear, gain=gain, offset=offset)


def _standard_step(step: Any, channels: int) -> Step:
    mean, std = (_numbers(step, name, channels) for name in ("mean", "std"))
    return partial(_standardised, mean=mean, std=std)


def _clip_step(step: Any, channels: int) -> Step:
    kwargs = step.kwargs
    if any(getattr(kwargs, name, None) is not None for name in ("min_percentile", "max_percentile")):
        raise ModelFileError("clip by percentiles is not supported; by numbers it is.")
    return partial(torch.clamp, min=kwargs.min, max=kwargs.max)


def _softmax_step(step: Any, channels: int) -> Step:
    axis = getattr(getattr(step, "kwargs", None), "axis", "channel")
    if axis != "channel":
        raise ModelFileError(f"softmax along the axis {axis} is not supported; along channel it is.")
    return partial(torch.softmax, dim=1)


def _dtype_step(step: Any, channels: int) -> Step:
    return partial(_binarized, threshold=(0.0,)) if step.kwargs.dtype == "bool" else torch.trunc


_STEPS: dict[str, Callable[[Any, int], Step]] = {
    "binarize": lambda step, channels: partial(_binarized, threshold=_numbers(step, "threshold", channels)),
    "clip": _clip_step,
    "ensure_dtype": _dtype_step,
    "fixed_zero_mean_unit_variance": _standard_step,
    "scale_linear": _linear_step,
    "sigmoid": lambda step, channels: torch.sigmoid,
    "softmax": _softmax_step,
}
