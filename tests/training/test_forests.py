"""Forests trained from scribbles: right, tiled as whole, lazy as not, kept without pickle; bad input."""

from __future__ import annotations

import builtins
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
from skimage.future import TrainableSegmenter
from tests.classical.images import marked, textured
from tests.networks.tiled import run_tiled, run_whole

from napari_fcnseg import load_model, predict, save_model, segment
from napari_fcnseg._shared.errors import InputError, MissingPackageError, ModelFileError
from napari_fcnseg._shared.protocols import Segmenter
from napari_fcnseg.models import Model
from napari_fcnseg.models.files import CARD, WEIGHTS
from napari_fcnseg.training.forests import train_forest, train_texton_forest

RandomForestClassifier = pytest.importorskip("sklearn.ensemble").RandomForestClassifier

SMALL: dict[Callable[..., Model], dict[str, Any]] = {
    train_forest: {"trees": 8, "sigmas": (1.0, 3.0), "leaves": 40},
    train_texton_forest: {
        "trees": 6,
        "window": 5,
        "region": 6,
        "comparisons": 80,
        "rectangles": 40,
        "leaves": 40,
    },
}
TRAINERS = pytest.mark.parametrize("train", SMALL, ids=lambda train: train.__name__)


@functools.cache
def trained(train: Callable[..., Model], ndim: int = 2, channels: int = 1) -> Model:
    shape = {1: (900,), 2: (96, 100), 3: (20, 30, 32)}[ndim]
    image, truth = textured(*shape, channels=channels)
    axis = None if channels == 1 else 0
    return train(image, marked(truth, 0.05), channel_axis=axis, **SMALL[train])


@TRAINERS
def test_classes_of_another_image_are_found(train: Callable[..., Model]) -> None:
    image, truth = textured(96, 100, seed=5)
    labels = segment(image, trained(train))
    assert set(np.unique(labels)) <= {1, 2, 3}
    # Two classes have the same grey value: without their texture 2 in 3 would be right.
    assert (labels == truth).mean() > 0.9


@TRAINERS
@pytest.mark.parametrize(("ndim", "channels"), [(1, 1), (2, 1), (2, 3), (3, 1)])
def test_tiles_have_the_bits_of_the_whole_image(
    train: Callable[..., Model], ndim: int, channels: int
) -> None:
    segmenter = trained(train, ndim, channels).segmenter
    assert isinstance(segmenter, Segmenter)
    assert (segmenter.in_channels, segmenter.out_channels, segmenter.ndim) == (channels, 3, ndim)
    assert segmenter.exact_tiling
    shape, core = {1: ((300,), (37,)), 2: ((61, 50), (19, 23)), 3: ((17, 24, 21), (9, 13, 21))}[ndim]
    image = np.random.default_rng(0).random((channels, *shape), np.float32)
    whole = run_whole(segmenter, image)
    torch.testing.assert_close(whole.sum(0), torch.ones(shape), atol=1e-5, rtol=0)
    for cropping in (True, False):
        assert torch.equal(run_tiled(segmenter, image, core, cropping=cropping), whole)


@TRAINERS
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (15, 9)])
def test_images_smaller_than_the_halo(train: Callable[..., Model], shape: tuple[int, int]) -> None:
    segmenter = trained(train).segmenter
    image = np.random.default_rng(1).random((1, *shape), np.float32)
    assert torch.equal(run_tiled(segmenter, image, (4, 5)), run_whole(segmenter, image))


@TRAINERS
def test_nothing_beyond_the_halo_counts(train: Callable[..., Model]) -> None:
    segmenter = trained(train).segmenter
    (reach, _), _ = segmenter.halo
    size = 2 * reach + 5
    image = np.random.default_rng(2).random((1, size, size), np.float32)
    other = image.copy()
    other[:, : size // 2 - reach] += 3  # all rows farther up than the halo of the middle one
    found = [run_whole(segmenter, pixels)[:, size // 2 :] for pixels in (image, other)]
    assert torch.equal(*found)
    other[:, size // 2 - reach :] += 3
    assert not torch.equal(found[0], run_whole(segmenter, other)[:, size // 2 :])


@TRAINERS
def test_lazy_and_tiled_runs_of_the_public_verb_agree(train: Callable[..., Model]) -> None:
    model, (image, _) = trained(train), textured(120, 90, seed=3)
    expected = segment(image, model)
    np.testing.assert_array_equal(segment(image, model, tile_shape=(32, 48)), expected)
    lazy = segment(da.from_array(image, chunks=(50, 40)), model)  # type: ignore[no-untyped-call]
    np.testing.assert_array_equal(lazy.compute(), expected)
    probabilities = predict(image, model)
    assert probabilities.shape == (4, 120, 90)
    assert probabilities[0].max() < 1e-5
    np.testing.assert_array_equal(probabilities.argmax(0), expected)


@TRAINERS
def test_saved_and_loaded_it_gives_the_same_without_scikit_learn(
    train: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (image, _) = trained(train), textured(70, 60, seed=3)
    expected = predict(image, model)
    save_model(model, tmp_path / "forest", name="my-forest")
    hide_scikit_learn(monkeypatch)
    again = load_model(tmp_path / "forest")
    assert again.record.id == "my-forest@1"
    assert again.network is None
    np.testing.assert_array_equal(predict(image, str(tmp_path / "forest")), expected)
    save_model(again, tmp_path / "copy")
    assert (tmp_path / "copy" / WEIGHTS).read_bytes() == (tmp_path / "forest" / WEIGHTS).read_bytes()


@TRAINERS
@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("options", {}), ("options", {"window": 5, "region": 6, "sigmas": [1]}), ("options", 7),
        ("in_channels", 2), ("ndim", 3), ("network", "boosted_forest"), ("network", ["random_forest"]),
        ("extra", 1),
    ],
)  # fmt: skip
def test_a_card_that_does_not_fit_its_weights_is_refused(
    train: Callable[..., Model], entry: str, value: object, tmp_path: Path
) -> None:
    save_model(trained(train), tmp_path / "forest", name="f")
    card = json.loads((tmp_path / "forest" / CARD).read_text())
    card["network"][entry] = value
    if entry == "in_channels":
        card["inputs"] = ["a", "b"]
    (tmp_path / "forest" / CARD).write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match=r"do not fit its network|no usable model card"):
        load_model(tmp_path / "forest")


def scores(model: Model, image: Any) -> torch.Tensor:
    return run_whole(model.segmenter, image[None].astype(np.float32) / 255)


def hide_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make importing scikit-learn fail as where it is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    found = builtins.__import__

    def refusing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refusing)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)


@TRAINERS
def test_training_without_scikit_learn_says_what_to_install(
    train: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_scikit_learn(monkeypatch)
    image, truth = textured(30, 30)
    with pytest.raises(MissingPackageError, match=r"pip install 'napari-fcnseg\[forest\]'"):
        train(image, truth)


# ---------------------------------------------------------------- what is said of classes and images


def test_names_numbers_and_background() -> None:
    image, truth = textured(60, 60)
    marks = np.where(truth == 2, 7, truth) * (marked(truth, 0.1) > 0)
    model = train_forest(
        image, marks, classes={1: "noise", 3: "bright", 7: "even"}, background=1, **SMALL[train_forest]
    )
    assert [(c.value, c.name) for c in model.record.classes] == [(3, "bright"), (7, "even")]
    assert [o.value for o in model.record.outputs] == [0, 3, 7]
    assert set(np.unique(segment(image, model))) == {0, 3, 7}
    assert model.record.training["pixels"] == {
        "noise": (marks == 1).sum(),
        "bright": (marks == 3).sum(),
        "even": (marks == 7).sum(),
    }
    objects = segment(image, model, kind="instances")
    assert objects.max() >= 1
    assert ((objects > 0) == (predict(image, model)[0] < 0.5)).all()
    assert (
        train_forest(image, marked(truth, 0.1), classes=["a", "b", "c"], trees=1).record.classes[1].name
        == "b"
    )


def test_the_same_seed_gives_the_same_forest_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, truth = textured(96, 100)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    for train in SMALL:
        again = train(image, marked(truth, 0.05), **SMALL[train])
        assert torch.equal(*(scores(m, image) for m in (again, trained(train))))


def test_several_images_are_learned_from_together() -> None:
    pairs = [textured(50, 60, seed=seed) for seed in range(2)]
    marks = [np.where(truth < 3, truth, 0) for _, truth in pairs]
    marks[0][:] = 0
    marks[1] = pairs[1][1]
    halves = [np.where(pairs[0][1] == 1, 1, 0), np.where(pairs[1][1] == 3, 3, 0)]
    model = train_forest([image for image, _ in pairs], halves, **SMALL[train_forest])
    assert [c.value for c in model.record.classes] == [1, 3]
    assert model.record.training["images"] == 2


def test_a_lazy_image_trains_the_same_forest() -> None:
    image, truth = textured(60, 50)
    marks = marked(truth, 0.1)
    found = [train_forest(i, marks, trees=3) for i in (image, da.from_array(image, chunks=(17, 50)))]  # type: ignore[no-untyped-call]
    assert torch.equal(*(scores(m, image) for m in found))


IMAGE, TRUTH = textured(40, 30)


@TRAINERS
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((40, 30), int), "no pixel is labelled; label some pixels of at least two"),
        (np.where(TRUTH == 2, 2, 0), "only class 2 is labelled"),
        (TRUTH[:-1], r"labels of shape \(39, 30\) do not fit an image of shape \(40, 30\)"),
        (TRUTH.astype(float), "data type float64"),
        (TRUTH.astype(int) - 2, "go down to -1"),
        ([TRUTH, TRUTH], r"labels of shape \(2, 40, 30\) do not fit"),
    ],
)
def test_unusable_labels_are_refused(train: Callable[..., Model], labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(IMAGE, labels)


def with_nan() -> Any:
    image = IMAGE.astype(np.float32)
    image[3, 4] = np.nan
    return image


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (with_nan(), {}, "1 NaN"),
        (np.stack([IMAGE] * 3), {}, "name its channel axis"),
        (IMAGE, {"channel_axis": 2}, "channel_axis=2 does not exist"),
        ([IMAGE, IMAGE], {}, "2 images, but 40 label arrays|do not fit"),
        (IMAGE, {"trees": 0}, "trees is 0; it must be a whole number from 1"),
        (IMAGE, {"seed": -1}, "seed is -1; it must be a whole number from 0"),
        (IMAGE, {"leaves": 257}, "leaves is 257; it must be a whole number from 2 to 256"),
        (IMAGE, {"sigmas": (0,)}, "sigmas is"),
        (IMAGE, {"background": 9}, r"background=9 is no class; the labels have \[1, 2, 3\]"),
        (IMAGE, {"classes": ["a", "b"]}, r"classes names \[1, 2\], but the labels have \[1, 2, 3\]"),
        (IMAGE, {"classes": "abc"}, "classes is the text"),
        (IMAGE, {"normalization": "percentiles"}, "Did you mean 'percentile'"),
    ],
)
def test_unusable_images_and_options_are_refused(image: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_forest(image, TRUTH, **options)


@pytest.mark.parametrize("name", ["window", "region", "comparisons", "rectangles"])
def test_impossible_windows_are_refused(name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"{name} is 0; it must be a whole number"):
        train_texton_forest(IMAGE, TRUTH, **options)


@pytest.mark.data
def test_as_right_as_scikit_image_on_real_sandstone(real: Callable[[str], Path]) -> None:
    folder, name = real("sandstone_uct"), "Sandstone_Versa0000_image.tif"
    part = np.s_[200:456, 300:556]
    image = tifffile.imread(folder / "images" / name)[part]
    painted = tifffile.imread(folder / "labels" / name)[part]
    colours = np.unique(painted.reshape(-1, 3), axis=0)
    truth = (1 + (painted[:, :, None] == colours).all(-1).argmax(-1)).astype(np.uint8)
    marks = marked(truth, 0.01)
    scikit_image: Any = TrainableSegmenter
    theirs = scikit_image(RandomForestClassifier(100, random_state=0, n_jobs=1))
    theirs.fit(image, marks)
    found = {"ours": segment(image, train_forest(image, marks)), "theirs": theirs.predict(image)}
    right = {whose: (labels == truth)[marks == 0].mean() for whose, labels in found.items()}
    assert right["ours"] > 0.9
    assert right["ours"] >= right["theirs"] - 0.005
