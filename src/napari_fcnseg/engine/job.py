"""One image, one model, one set of settings: everything decided before the first tile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.devices import DTYPES, choose_device, choose_precision
from napari_fcnseg.engine.heads import Head, class_head, object_head, probabilities_of
from napari_fcnseg.engine.layout import Layout, read_layout
from napari_fcnseg.engine.planning import choose_tile, make_plan
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.refining import RefiningPredictor, refined_blocks, refined_region
from napari_fcnseg.engine.scaling import choose_resampling
from napari_fcnseg.engine.source import Source, check_finite, check_pixels
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.record import ModelRecord
from napari_fcnseg.preprocess.normalization import COLOURS, Normalization, PixelTransform, decide_transform
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.preprocess.statistics import sample_boxes
from napari_fcnseg.refine.chain import NO_CHAIN, Chain, make_chain
from napari_fcnseg.refine.instances import ObjectRule
from napari_fcnseg.refine.stitching import grown
from napari_fcnseg.tiling.overlap import windows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """What is decided from the shapes and the settings alone, before any pixel is read.

    Attributes
    ----------
    model : Model
        What runs.
    source : Source
        What it runs on, with its mask.
    settings : SegmentSettings
        As given, with kind, device, precision and batch size resolved.
    normalization : Normalization
        What will be decided from the pixels.
    resampling : Resampling or None
        To the model's pixel size.
    tile_shape : tuple of int
        What one tile writes, or the window of a model that cannot be tiled exactly.
    chain : Chain
        What refines probabilities and objects.
    """

    model: Model
    source: Source
    settings: SegmentSettings
    normalization: Normalization
    resampling: Resampling | None
    tile_shape: tuple[int, ...]
    chain: Chain = NO_CHAIN

    @property
    def record(self) -> ModelRecord:
        """The model's card."""
        return self.model.record

    @property
    def mask(self) -> Any:
        """Where the image counts, or None; axes in the order leading, space."""
        return self.source.mask

    @property
    def kind(self) -> str:
        """``"instances"`` or ``"classes"``."""
        return self.settings.kind or self.record.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the labels, axes in the order leading, space."""
        return self.source.leading + self.source.shape

    @property
    def grid(self) -> tuple[int, ...]:
        """Spatial shape of the grid that the model sees."""
        return self.resampling.after if self.resampling else self.source.shape

    def sample_boxes(self) -> list[tuple[Box, Box]]:
        """Return the boxes, along the leading and the spatial axes, that the statistics come from."""
        count = len(self.source.leading)
        return [(box[:count], box[count:]) for box in sample_boxes(self.shape)]

    def decide(self, sample: Iterable[tuple[NDArray[Any], NDArray[np.bool_] | None]]) -> PixelTransform:
        """Freeze the normalisation from the sample, and report it.

        Parameters
        ----------
        sample : iterable of (ndarray, ndarray or None)
            Pixels, channels first, and mask of each of the :meth:`sample_boxes`.
        """
        values = []
        for pixels, mask in sample:
            check_finite(pixels, mask)
            values.append(pixels.reshape(len(pixels), -1) if mask is None else pixels[:, mask])
        transform = decide_transform(
            np.concatenate(values, axis=1), self.normalization, self.model.segmenter.in_channels
        )
        if len(values) > 1:
            # More boxes than one are a sample, and an even sample says nothing of the rest.
            transform = replace(transform, constant=False)
        if transform.rendering is not None:
            logger.info("colours are turned into %s", transform.rendering.name)
        return transform

    def predictor(self, transform: PixelTransform) -> Predictor:
        """Return what computes scores of this image."""
        tune_allocator()
        return Predictor(
            segmenter=_placed(self.model, self.settings),
            transform=transform,
            tile_shape=self.tile_shape,
            resampling=self.resampling,
            batch_size=self.settings.batch_size or 1,
            device=torch.device(str(self.settings.device)),
        )

    def refining(self, transform: PixelTransform, *, raw: bool = False) -> Predictor | RefiningPredictor:
        """Return what computes refined scores, or those of the model alone if there is nothing to refine."""
        predictor = self.predictor(transform)
        if raw or not self.chain.of_probabilities:
            return predictor
        stretch = self.normalization.method == "percentile"
        return RefiningPredictor(predictor, self.chain, 1 + len(self.record.classes), stretch)

    def refined_region(self, region: Box) -> Box:
        """Return which box of the model's grid has to be predicted for a region of it."""
        if not self.chain.of_probabilities:
            return region
        return refined_region(self.grid, region, self.chain.halo)

    def count_tiles(self, region: Box) -> int:
        """Return how many tiles, or windows, a region of one plane of the model's grid takes."""
        if self.chain.of_probabilities:
            parts = [grown(part, self.chain.halo, self.grid) for part in refined_blocks(self.grid, region)]
            return sum(replace(self, chain=NO_CHAIN).count_tiles(part) for part in parts)
        if self.model.segmenter.exact_tiling:
            return len(make_plan(self.model.segmenter, self.grid, self.tile_shape, region=region))
        return sum(1 for _ in windows(self.grid, self.tile_shape, region))

    @property
    def class_head(self) -> Head:
        """From scores to class labels."""
        return class_head(self.record, self.settings.threshold)

    @property
    def object_head(self) -> Head:
        """From scores to foreground and seed score."""
        return object_head(self.record)

    def score_head(self, *, raw: bool) -> Head:
        """From scores to class probabilities, or the scores themselves."""
        return Head() if raw else Head(probabilities_of(self.record))

    @property
    def rule(self) -> ObjectRule:
        """How objects are made."""
        threshold = self.settings.threshold
        if self.record.objects is None:
            return ObjectRule(0.0, 0.5 if threshold is None else threshold, reach=0, fill_holes=False)
        if threshold is None:
            return self.record.objects
        return replace(self.record.objects, foreground_threshold=threshold)

    @property
    def min_size(self) -> int:
        """Least number of pixels of an object, on the grid of the image."""
        if self.settings.min_size is not None:
            return self.settings.min_size
        ratio = np.prod([n / m for n, m in zip(self.source.shape, self.grid, strict=True)])
        return round(self.record.min_size * float(ratio))

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Data type of the labels."""
        if self.kind == "instances":
            return np.dtype(self.settings.label_dtype or "int32")
        top = max(c.value for c in self.record.classes)
        dtype = np.dtype(self.settings.label_dtype or np.min_scalar_type(top))
        if np.iinfo(dtype).max < top:
            raise InputError(f"label_dtype={dtype.name!r} cannot hold class {top}; leave it out.")
        return dtype


def _placed(model: Model, settings: SegmentSettings) -> Segmenter:
    return model.on(torch.device(str(settings.device)), DTYPES[settings.precision])


def _axes_of(image: Any, settings: SegmentSettings) -> tuple[Any, str | None, tuple[str, ...]]:
    """Return the array of an image, its axes, and its channel names where it states them."""
    if hasattr(image, "channel_names") and hasattr(image, "axes"):  # what open_image returns
        # Axes that the reader assumed are none: the user says what they are, or they are those of the model.
        silent = settings.axes is None and settings.channel_axis is None
        axes = image.axes if silent and image.axes_stated else settings.axes
        return image.data, axes, tuple(image.channel_names)
    return image, settings.axes, ()


def _checked_mask(mask: Any, array: Any, layout: Layout) -> Any:
    """Return the mask as booleans, with its axes in the order leading, space."""
    if mask is None:
        return None
    order = layout.output_order()
    expected = tuple(array.shape[axis] for axis in order)
    if tuple(mask.shape) != expected:
        raise InputError(
            f"the mask has shape {tuple(mask.shape)}, but the image without its channels has {expected}."
        )
    if np.dtype(mask.dtype).kind not in "bui":
        raise InputError(f"the mask has data type {mask.dtype}; give booleans, True where the image counts.")
    wanted = layout.leading + layout.spatial
    return mask.transpose([order.index(axis) for axis in wanted]) != 0


def _precision(settings: SegmentSettings, model: Model, device: torch.device) -> str:
    """Return the precision to compute in; refuse one in which the model's result would mean little."""
    reason = getattr(model.segmenter, "float32_reason", "")
    if not reason:
        return choose_precision(settings.precision, device)
    if settings.precision == "bfloat16":
        raise InputError(
            f"precision='bfloat16' was asked for, but {model.record.id} {reason}; take 'float32' or 'auto'."
        )
    return "float32"


def _resolved(settings: SegmentSettings, model: Model) -> SegmentSettings:
    """Return the settings without anything left to the machine; refuse those that contradict each other."""
    kind = settings.kind or model.record.kind
    if kind == "classes" and (settings.min_size is not None or settings.clear_border):
        raise InputError(
            "min_size and clear_border are about objects; leave them out, or give kind='instances'."
        )
    device = choose_device(settings.device)
    return replace(
        settings,
        kind=kind,
        device=str(device),
        precision=_precision(settings, model, device),
        batch_size=settings.batch_size or 1,
    )


def _normalization(settings: SegmentSettings, model: Model, layout: Layout) -> Normalization:
    """Return how pixels are normalised; refuse a colour rule that has no colours."""
    asked = settings.normalization
    colour = asked.get("colour", "auto") if isinstance(asked, dict) else asked
    turned = layout.channel is not None and len(layout.channels) != model.segmenter.in_channels
    if colour in COLOURS and colour != "auto" and not turned:
        raise InputError(
            f"normalization={colour!r} is about colours, but the image is not taken as red, green and blue; "
            "name its colour axis: channel_axis=."
        )
    return Normalization.resolve(asked, model.record.normalization)


def _chain(settings: SegmentSettings, record: ModelRecord, refine: Any) -> Chain:
    """Return the refinements; refuse those of objects where there are none."""
    chain = make_chain(settings.refine if refine is None else refine)
    if chain.of_objects and settings.kind == "classes":
        raise InputError(
            f"refine step {chain.of_objects[0].name!r} is about objects; leave it out, or give "
            "kind='instances'."
        )
    return chain


def _tile_of(model: Model, settings: SegmentSettings, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tile: as asked for, as memory allows, or the window of the card."""
    segmenter = _placed(model, settings)
    window = None if segmenter.exact_tiling else model.record.tile_shape
    return choose_tile(
        segmenter, grid, tile_shape=settings.tile_shape or window, memory=settings.memory,
        batch_size=settings.batch_size or 1,
    )  # fmt: skip


def make_job(
    image: Any,
    model: Model,
    settings: SegmentSettings,
    mask: Any = None,
    as_lazy: Callable[[Any], Any] | None = None,
    refine: Any = None,
) -> Job:
    """Decide everything that needs no pixels, and refuse what cannot work.

    Parameters
    ----------
    image : array
        NumPy, dask, zarr, or what ``open_image`` returns.
    model : Model
        What to run.
    settings : SegmentSettings
        All options.
    mask : array of bool or None
        Where the image counts; NumPy or dask.
    as_lazy : callable, optional
        Applied to the array of the image first.
    refine : optional
        As for :func:`~napari_fcnseg.refine.chain.make_chain`; that of the settings by default.

    Raises
    ------
    InputError, AxesError, DeviceError, TilingError
        With what was got, what is allowed, and the cure.
    """
    array, axes, names = _axes_of(image, settings)
    array = as_lazy(array) if as_lazy else array
    check_pixels(array)
    record = model.record
    layout = read_layout(
        array.shape, record.ndim, axes=axes, channel_axis=settings.channel_axis, channel=settings.channel,
        names=names, inputs=record.inputs, colour_input=record.colour_input,
    )  # fmt: skip
    source = Source.whole(array, layout, _checked_mask(mask, array, layout))
    resolved = _resolved(settings, model)
    resampling = choose_resampling(source.shape, settings, record)
    return Job(
        model=model,
        source=source,
        settings=resolved,
        normalization=_normalization(settings, model, layout),
        resampling=resampling,
        tile_shape=_tile_of(model, resolved, resampling.after if resampling else source.shape),
        chain=_chain(resolved, record, refine),
    )
