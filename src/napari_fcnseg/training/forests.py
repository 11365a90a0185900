"""Train forests from images in which some pixels are labelled, such as scribbles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.classical.comparisons import PixelComparisons
from napari_fcnseg.classical.features import SIGMAS, PixelFeatures
from napari_fcnseg.classical.random_forest import RandomForestSegmenter
from napari_fcnseg.classical.rebuilding import Forest
from napari_fcnseg.classical.regions import TextonRegions
from napari_fcnseg.classical.texton_forest import TextonForestSegmenter, Textons
from napari_fcnseg.classical.trees import MAX_LEAVES, trees_of
from napari_fcnseg.models.model import COLOURS, Model
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.preprocess.normalization import Normalization
from napari_fcnseg.training.labelled import LabelledImages

# The second forest's is one more, and scikit-learn takes 32 bits.
LARGEST_SEED = 2**32 - 2


def train_forest(
    images: Any,
    labels: Any,
    *,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    background: int | None = None,
    channel_axis: int | None = None,
    normalization: Normalization | Mapping[str, Any] | str | None = None,
    sigmas: Sequence[float] = SIGMAS,
    trees: int = 25,
    leaves: int = MAX_LEAVES,
    seed: int = 0,
    name: str = "random-forest",
) -> Model:
    """Train a random forest on pixels labelled by hand.

    Each pixel is told by its value and, at each of several scales, by mean,
    deviation, gradient and Hessian around it
    (:class:`~napari_fcnseg.classical.features.PixelFeatures`). Some strokes of
    each class are enough, and training takes about a second. Needs
    scikit-learn: ``pip install 'napari-fcnseg[forest]'``; the model does not.

    Parameters
    ----------
    images : array or list of arrays
        One image or several: NumPy, dask, zarr, or what :func:`~napari_fcnseg.open_image` returns.
    labels : array of int or list of arrays
        In the shape of each image without its channel axis: 0 where nothing is
        said, else the class, from 1. The model gives these numbers.
    classes : sequence of str, or mapping of int to str, optional
        Names: in the order of the numbers, or by number. Of a mapping each
        number in `labels` must be in it.
    background : int, optional
        The class that is background: it becomes 0 in results, and objects can
        be made of the others. By default none is, and each pixel is given one
        of the classes.
    channel_axis : int, optional
        The axis of the channels or colours of each image. All of them are used.
    normalization : optional
        As for :func:`~napari_fcnseg.as_model`: percentiles 1 and 99.8 of each
        image by default; ``"none"`` where grey values mean the same in all
        images, such as Hounsfield units.
    sigmas : sequence of float
        The scales, in pixels. The largest decides how far the forest looks: 3
        times as far, and one pixel.
    trees : int
        Number of trees, from 1. Time of training and prediction grows with it.
    leaves : int
        Most leaves of one tree, 2 to 256.
    seed : int
        The same seed gives the same forest.
    name : str
        What records call it.

    Returns
    -------
    Model
        Runs like any other, on images of any size, exactly; on the CPU.

    Raises
    ------
    InputError
        If nothing is labelled, or only one class; if shapes differ, labels are
        negative or no integers, the image has NaN, or an option is out of range.
    MissingPackageError
        Without scikit-learn.

    See Also
    --------
    train_texton_forest : Looks at raw pixels and what lies around.
    save_model : Keep it.

    Examples
    --------
    >>> from napari_fcnseg import segment
    >>> from skimage.data import coins
    >>> image, marks = coins()[:128, :128], np.zeros((128, 128), np.uint8)
    >>> marks[2:8, :], marks[45:55, 30:40] = 1, 2
    >>> model = train_forest(image, marks, classes=["ground", "coin"], background=1, trees=8)
    >>> np.unique(segment(image, model)).tolist()
    [0, 2]
    """
    _check_counts(trees=(trees, 1, 10_000), leaves=(leaves, 2, MAX_LEAVES), seed=(seed, 0, LARGEST_SEED))
    learner = _learner("RandomForestClassifier", trees, leaves, seed)
    given = LabelledImages(images, labels, channel_axis)
    bank = PixelFeatures(given.channels, given.ndim, sigmas)  # type: ignore[arg-type]
    record = _record(given, classes, background, normalization, name=name, seed=seed)
    ensemble = learner.fit(*given.samples(record, bank, bank.count, bank.radius))
    return _model(record, RandomForestSegmenter(bank, trees_of(ensemble)))


def train_texton_forest(
    images: Any,
    labels: Any,
    *,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    background: int | None = None,
    channel_axis: int | None = None,
    normalization: Normalization | Mapping[str, Any] | str | None = None,
    window: int = 10,
    region: int = 20,
    comparisons: int = 400,
    rectangles: int = 200,
    trees: int = 16,
    leaves: int = 64,
    seed: int = 0,
    name: str = "texton-forest",
) -> Model:
    """Train a semantic texton forest on labelled pixels.

    Extremely randomised trees compare raw pixels of a window; each of their
    leaves is a texton, and has class probabilities. A second forest looks at
    the bag of these textons and at the mean class probabilities, the region
    prior, in rectangles around the pixel. Needs scikit-learn: ``pip install 'napari-fcnseg[forest]'``;
    the model does not.

    Parameters
    ----------
    images, labels, classes, background, channel_axis, normalization, seed, name
        As for :func:`train_forest`.
    window : int
        How far compared pixels may be from the pixel along each axis, 1 to 127.
    region : int
        How far rectangles reach from the pixel, 1 to 127. The forest looks as far as both together.
    comparisons, rectangles : int
        How many are drawn at random to choose from; a quarter of the
        comparisons each are values, sums, differences and absolute differences.
    trees : int
        Number of trees of each of the two forests.
    leaves : int
        Most leaves of one tree, 2 to 256.

    Returns
    -------
    Model
        Runs like any other, on images of any size, exactly; on the CPU.

    Raises
    ------
    InputError, MissingPackageError
        As for :func:`train_forest`.

    See Also
    --------
    train_forest : From few strokes usually better, and faster.

    References
    ----------
    Shotton, Johnson & Cipolla, Semantic texton forests for image
    categorization and segmentation, CVPR 2008.

    Examples
    --------
    >>> from napari_fcnseg import segment
    >>> from skimage.data import coins
    >>> image, marks = coins()[:128, :128], np.zeros((128, 128), np.uint8)
    >>> marks[2:8, :], marks[45:55, 30:40] = 1, 2
    >>> model = train_texton_forest(image, marks, background=1, window=4, region=6, trees=4)
    >>> model.segmenter.halo
    ((10, 10), (10, 10))
    """
    _check_counts(
        trees=(trees, 1, 10_000), leaves=(leaves, 2, MAX_LEAVES), window=(window, 1, 127),
        region=(region, 1, 127), comparisons=(comparisons, 4, 10_000), rectangles=(rectangles, 2, 10_000),
        seed=(seed, 0, LARGEST_SEED),
    )  # fmt: skip
    first, second = (_learner("ExtraTreesClassifier", trees, leaves, seed + i) for i in range(2))
    given, rng = LabelledImages(images, labels, channel_axis), np.random.default_rng(seed)
    record = _record(given, classes, background, normalization, name=name, seed=seed)
    bank = PixelComparisons.drawn(comparisons, window, channels=given.channels, ndim=given.ndim, rng=rng)
    grown = trees_of(first.fit(*given.samples(record, bank, bank.count, window)))
    textons = Textons(bank.chosen(grown.used), grown.renumbered(grown.used))
    shares = TextonRegions.drawn(rectangles, region, textons.trees, given.ndim, rng)
    seen = given.samples(record, lambda pixels: shares(*textons(pixels)), shares.count, window + region)
    prior = trees_of(second.fit(*seen))
    segmenter = TextonForestSegmenter(textons, shares.chosen(prior.used), prior.renumbered(prior.used))
    return _model(record, segmenter)


def _check_counts(**options: tuple[Any, int, int]) -> None:
    for name, (value, low, high) in options.items():
        if not isinstance(value, int | np.integer) or value is True or not low <= value <= high:
            raise InputError(f"{name} is {value!r}; it must be a whole number from {low} to {high:,}.")


def _learner(kind: str, trees: int, leaves: int, seed: int) -> Any:
    """Return an untrained forest of scikit-learn."""
    ensemble = need("sklearn.ensemble", "forest", "training a forest")
    return getattr(ensemble, kind)(
        n_estimators=trees, max_leaf_nodes=leaves, random_state=seed, n_jobs=torch.get_num_threads()
    )


def _names(counts: Mapping[int, int], classes: Sequence[str] | Mapping[int, str] | None) -> dict[int, str]:
    """Return the name of each class."""
    if classes is None:
        return {value: f"class {value}" for value in counts}
    if isinstance(classes, str):
        raise InputError(f"classes is the text {classes!r}; give a name for each class.")
    names = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes, start=1))
    if names.keys() != counts.keys():
        raise InputError(
            f"classes names {sorted(names)}, but the labels have {sorted(counts)}; label some pixels of each "
            "class, and name each."
        )
    return {value: names[value] for value in counts}


def _record(
    given: LabelledImages,
    classes: Sequence[str] | Mapping[int, str] | None,
    background: int | None,
    normalization: Normalization | Mapping[str, Any] | str | None,
    *,
    name: str,
    seed: int,
) -> ModelRecord:
    """Return the card of a forest that is still to be trained."""
    names = _names(given.counts, classes)
    if background is not None and background not in names:
        raise InputError(f"background={background!r} is no class; the labels have {sorted(names)}.")
    listed = [
        ModelClass(value, text, COLOURS[i % len(COLOURS)])
        for i, (value, text) in enumerate(names.items())
        if value != background
    ]
    maps = [OutputMap(text, "none", 0 if value == background else value) for value, text in names.items()]
    pixels = {text: given.counts[value] for value, text in names.items()}
    return ModelRecord(
        name=name,
        version=1,
        title="Forest in memory",
        description=f"Trained on {sum(pixels.values()):,} labelled pixels.",
        network={"in_channels": given.channels, "classes": len(maps), "ndim": given.ndim},
        inputs=tuple(f"channel {i}" for i in range(given.channels)),
        outputs=tuple(maps),
        classes=tuple(listed),
        normalization=Normalization.resolve(normalization, Normalization()),
        colour_input=given.channels == 1,
        training={"images": len(given.images), "pixels": pixels, "seed": seed},
    )


def _model(record: ModelRecord, segmenter: Forest) -> Model:
    return Model(replace(record, network=segmenter.config), None, segmenter, copyable=False)
