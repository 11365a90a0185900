"""Augmentation, blending and linked slices through every verb: one result, one record, or one refusal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from tests.engine.small import cells, grouped, seeded, seeded_volume, texture
from tests.engine.stores import killed_at, small_shards

from napari_fcnseg import SegmentSettings, open_image, predict, save_model, segment, segment_to_zarr
from napari_fcnseg._shared.errors import InputError, LabelOverflowError, ResumeError
from napari_fcnseg.cli.entry import main
from napari_fcnseg.engine.multiscale import predict_scales
from napari_fcnseg.segmentation import segment_recorded

OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "tile_shape": (32, 32)}
IMAGE = texture(70, 90, seed=3)
CHOICES: list[dict[str, Any]] = [
    {"tta": "flips"}, {"tta": "full"}, {"blend": "constant"}, {"blend": "gaussian"},
    {"tta": "full", "blend": "gaussian"}, {"blend": "gaussian", "refine": "crf"},
    {"tta": "flips", "refine": "crf"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


def dasked(image: NDArray[Any]) -> Any:
    return da.from_array(image, chunks=40)  # type: ignore[no-untyped-call]


def stored(store: Path, image: Any, model: Any, **options: Any) -> tuple[NDArray[Any], Any]:
    record = segment_to_zarr(image, store, model, **{**OPTIONS, **options})
    return np.asarray(zarr.open_array(store / "0", mode="r")[...]), record


def ids(options: dict[str, Any]) -> str:
    return "-".join(f"{k}={v}" for k, v in options.items())


@pytest.mark.parametrize("options", CHOICES, ids=ids)
@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_numpy_lazy_and_stored_agree(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = seeded() if "refine" in options else cells()  # whose maps the refinement does not wipe out
    options = {**options, "kind": kind}
    expected, record = segment_recorded(IMAGE, model, **OPTIONS, **options)
    plain = segment(IMAGE, model, kind=kind, **OPTIONS)
    assert (expected > 0).any()
    assert ((expected > 0) != (plain > 0)).any(), "it does something"
    np.testing.assert_array_equal(np.asarray(segment(dasked(IMAGE), model, **OPTIONS, **options)), expected)
    found, kept = stored(tmp_path / "labels.zarr", IMAGE, model, **options)
    np.testing.assert_array_equal(found, expected)
    assert (kept.settings, kept.notes) == (record.settings, record.notes)
    told = " ".join(record.notes)
    assert ("test-time augmentation" in told) == ("tta" in options)
    assert ("tiles are blended" in told) == ("blend" in options)
    again = {k: v for k, v in record.settings.options().items() if k != "model"}
    np.testing.assert_array_equal(segment(IMAGE, model, **again), expected)


@pytest.mark.parametrize("options", CHOICES[:5], ids=ids)
def test_probabilities(options: dict[str, Any]) -> None:
    expected = predict(IMAGE, seeded(), **OPTIONS, **options)
    lazy = np.asarray(predict(dasked(IMAGE), seeded(), **OPTIONS, **options))
    np.testing.assert_allclose(lazy, expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(0), 1, atol=1e-5)
    assert np.abs(expected - predict(IMAGE, seeded(), **OPTIONS)).max() > 0.01
    found = predict_scales(IMAGE, seeded(), scales=(1,), **OPTIONS, **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("tta", ["flips", "full"])
def test_augmentation_of_a_model_that_is_blended(tta: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tta": tta, "kind": "classes"}
    expected, record = segment_recorded(IMAGE, grouped(), **{**OPTIONS, **options})
    assert record.plan["layout"]["window"] == [32, 32]
    lazy = np.asarray(segment(dasked(IMAGE), grouped(), **{**OPTIONS, **options}))
    np.testing.assert_array_equal(lazy, expected)
    np.testing.assert_array_equal(stored(tmp_path / "labels.zarr", IMAGE, grouped(), **options)[0], expected)
    assert (expected != segment(IMAGE, grouped(), kind="classes", **OPTIONS)).any()


def test_augmentation_is_symmetric() -> None:
    image = IMAGE[:68, :88]  # multiples of the stride, or the padding would lie on the other side
    found = segment(image, seeded(), tta="flips", kind="classes", **OPTIONS)
    turned = segment(image[:, ::-1], seeded(), tta="flips", kind="classes", **OPTIONS)
    np.testing.assert_array_equal(turned[:, ::-1], found)


def test_a_window_may_not_change_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call: dict[str, Any] = {"blend": "gaussian", "min_size": 0}
    with killed_at(monkeypatch, 3, before=False):
        stored(tmp_path / "labels.zarr", IMAGE, seeded(), **call)
    with pytest.raises(ResumeError, match=r"settings\.tile_shape was"):
        stored(tmp_path / "labels.zarr", IMAGE, seeded(), **call, tile_shape=(24, 24))
    found, _ = stored(tmp_path / "labels.zarr", IMAGE, seeded(), **call)
    np.testing.assert_array_equal(found, segment(IMAGE, seeded(), **OPTIONS, **call))


def stack() -> NDArray[np.float32]:
    """Return two times three slices that resemble each other."""
    slow = texture(2, 3, 60, 70, seed=4, smooth=2)
    return slow[:, :1] * 0.9 + 0.1 * slow


def test_linked_slices(tmp_path: Path) -> None:
    options: dict[str, Any] = {"axes": "tzyx", "link_z": 0.2}
    expected, record = segment_recorded(stack(), seeded(), **OPTIONS, **options)
    plain = segment(stack(), seeded(), axes="tzyx", **OPTIONS)
    assert 3 < record.objects < plain.max()  # type: ignore[operator]
    assert record.objects == expected.max()
    np.testing.assert_array_equal(expected > 0, plain > 0)
    spans = [np.ptp(np.argwhere(expected == label)[:, 1]) for label in range(1, expected.max() + 1)]
    times = [np.ptp(np.argwhere(expected == label)[:, 0]) for label in range(1, expected.max() + 1)]
    assert max(spans) == 2
    assert max(times) == 0
    firsts = np.unique(expected, return_index=True)[1][1:]
    assert (np.diff(firsts) > 0).all()
    chunked = da.from_array(stack(), chunks=(1, 2, 40, 40))  # type: ignore[no-untyped-call]
    np.testing.assert_array_equal(np.asarray(segment(chunked, seeded(), **OPTIONS, **options)), expected)
    found, kept = stored(tmp_path / "labels.zarr", stack(), seeded(), **options)
    np.testing.assert_array_equal(found, expected)
    assert "objects of consecutive slices were joined from an overlap of 0.2" in kept.notes
    assert not any("by itself" in note for note in kept.notes)
    again = {k: v for k, v in kept.settings.options().items() if k != "model"}
    np.testing.assert_array_equal(segment(stack(), seeded(), **again), expected)


def test_linked_slices_of_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"axes": "tzyx", "link_z": 0.2}
    expected = segment(stack(), seeded(), **OPTIONS, **options)
    for note in (9, 40, 60):
        store = tmp_path / f"{note}.zarr"
        with killed_at(monkeypatch, note, before=True):
            stored(store, stack(), seeded(), **options)
        np.testing.assert_array_equal(stored(store, stack(), seeded(), **options)[0], expected)


def test_linked_slices_that_are_rescaled_and_masked(tmp_path: Path) -> None:
    mask = np.zeros((2, 3, 60, 70), bool)
    mask[:, :, 10:50, 5:60] = True
    options: dict[str, Any] = {"axes": "tzyx", "link_z": 0.2, "spacing": (0.7, 0.7), "mask": mask}
    expected = segment(stack(), seeded(), **OPTIONS, **options)
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr", stack(), seeded(), **options)[0], expected)
    assert expected.any()
    assert not expected[~mask].any()


def test_too_many_linked_objects_for_the_type() -> None:
    with pytest.raises(LabelOverflowError):
        segment(
            texture(4, 90, 130, seed=1, smooth=0.5), cells(), axes="zyx", link_z=1, label_dtype="uint8",
            kind="instances", **OPTIONS,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("image", "model", "options", "says"),
    [
        (texture(8, 40, 40), seeded_volume, {"tile_shape": None}, "sees the volume as a whole; leave it out"),
        (IMAGE, seeded, {}, r"no axis z \(leading axes: none\).*axes='zyx'"),
        (texture(2, 40, 40), seeded, {"axes": "tyx"}, r"no axis z \(leading axes: t\)"),
        (texture(2, 40, 40), seeded, {"axes": "zyx", "kind": "classes"}, "makes none.*kind='instances'"),
        (texture(2, 2, 40, 40), seeded, {"axes": "ztyx"}, "in the order 'zt'; transpose"),
    ],
)
def test_what_cannot_be_linked(
    image: Any, model: Any, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    call = {**OPTIONS, **options, "link_z": 0.5}
    with pytest.raises(InputError, match=f"link_z=0.5 joins the objects of slices, but .*{says}"):
        segment(image, model(), **call)
    with pytest.raises(InputError, match=says):
        segment_to_zarr(image, tmp_path / "labels.zarr", model(), **call)
    assert not list(tmp_path.glob("labels*"))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"tta": "flip"}, "'flips'"),
        ({"blend": "gauss"}, "'gaussian'"),
        ({"link_z": 1.5}, "from 0 to 1"),
        ({"tta": True}, "'flips', 'full'"),
    ],
)
def test_wrong_values(option: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        segment(IMAGE, seeded(), **OPTIONS, **option)


def test_scripts_and_commands_repeat_the_run(tmp_path: Path) -> None:
    save_model(
        cells(), tmp_path / "cells", name="cells", title="Cells", description="For tests.",
        kind="instances", data_licence="CC0", training={"data": "nothing"}, citation="@misc{c, title = {C}}",
    )  # fmt: skip
    model = str(tmp_path / "cells")
    pixels = (stack()[0] * 999).astype(np.uint16)
    zarr.create_array(tmp_path / "stack.zarr", data=pixels, dimension_names=list("zyx"))
    options: dict[str, Any] = {"tta": "flips", "blend": "gaussian", "link_z": 0.3}
    expected, record = segment_recorded(open_image(tmp_path / "stack.zarr"), model, **OPTIONS, **options)
    settings = record.settings
    assert SegmentSettings.from_dict(settings.to_dict()) == settings
    names: dict[str, Any] = {"image": pixels}
    exec(settings.to_python("image"), names)
    np.testing.assert_array_equal(names["labels"], expected)
    command = settings.to_command(str(tmp_path / "stack.zarr"), str(tmp_path / "out.zarr"))
    assert main(shlex.split(command)[1:]) == 0
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.zarr")), expected)
