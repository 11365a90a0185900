"""A record repeats its run to the pixel, and leaves nothing to the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from tests.engine.small import (
    axes_of,
    cells,
    grouped,
    image_for,
    network,
    record,
    seeded,
    seeded_volume,
    texture,
    tissues,
)

from napari_fcnseg import as_model, load_model, save_model, segment, segment_recorded
from napari_fcnseg._shared.errors import UnknownModelError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import SegmentSettings, array_sha256
from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.models.model import make_model
from napari_fcnseg.preprocess.normalization import COLOURS

STACK = texture(2, 30, 33)
MASK = texture(2, 30, 33, seed=8) > 0.4
RUNS: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = [
    (cells, (45, 52), {}),
    (cells, (45, 52), {"kind": "instances", "tile_shape": [9, 30], "batch_size": 2, "label_dtype": "int64"}),
    (cells, (2, 30, 33), {"axes": "tyx", "threshold": 0.3, "normalization": {"low": 2, "high": 95}}),
    (cells, (2, 30, 33), {"channel_axis": 0, "channel": -1, "precision": "bfloat16", "device": "cpu"}),
    (tissues, (45, 52), {"memory": "3MB"}),
    (seeded, (45, 52), {"min_size": 4, "clear_border": True, "threshold": 0.6}),
    (seeded, (45, 52), {"diameter": 14.0}),
    (seeded, (45, 52), {"spacing": {"y": 0.4, "x": 0.9}, "kind": "classes"}),
    (seeded_volume, (7, 20, 22), {"spacing": (1.5, 0.5, 0.4)}),
    (grouped, (45, 52), {"kind": "instances"}),
]


@pytest.mark.parametrize(("make", "shape", "options"), RUNS)
def test_the_settings_of_a_record_repeat_the_run(
    make: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    model = make()
    image = image_for(model, *shape)
    options = {**axes_of(model), **options}
    labels, done = segment_recorded(image, model, **options)
    np.testing.assert_array_equal(labels, segment(image, model, **options))
    assert labels.any()
    data = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    again = RunRecord.from_dict(data)
    assert again == done
    repeat = {k: v for k, v in again.settings.options().items() if k != "model"}
    labels_again, done_again = segment_recorded(image, model, **repeat)
    np.testing.assert_array_equal(labels_again, labels)
    assert labels_again.dtype == labels.dtype
    # The second record is the first, but for the clock and for a scale that is now explicit.
    assert done_again.settings == done.settings
    assert done_again.plan == done.plan
    assert done_again.transform == done.transform


def test_nothing_is_left_open() -> None:
    _, done = segment_recorded(texture(45, 52), cells(), memory="2GB")
    settings = done.settings
    assert settings.kind == "classes"
    assert settings.device == done.device != "auto"
    assert settings.precision in ("float32", "bfloat16")
    assert settings.axes == "yx"
    assert settings.tile_shape == tuple(done.plan["layout"]["core_shape"])
    assert settings.batch_size == 1
    assert settings.label_dtype == "uint8"
    assert settings.memory is None  # the tiles say it
    assert "auto" not in json.dumps(done.to_dict())
    assert done.threads >= 1
    assert done.objects is None
    assert done.plan["tiles"] == 1
    assert done.plan["summary"].startswith("1 tile of 48 x 52, halo 24")  # 45 is rounded up to the stride
    assert done.image == {"shape": [45, 52], "dtype": "float32", "axes": "yx"}
    assert {"python", "torch", "numpy", "napari-fcnseg"} <= set(done.versions)


def test_colours_and_channels_are_resolved() -> None:
    made = network(maps=3, seed=1)
    model = make_model(record(made), made)
    image = (texture(30, 31, 4) * 255).astype(np.uint8)  # with alpha
    labels, done = segment_recorded(image, model, channel_axis=-1)
    assert done.settings.channel == (0, 1, 2)
    assert done.settings.axes == "yxc"
    assert done.settings.channel_axis is None
    rule = done.settings.normalization
    assert isinstance(rule, dict)
    assert rule["colour"] in COLOURS
    assert rule["colour"] != "auto"
    repeat = {k: v for k, v in done.settings.options().items() if k != "model"}
    np.testing.assert_array_equal(segment(image, model, **repeat), labels)


def test_names_of_channels_become_indices() -> None:
    data: Any = da.from_array(STACK, chunks=16)  # type: ignore[no-untyped-call]
    opened = LazyImage(data, "cyx", ("DAPI", "GFP"), name="a slide", scale={"x": 0.5})
    labels, done = segment_recorded(opened, cells(), channel="GFP")
    assert done.settings.channel == (1,)
    assert done.image["name"] == "a slide"
    assert done.image["scale"] == {"x": 0.5}
    repeat = {k: v for k, v in done.settings.options().items() if k != "model"}
    np.testing.assert_array_equal(segment(STACK, cells(), **repeat), labels)


@pytest.mark.parametrize("axes", ["tyx", "xty"])
def test_the_hash_is_that_of_the_mask_as_given(axes: str) -> None:
    order = ["tyx".index(a) for a in axes]
    image, mask = STACK.transpose(order), MASK.transpose(order)
    for given in (mask, mask.astype(np.uint8) * 3, da.from_array(mask, chunks=9)):  # type: ignore[no-untyped-call]
        _, done = segment_recorded(image, cells(), axes=axes, mask=given)
        assert done.settings.mask == array_sha256(mask)


def test_objects_are_counted() -> None:
    labels, done = segment_recorded(texture(45, 52), seeded())
    assert done.objects == labels.max() > 5
    assert done.settings.min_size == 2  # that of the card


def test_the_window_of_an_inexact_model_is_stated() -> None:
    _, done = segment_recorded(texture(45, 52), grouped())
    assert done.plan["layout"]["window"] == [32, 32]
    assert done.plan["summary"].startswith("6 windows of 32 x 32")
    assert done.settings.tile_shape == (32, 32)
    assert any("GroupNorm looks at the whole image" in note for note in done.notes)


def test_a_model_in_memory_cannot_be_copied_and_the_record_says_so() -> None:
    bare = as_model(network(depth=1), classes=["cell"], name="nuclei")
    _, done = segment_recorded(texture(20, 20), bare)
    assert any("save it to be able to repeat this run" in note for note in done.notes)
    # Not even when it has the name of a model that can be found.
    with pytest.raises(UnknownModelError, match="in memory"):
        load_model(done.settings.model)


def test_a_path_in_the_record_finds_the_model_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(cells(), tmp_path / "mine", name="mine")
    monkeypatch.chdir(tmp_path)
    _, done = segment_recorded(texture(20, 20), "./mine")
    monkeypatch.chdir("/")
    assert load_model(done.settings.model).record.id == "mine@1"
    assert not done.notes


def test_another_model_of_a_known_name_is_noted(tmp_path: Path) -> None:
    save_model(cells(), tmp_path / "mine", name="nuclei")
    _, done = segment_recorded(texture(20, 20), load_model(tmp_path / "mine"))
    assert any("give its folder" in note for note in done.notes)


def test_the_record_states_how_objects_were_made() -> None:
    _, done = segment_recorded(texture(45, 52), seeded(), threshold=0.25)
    assert done.settings.threshold == done.model["objects"]["foreground_threshold"] == 0.25
    _, done = segment_recorded(texture(45, 52), seeded())
    assert done.settings.threshold == done.model["objects"]["foreground_threshold"] is not None


def test_a_loaded_model_that_has_no_name_is_noted(tmp_path: Path) -> None:
    save_model(cells(), tmp_path / "mine", name="mine")
    image = texture(20, 20)
    labels, done = segment_recorded(image, load_model(tmp_path / "mine"))
    assert done.notes == (
        "the model was handed over as an object: give its folder to be able to repeat this run",
    )
    again, named = segment_recorded(image, tmp_path / "mine")
    assert named.notes == ()
    np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize("how", ["text", "path", "relative", "card"])
def test_the_script_of_a_record_gives_the_same_labels(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "mine"
    folder.parent.mkdir()
    save_model(cells(), folder, name="mine")
    monkeypatch.chdir(folder.parent)
    named: Any = {
        "text": str(folder),
        "path": folder,
        "relative": Path("mine"),
        "card": folder / "card.json",
    }[how]
    if how == "card":
        named = next(folder.glob("*.json"))
    image = texture(45, 52)
    labels, done = segment_recorded(image, named, kind="instances", mask=MASK[0][:, :1].any() & (image > 0.2))
    assert done.notes == ()
    assert done.model["sha256"] == load_model(folder).record.sha256
    monkeypatch.chdir(tmp_path)  # the script runs anywhere
    found: dict[str, Any] = {"image": image, "mask": MASK[0][:, :1].any() & (image > 0.2)}
    exec(done.settings.to_python(), found)
    np.testing.assert_array_equal(found["labels"], labels)


def test_records_are_stored_and_read(tmp_path: Path) -> None:
    labels, done = segment_recorded(texture(45, 52), seeded(), mask=texture(45, 52, seed=3) > 0.3)
    path = done.save(tmp_path / "run.fcnseg.json")
    again = RunRecord.load(path)
    assert again == done
    assert isinstance(again.settings, SegmentSettings)
    assert again.objects == labels.max()
