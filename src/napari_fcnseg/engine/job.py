"""One image, one model, one set of settings: everything decided before the first tile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg._shared.settings import TISSUE, SegmentSettings
from napari_fcnseg.engine.augmented import AugmentedSegmenter
from napari_fcnseg.engine.blending import blending_notice, window_plan
from napari_fcnseg.engine.chunk_cache import CachedArray
from napari_fcnseg.engine.devices import DTYPES, choose_device, choose_precision
from napari_fcnseg.engine.heads import Head, class_head, object_head, probabilities_of
from napari_fcnseg.engine.layout import Layout, read_layout
from napari_fcnseg.engine.linkable import refuse_unlinkable
from napari_fcnseg.engine.planning import Load, RunPlan, cache_bytes, choose_tile, make_plan, plan_run
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.refining import RefiningPredictor, refined_blocks, refined_region
from napari_fcnseg.engine.sampling import Sample
from napari_fcnseg.engine.scaling import (
    choose_factors,
    choose_resampling,
    nearest_level,
    remaining,
    with_stated_spacing,
)
from napari_fcnseg.engine.source import Source, check_pixels
from napari_fcnseg.engine.tissue import Tissue, find_tissue
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.record import ModelRecord
from napari_fcnseg.preprocess.normalization import COLOURS, Normalization, PixelTransform, decide_transform
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.preprocess.statistics import sample_boxes
from napari_fcnseg.refine.chain import NO_CHAIN, Chain, make_chain
from napari_fcnseg.refine.instances import ObjectRule
from napari_fcnseg.refine.stitching import grown, slices
from napari_fcnseg.tiling.overlap import WINDOW

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
    original : Source or None
        The image that the labels are for, where `source` is a coarser level of it.
    tissue : Tissue or None
        Where there is something to segment; the rest is not computed.
    """

    model: Model
    source: Source
    settings: SegmentSettings
    normalization: Normalization
    resampling: Resampling | None
    tile_shape: tuple[int, ...]
    chain: Chain = NO_CHAIN
    original: Source | None = None
    tissue: Tissue | None = None

    @property
    def record(self) -> ModelRecord:
        """The model's card."""
        return self.model.record

    @property
    def segmenter(self) -> Segmenter:
        """What computes scores, on its device."""
        return _placed(self.model, self.settings)

    @property
    def blend(self) -> str | None:
        """The weights of windows; None where tiles are exact."""
        return blend_of(self.segmenter, self.settings)

    def say_what_blending_costs(self) -> Job:
        """Warn where the result is not that of the whole image; return the job."""
        if self.blend is not None:
            plan = window_plan(self.segmenter, self.grid, self.tile_shape)
            logger.warning(blending_notice(self.segmenter, plan))
        return self

    @property
    def plan(self) -> RunPlan:
        """The tiles and the memory of the run."""
        return plan_run(
            self.segmenter, self.grid, self.tile_shape, leading=self.source.leading,
            device=str(self.settings.device), precision=self.settings.precision,
            load=_load(self.model, self.settings, self.source, self.grid, self.labelled.shape),
        )  # fmt: skip

    @property
    def mask(self) -> Any:
        """Where the image counts, or None; axes in the order leading, space."""
        return self.labelled.mask

    @property
    def kind(self) -> str:
        """``"instances"`` or ``"classes"``."""
        return self.settings.kind or self.record.kind

    @property
    def labelled(self) -> Source:
        """The image that the labels are for."""
        return self.original or self.source

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the labels, axes in the order leading, space."""
        return self.labelled.leading + self.labelled.shape

    @property
    def grid(self) -> tuple[int, ...]:
        """Spatial shape of the grid that the model sees."""
        return self.resampling.after if self.resampling else self.source.shape

    @property
    def back(self) -> Resampling | None:
        """From the grid of the model to the pixels of the labels, if they differ."""
        return None if self.grid == self.labelled.shape else Resampling(self.grid, self.labelled.shape)

    @property
    def masked(self) -> bool:
        """Whether the image does not count everywhere."""
        return self.tissue is not None or self.mask is not None

    def mask_part(self, leading: tuple[int, ...], box: Box) -> NDArray[np.bool_] | None:
        """Return where the image counts in a box of its own grid, or None for everywhere."""
        if self.tissue is not None:
            return self.tissue.part(leading, box, self.labelled.shape)
        if self.mask is None:
            return None
        inside = self.labelled.index(tuple((i, i + 1) for i in leading), box)[1]
        return np.asarray(self.mask[slices(inside)]).reshape([b - a for a, b in box])

    @property
    def wanted(self) -> Callable[[tuple[int, ...], Box], bool] | None:
        """Tells whether anything of a box of the model's grid has to be computed; None for always."""
        tissue = self.tissue
        return None if tissue is None else lambda leading, box: tissue.anywhere(leading, box, self.grid)

    def cached(self) -> Job:
        """Return the job with the chunks that it reads kept for the tiles that share them."""
        budget = cache_bytes(self.settings.memory)
        source = replace(self.source, array=CachedArray.around(self.source.array, budget))
        return replace(self, source=source)

    def sample_boxes(self) -> list[tuple[Box, Box]]:
        """Return the boxes, along the leading and the spatial axes, that the statistics come from."""
        count = len(self.source.leading)
        return [(box[:count], box[count:]) for box in sample_boxes(self.shape)]

    def decide(self, sample: Sample) -> PixelTransform:
        """Freeze the normalisation from the sample, and report it.

        Parameters
        ----------
        sample : Sample
            Of all the :meth:`sample_boxes`.
        """
        transform = decide_transform(sample.values(), self.normalization, self.model.segmenter.in_channels)
        if sample.boxes > 1:
            # More boxes than one are a sample, and an even sample says nothing of the rest.
            transform = replace(transform, constant=False)
        if transform.rendering is not None:
            logger.info("colours are turned into %s", transform.rendering.name)
        return transform

    def predictor(self, transform: PixelTransform) -> Predictor:
        """Return what computes scores of this image."""
        tune_allocator()
        return Predictor(
            segmenter=self.segmenter,
            transform=transform,
            tile_shape=self.tile_shape,
            resampling=self.resampling,
            batch_size=self.settings.batch_size or 1,
            device=torch.device(str(self.settings.device)),
            blend=self.blend,
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
        if self.blend is None:
            return len(make_plan(self.segmenter, self.grid, self.tile_shape, region=region))
        return window_plan(self.segmenter, self.grid, self.tile_shape).count(region)

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
        ratio = np.prod([n / m for n, m in zip(self.labelled.shape, self.grid, strict=True)])
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
    segmenter = model.on(torch.device(str(settings.device)), DTYPES[settings.precision])
    return AugmentedSegmenter(segmenter, settings.tta) if settings.tta else segmenter


def is_opened(image: Any) -> bool:
    """Tell whether an image is what `open_image` returns."""
    return hasattr(image, "channel_names") and hasattr(image, "axes")


def pixels_of(image: Any) -> Any:
    """Return the array of an image: that of what `open_image` returns, or the image itself."""
    return image.data if is_opened(image) else image


def streamed(image: Any) -> Any:
    """Return what is read box by box of a lazy image, without a graph where there is a way around it."""
    direct = getattr(image, "pixels", None) if is_opened(image) else None
    return pixels_of(image) if direct is None else direct


def _axes_of(image: Any, settings: SegmentSettings) -> tuple[str | None, tuple[str, ...]]:
    """Return the axes of an image, and its channel names where it states them."""
    if not is_opened(image):
        return settings.axes, ()
    # Axes that the reader assumed are none: the user says what they are, or they are those of the model.
    silent = settings.axes is None and settings.channel_axis is None
    return image.axes if silent and image.axes_stated else settings.axes, tuple(image.channel_names)


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


def blend_of(segmenter: Segmenter, settings: SegmentSettings) -> str | None:
    """Return the weights of windows: as asked for, Gaussian where tiles cannot be exact, else None."""
    return settings.blend or (None if segmenter.exact_tiling else "gaussian")


def _load(
    model: Model,
    settings: SegmentSettings,
    source: Source,
    grid: tuple[int, ...],
    labelled: tuple[int, ...],
) -> Load:
    """Return what a run holds beside the tiles of its model."""
    first, stop = source.used_channels
    objects = (settings.kind or model.record.kind) == "instances"
    rule = model.record.objects
    return Load(
        batch_size=settings.batch_size or 1,
        pixel=source.dtype.itemsize * (stop - first),
        channels=len(source.layout.channels) or 1,
        result=8 if objects else 1,
        before=None if grid == source.shape else source.shape,
        labels=None if objects or grid == labelled else labelled,
        blended=blend_of(_placed(model, settings), settings) is not None,
        reach=(rule.reach if rule else 0) if objects else None,
    )


def tile_of(
    model: Model,
    settings: SegmentSettings,
    source: Source,
    grid: tuple[int, ...],
    labelled: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """Return the tile: as asked for, as memory allows; or the window, which never depends on memory.

    `labelled` is the spatial shape of the labels, where it is not that of the source.
    """
    segmenter = _placed(model, settings)
    window = None
    if blend_of(segmenter, settings):
        window = model.record.tile_shape or (WINDOW[len(grid)],) * len(grid)
    return choose_tile(
        segmenter, grid, tile_shape=settings.tile_shape or window, memory=settings.memory,
        load=_load(model, settings, source, grid, labelled or source.shape),
    )  # fmt: skip


def make_job(
    image: Any,
    model: Model,
    settings: SegmentSettings,
    mask: Any = None,
    convert: Callable[[Any], Any] = pixels_of,
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
    convert : callable
        Returns the array that is read of an image.
    refine : optional
        As for :func:`~napari_fcnseg.refine.chain.make_chain`; that of the settings by default.

    Raises
    ------
    InputError, AxesError, DeviceError, TilingError
        With what was got, what is allowed, and the cure.
    """
    if settings.masked and mask is None:
        raise InputError(f"the mask is named by its hash only, {settings.mask}; give the array.")
    axes, names = _axes_of(image, settings)
    array, record = convert(image), model.record
    check_pixels(array)
    layout = read_layout(
        array.shape, record.ndim, axes=axes, channel_axis=settings.channel_axis, channel=settings.channel,
        names=names, inputs=record.inputs, colour_input=record.colour_input,
    )  # fmt: skip
    original = Source.whole(array, layout, _checked_mask(mask, array, layout))
    resolved = _resolved(settings, model)
    refuse_unlinkable(resolved, record, layout)
    resolved = with_stated_spacing(resolved, image, record)
    source, resampling = _at_nearest_level(image, original, choose_factors(resolved, record), convert)
    return Job(
        model=model,
        source=source,
        settings=resolved,
        normalization=_normalization(settings, model, layout),
        resampling=resampling,
        tile_shape=tile_of(
            model, resolved, source, resampling.after if resampling else source.shape, original.shape
        ),
        chain=_chain(resolved, record, refine),
        original=None if source is original else original,
        tissue=find_tissue(image, original, convert) if settings.mask == TISSUE else None,
    )


def _at_nearest_level(
    image: Any, original: Source, factors: tuple[float, ...] | None, convert: Callable[[Any], Any]
) -> tuple[Source, Resampling | None]:
    """Return the level of an opened image that needs the least rescaling, and how it is rescaled."""
    levels: Sequence[tuple[int, ...]] = ()
    if is_opened(image) and original.mask is None:
        levels = image.levels[image.level :]
    # Some pyramids have fewer planes or channels above; those are other planes then.
    others = [axis for axis in range(len(original.array.shape)) if axis not in original.layout.spatial]
    whole = [n for n, level in enumerate(levels) if all(level[a] == levels[0][a] for a in others)]
    shapes = [tuple(levels[n][axis] for axis in original.layout.spatial) for n in whole]
    level = whole[nearest_level(shapes, factors)] if whole else 0
    if not level:
        return original, choose_resampling(original.shape, factors)
    source = Source.whole(convert(image.at_level(image.level + level)), original.layout)
    logger.info("reading resolution level %d, %s pixels", image.level + level, source.shape)
    return source, choose_resampling(source.shape, remaining(original.shape, source.shape, factors or ()))
