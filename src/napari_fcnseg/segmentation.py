"""The public verbs: an image in, labels or probabilities out."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from napari_fcnseg._shared.control import Progress, RunControl
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import lazy, run
from napari_fcnseg.engine.calls import image_array, job_of, mask_array, settings_of
from napari_fcnseg.engine.job import Job, make_job, streamed
from napari_fcnseg.engine.planning import RunPlan
from napari_fcnseg.engine.recording import make_record
from napari_fcnseg.engine.target import Target
from napari_fcnseg.engine.to_zarr import segment_to_store
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.registry import load_model
from napari_fcnseg.preprocess.normalization import Normalization, PixelTransform
from napari_fcnseg.refine.chain import make_chain

ModelLike: TypeAlias = str | Path | Model


def segment(
    image: Any,
    model: ModelLike = "nuclei",
    *,
    kind: str | None = None,
    axes: str | None = None,
    channel_axis: int | None = None,
    channel: int | str | Sequence[int | str] | None = None,
    spacing: Mapping[str, float] | Sequence[float] | None = None,
    diameter: float | None = None,
    mask: Any = None,
    normalization: Normalization | Mapping[str, Any] | str | None = None,
    threshold: float | None = None,
    min_size: int | None = None,
    clear_border: bool = False,
    tile_shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    precision: str = "auto",
    label_dtype: str | None = None,
    refine: Any = None,
    blend: str | None = None,
    tta: str | None = None,
    link_z: float | None = None,
    progress: Progress | None = None,
    control: RunControl | None = None,
) -> Any:
    """Segment an image of any size.

    The image is gone through in tiles; the result is that of the whole image
    seen at once, whatever the tiles.

    Parameters
    ----------
    image : array
        Integers or floats of any range. NumPy (or a list) gives NumPy; dask,
        zarr, or what :func:`open_image` returns gives a lazy dask array with
        the chunks of the image.
    model : str, Path, Model
        A name (``"nuclei"``, ``"nuclei@1"``), the folder or card of a model, a
        package of the BioImage Model Zoo (yaml, folder or zip), or what
        :func:`load_model` or :func:`as_model` returned.
    kind : {"instances", "classes"}, optional
        Objects numbered from 1, or the class of each pixel. The model's own
        kind by default.
    axes : str, optional
        One letter for each axis, of ``t c z y x``. Axes that the model does
        not look along (``t``, and ``z`` for a 2D model) are gone through one
        by one. Needed unless the image has just the axes of the model, or
        `channel_axis` names the only other one; taken from the file for what
        `open_image` returns.
    channel_axis : int, optional
        The axis of the channels or colours, as in scikit-image.
    channel : int, str or sequence, optional
        Which channels to use, by index or by the name that the file gives them.
    spacing : mapping or sequence of float, optional
        Micrometres for each pixel: by axis, or in the order z, y, x of those
        that the model looks along; what the file of an opened image states by
        default. The image is rescaled to the model's pixel size where they
        differ by more than 10 %, from the resolution level that is nearest to it.
    diameter : float, optional
        Typical object in pixels; rescales likewise. Give one of the two.
    mask : array of bool or "tissue", optional
        Where the image counts, in the shape of the image without channels.
        Elsewhere labels are 0 and pixels may be NaN. ``"tissue"`` finds the
        tissue of a slide on a low level, and leaves out what is not.
    normalization : str, mapping or Normalization, optional
        The model's own by default. For colour images ``"haematoxylin"``,
        ``"haematoxylin-dab"``, ``"nuclear stain"``, ``"luminance"`` or ``"inverted
        luminance"`` overrides what is decided, once, from the background and
        from whether a brown stain is present.
    threshold : float, optional
        Probability above which a pixel is foreground, 0 to 1.
    min_size : int, optional
        Drop objects of fewer pixels of the image. Not for classes.
    clear_border : bool
        Drop objects that touch the border of the image (of each plane). Not
        for classes.
    tile_shape : sequence of int, optional
        What one tile writes, in pixels. Does not change the result. For a
        model that cannot be tiled exactly: its window, which does.
    batch_size : int, optional
        Tiles computed together; 1 by default.
    memory : int or str, optional
        What the run may take beside what the process holds and, for NumPy, the
        labels: bytes or ``"4GB"``; a quarter of what is free by default.
        Chooses the tiles; too large a `tile_shape` is refused.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; the best there is by default.
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` is bfloat16 where the processor or the card has instructions
        for it, float32 elsewhere; the record states which. Only
        ``"float32"`` gives the same bits on machines that differ in that.
    label_dtype : str, optional
        Data type of the labels, such as ``"int64"``.
    refine : str, mapping, callable, or list of these, optional
        What follows the model: a name such as ``"crf"``, or a mapping of a
        name and options such as ``{"name": "crf", "iterations": 5}``; see
        :data:`~napari_fcnseg.refine.chain.REFINEMENTS`. A function of your own is
        given probabilities (classes first) and image (channels first, 0 to
        1) of a block with ``function.halo`` pixels around it, and returns
        probabilities. Blocks have 1024 pixels along each axis, 128 in 3D,
        wherever tiles lie; smaller images are refined as a whole.
    blend : {"constant", "gaussian"}, optional
        Average overlapping windows with these weights instead of tiling
        exactly. Models that cannot be tiled exactly always are, ``"gaussian"`` by default.
    tta : {"flips", "full"}, optional
        Test-time augmentation: average the scores of the image mirrored along
        each axis, and for ``"full"`` also turned by right angles in the y-x
        plane. 4 and 8 times the work in 2D, 8 and 16 in 3D.
    link_z : float, optional
        Join the objects of consecutive slices along z where their overlap
        (intersection over union) is at least this, 0 to 1, and each is the
        other's best. For 2D models on stacks; slices stay apart by default.
    progress : callable, optional
        Called with ``(done, total)`` after each tile. What it raises ends the
        run, such as ``Cancelled``. Of lazy results called while they are computed in this process.
    control : RunControl, optional
        Cancels, pauses and resumes the run from another thread.

    Returns
    -------
    ndarray or dask.array.Array
        The shape of the image without its channel axis. Objects are int32,
        1..N without gaps in the order in which their first pixel comes in the
        array (leading axes first, then z, y, x); ids are unique over a stack.
        Classes are uint8 where that fits, with the card's values. 0 is
        background or outside the mask.

    Raises
    ------
    AxesError
        If the axes do not fit the model; the message spells out the likely calls.
    InputError
        For an option out of range, an empty image, NaN or infinity. Of lazy
        input, pixels are checked at compute.
    TilingError
        If no tile, or not the one asked for, fits the memory.
    ModelError
        If the model is not known, damaged, or a bare network (see :func:`as_model`).
    LabelOverflowError
        If there are more objects than `label_dtype` can number.
    DeviceError
        If the device is not there.

    See Also
    --------
    predict : Probabilities instead of labels.
    segment_to_zarr : Streams into a store, whatever the size of the image.
    segment_recorded : Also returns the record of the run.

    Notes
    -----
    For lazy input, objects need the whole image: reading one block of the
    result runs all of it, into a temporary zarr that is kept as long as the
    array. :func:`segment_to_zarr` keeps the result, and can be resumed.

    On Linux the first run tells the C library to keep freed memory in the
    process, which makes large tiles twice as fast on a CPU.

    Examples
    --------
    >>> from skimage.data import coins
    >>> labels = segment(coins()[:128, :128], kind="classes")
    >>> labels.shape, labels.dtype
    ((128, 128), dtype('uint8'))
    """
    options = _options(locals())
    image, job = job_of(image, model, mask, options)
    job.say_what_blending_costs()
    if lazy.is_lazy(image):
        make = lazy.lazy_classes if job.kind == "classes" else lazy.lazy_objects
        return job.source.layout.image_order(make(job, progress, control))
    return _segment_now(job, progress, control)[0]


NO_SETTINGS = ("image", "model", "mask", "progress", "control", "raw")


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that are settings."""
    return {k: v for k, v in given.items() if k not in NO_SETTINGS}


def _segment_now(
    job: Job, progress: Progress | None, control: RunControl | None
) -> tuple[NDArray[Any], PixelTransform, run.Found | None]:
    """Return labels in the image's axis order, the normalisation, and what objects were found."""
    if job.kind == "classes":
        labels, transform = run.run_classes(job, progress, control)
        return job.source.layout.image_order(labels), transform, None
    labels, found, transform = run.run_objects(job, progress, control)
    return job.source.layout.image_order(labels), transform, found


def segment_recorded(
    image: Any,
    model: ModelLike = "nuclei",
    *,
    mask: Any = None,
    progress: Progress | None = None,
    control: RunControl | None = None,
    **options: Any,
) -> tuple[NDArray[Any], RunRecord]:
    """Segment an image now, and state what was done.

    Parameters
    ----------
    image, model, mask, progress, control, **options
        As for :func:`segment`.

    Returns
    -------
    labels : ndarray
        Also for lazy input, which is read tile by tile.
    record : RunRecord
        Resolved settings, model, normalisation, tiles, versions.

    Raises
    ------
    FcnsegError
        As for :func:`segment`.

    See Also
    --------
    segment : Labels alone; lazy for lazy input.

    Examples
    --------
    >>> from skimage.data import coins
    >>> labels, record = segment_recorded(coins()[:64, :64], device="cpu", precision="float32")
    >>> record.settings.model, record.plan["tiles"]
    ('nuclei@1', 1)
    """
    started, clock = dt.datetime.now(dt.UTC), time.perf_counter()
    image, job = job_of(image, model, mask, options, streamed)
    labels, transform, found = _segment_now(job.say_what_blending_costs().cached(), progress, control)
    record = make_record(
        image, job, transform, started=started, seconds=time.perf_counter() - clock,
        objects=found.objects if found else None, cut_by_reach=found.cut_by_reach if found else 0,
    )  # fmt: skip
    return labels, record


def segment_to_zarr(
    image: Any,
    store: str | Path,
    model: ModelLike = "nuclei",
    *,
    name: str | None = None,
    ome_zarr_version: str = "0.5",
    overwrite: bool = False,
    resume: bool = True,
    client: Any = None,
    mask: Any = None,
    progress: Progress | None = None,
    control: RunControl | None = None,
    **options: Any,
) -> RunRecord:
    """Segment an image of any size into an OME-Zarr label image.

    Pixels stream from the image through the model into the store, within
    `memory` whatever the size of the image. Killed at any moment and called
    again, the run goes on where it was, and the files are those of a run that
    was never stopped.

    Parameters
    ----------
    image, model, mask, progress, control, **options
        As for :func:`segment`. Lazy images (dask, zarr, what
        :func:`open_image` returns) are read tile by tile.
    store : str or Path
        Folder of the label image, such as ``"nuclei.ome.zarr"``. It is called
        ``<store>.partial`` until it is complete. With `name`: the OME-Zarr image
        that gets the labels.
    name : str, optional
        Write among the labels of the OME-Zarr image `store`, under this name.
    ome_zarr_version : {"0.5", "0.4"}
        Of a new store; labels inside an image have the version of the image.
    overwrite : bool
        Replace a finished store; it stays until the new one is complete.
    resume : bool
        Go on with a run that was stopped; else its store is thrown away.
    client : distributed.Client, optional
        Spread the shards over the workers of this cluster, which must see
        image and store under the same paths. `memory` is then for each of their threads.

    Returns
    -------
    RunRecord
        Also kept in the attributes of the store, under ``"napari_fcnseg"``.

    Raises
    ------
    OutputExistsError
        If the store is there and `overwrite` is false.
    ResumeError
        If the stopped run was begun with another image, model, setting or
        version, which the message names; or if another process is at it.
    FcnsegError
        As for :func:`segment`.

    See Also
    --------
    plan_segmentation : The tiles and the memory of a run, without running it.

    Notes
    -----
    The store has as many resolution levels as the image, or levels down to 512
    pixels; labels of a level are those of the nearest pixel. Chunks lie in
    shards of 2048 x 2048 or 256 x 256 x 256 pixels, one file each.

    That the image is still the same is told by its shape and by the pixels
    that its normalisation is taken from: all of them up to 2^26, a fixed sample beyond.

    Examples
    --------
    >>> import tempfile, zarr
    >>> from skimage.data import coins
    >>> store = tempfile.mkdtemp() + "/coins.ome.zarr"
    >>> record = segment_to_zarr(coins()[:96, :128], store, device="cpu")
    >>> labels = zarr.open_array(store + "/0")
    >>> labels.shape, int(labels[:].max()) == record.objects
    ((96, 128), True)
    """
    loaded = load_model(model)
    image = image_array(image)
    masked = {"mask": mask} if isinstance(mask, str) else {}
    settings = settings_of(model, loaded, {**options, **masked})
    array = mask_array(mask, as_lazy=lazy.is_lazy(image))

    def make(resolved: SegmentSettings) -> Job:
        job = make_job(image, loaded, resolved, array, streamed, options.get("refine"))
        return job.say_what_blending_costs()

    target = Target.choose(store, name, ome_zarr_version)
    return segment_to_store(
        make, image, settings, target, overwrite=overwrite, resume=resume, client=client, progress=progress,
        control=control,
    )  # fmt: skip


def plan_segmentation(
    image: Any, model: ModelLike = "nuclei", *, mask: Any = None, **options: Any
) -> RunPlan:
    """Return the tiles and the memory of a run, without running it.

    Parameters
    ----------
    image, model, mask, **options
        As for :func:`segment`.

    Returns
    -------
    RunPlan
        Its ``describe()`` is a line to print; its ``bytes`` are what the run
        takes at most, beside what the process holds.

    Raises
    ------
    TilingError
        If the run cannot fit the memory, with both numbers.
    FcnsegError
        As for :func:`segment`.

    Examples
    --------
    >>> import zarr
    >>> image = zarr.create_array({}, shape=(10_000, 10_000), chunks=(1000, 1000), dtype="uint8")
    >>> plan = plan_segmentation(image, tile_shape=(1024, 1024), device="cpu")
    >>> plan.describe().split(",")[0]
    '100 tiles of 1024 x 1024'
    """
    return job_of(image, model, mask, options, streamed)[1].plan


def predict(
    image: Any,
    model: ModelLike = "nuclei",
    *,
    axes: str | None = None,
    channel_axis: int | None = None,
    channel: int | str | Sequence[int | str] | None = None,
    spacing: Mapping[str, float] | Sequence[float] | None = None,
    diameter: float | None = None,
    mask: Any = None,
    normalization: Normalization | Mapping[str, Any] | str | None = None,
    tile_shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    precision: str = "auto",
    refine: Any = None,
    blend: str | None = None,
    tta: str | None = None,
    progress: Progress | None = None,
    control: RunControl | None = None,
    raw: bool = False,
) -> Any:
    """Return the probability of each class at each pixel.

    Parameters
    ----------
    image, model, axes, channel_axis, channel, spacing, diameter, normalization
        As for :func:`segment`.
    mask : array of bool, optional
        Where the image counts for its normalisation; probabilities are given everywhere.
    tile_shape, batch_size, memory, device, precision, blend, tta, progress, control
        As for :func:`segment`.
    refine : optional
        As for :func:`segment`; steps of probabilities only.
    raw : bool
        Return every output map of the network instead, before softmax or
        sigmoid, in the order of the card's ``outputs``, and not refined.

    Returns
    -------
    ndarray or dask.array.Array of float32
        Class axis first, background at 0, then the shape of the image without
        its channel axis. Probabilities add up to 1. Lazy for lazy input.

    Raises
    ------
    FcnsegError
        As for :func:`segment`.

    See Also
    --------
    segment : Labels instead of probabilities.

    Examples
    --------
    >>> from skimage.data import coins
    >>> predict(coins()[:64, :64]).shape
    (2, 64, 64)
    """
    options = _options(locals())
    if raw and refine is not None:
        raise InputError(
            "raw=True gives what the network gives, which is not refined; leave one of the two out."
        )
    if isinstance(mask, str):
        raise InputError(
            f"mask={mask!r} is for labels, and these are probabilities of every pixel; give an array, or use "
            "segment."
        )
    of_objects = make_chain(refine).of_objects
    if of_objects:
        raise InputError(
            f"refine step {of_objects[0].name!r} is about objects, and predict makes none; use segment."
        )
    image, job = job_of(image, model, mask, options)
    job.say_what_blending_costs()
    if lazy.is_lazy(image):
        return job.source.layout.image_order(
            lazy.lazy_scores(job, progress, raw=raw, control=control), maps=1
        )
    return job.source.layout.image_order(run.run_scores(job, progress, raw=raw, control=control), maps=1)
