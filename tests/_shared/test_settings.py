"""Settings: defaults, checks, round trips, and the code they turn into."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings, array_sha256, parse_memory

HASH = "0" * 63 + "f"
FULL: dict[str, Any] = {
    "model": "nuclei@1",
    "kind": "instances",
    "axes": "tcyx",
    "channel_axis": 1,
    "channel": ("DAPI", 2),
    "spacing": {"y": 0.5, "x": 0.25},
    "diameter": 30.0,
    "mask": HASH,
    "normalization": {"name": "percentile", "range": [1, 99.8]},
    "threshold": 0.6,
    "min_size": 20,
    "clear_border": True,
    "tile_shape": (512, 256),
    "batch_size": 2,
    "memory": "4GB",
    "device": "cpu",
    "precision": "float32",
    "label_dtype": "int64",
    "refine": ({"name": "crf", "iterations": 5}, {"name": "split"}),
}


def test_defaults_are_no_options() -> None:
    settings = SegmentSettings()
    assert settings.model == "nuclei"
    assert settings.precision == "auto"
    assert settings.options() == {}


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SegmentSettings().kind = "classes"  # type: ignore[misc]


@pytest.mark.parametrize("options", [{}, FULL, {"spacing": (2.0, 0.5, 0.5)}, {"channel": 0, "memory": 5}])
def test_round_trip_through_json_is_exact(options: dict[str, Any]) -> None:
    settings = SegmentSettings(**options)
    again = SegmentSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.options() == settings.options()


def test_options_are_all_but_the_mask() -> None:
    assert SegmentSettings(**FULL).options() == {k: v for k, v in FULL.items() if k != "mask"}


def test_numpy_numbers_and_lists_become_plain() -> None:
    options: dict[str, Any] = {
        "diameter": np.float32(30),
        "channel": [np.int64(1)],
        "tile_shape": [np.int32(64), 64],
        "axes": "YXC",
    }
    settings = SegmentSettings(**options)
    assert settings == SegmentSettings(diameter=30.0, channel=(1,), tile_shape=(64, 64), axes="yxc")
    assert type(settings.diameter) is float
    json.dumps(settings.to_dict())


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'diametre' is no setting. Did you mean 'diameter'\?"):
        SegmentSettings.from_dict({"diametre": 30})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("kind", "instance", r"'instance'.*'classes', 'instances'.*Did you mean 'instances'\?"),
        ("precision", "float16", "'auto', 'float32', 'bfloat16'"),
        ("precision", None, "must be one of"),
        ("model", None, "a text"),
        ("model", "", "a text"),
        ("axes", "yyx", "different letter"),
        ("channel_axis", 1.5, "whole number"),
        ("channel", True, "whole number"),
        ("channel", [], "several"),
        ("diameter", 0, "positive, finite"),
        ("diameter", float("nan"), "positive, finite"),
        ("diameter", "30", "positive, finite"),
        ("spacing", 0.5, r"\(0.5, 0.5\)"),
        ("spacing", {"t": 1.0}, "'z', 'y', 'x'"),
        ("spacing", (0.5, -1), "positive"),
        ("mask", "abc", "64 hexadecimal"),
        ("threshold", 2, "from 0 to 1"),
        ("min_size", -1, "at least 0"),
        ("tile_shape", (0, 3), "at least 1"),
        ("tile_shape", 512, r"\(512, 512\)"),
        ("batch_size", 0, "at least 1"),
        ("memory", "4 gigs", "'4GB'"),
        ("clear_border", "yes", "True or False"),
        ("label_dtype", "float32", "'int64'"),
        ("normalization", {"f": object()}, "plain JSON"),
        ("device", 0, "a text"),
        ("refine", 5, "a name, a mapping with a name"),
        ("refine", [{"iterations": 5}], "a mapping with a 'name'"),
        ("refine", {"name": "crf", "f": object()}, "plain JSON"),
    ],
)
def test_wrong_values_are_refused(name: str, value: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        SegmentSettings(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{name} is ")


def test_arrays_of_options_become_lists() -> None:
    step = {"name": "smooth", "sigma": np.array([1.5, 2.0]), "halo": np.int64(3)}
    assert SegmentSettings(refine=step).refine == ({"name": "smooth", "sigma": [1.5, 2.0], "halo": 3},)  # type: ignore[arg-type]


def test_python_calls_segment_with_the_same_options() -> None:
    code = SegmentSettings(**FULL).to_python("picture")
    assert f"SHA-256 {HASH}" in code
    call = ast.parse(code).body[-1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    assert ast.unparse(call.value.args[0]) == "picture"
    given_ = {k.arg: k.value for k in call.value.keywords}
    assert ast.unparse(given_.pop("mask")) == "mask"
    assert {k: ast.literal_eval(v) for k, v in given_.items()} == SegmentSettings(**FULL).options()


def test_python_without_options_is_one_call() -> None:
    code = SegmentSettings().to_python()
    assert code == "from napari_fcnseg import segment\n\nlabels = segment(image)\n"


def test_command_is_quoted() -> None:
    settings = SegmentSettings(channel="DAPI; rm -rf /")
    words = shlex.split(settings.to_command("my cells.tif", "out dir/"))
    assert words[2:6] == ["my cells.tif", "--out", "out dir/", "--channel"]
    assert words[6] == "DAPI; rm -rf /"


def test_command_names_the_mask_in_a_comment() -> None:
    command = SegmentSettings(mask=HASH).to_command()
    assert command.endswith(f"has SHA-256 {HASH}")
    assert shlex.split(command, comments=True)[-2:] == ["--mask", "MASK"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1), ("1B", 1), ("2KB", 2000), ("2kib", 2048), ("3 MB", 3_000_000), ("1.5GiB", 3 * 2**29),
        ("4GB", 4 * 10**9), (7, 7), (np.int64(9), 9), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_memory(text: int | str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4 QB", "1e9", "0", 0, -5, 1.5, True, "0.1B"])
def test_memory_that_is_none(text: Any) -> None:
    with pytest.raises(InputError, match="memory is"):
        parse_memory(text)


def test_hash_sees_values_shape_and_type_only() -> None:
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    same = (array.astype(">u2"), np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2])
    assert {array_sha256(a) for a in same} == {array_sha256(array)}
    changed = array.copy()
    changed[2, 3] = 0
    others = (array.astype(np.uint32), array.reshape(4, 3), array.T, changed)
    assert array_sha256(array) not in {array_sha256(a) for a in others}
    assert len(array_sha256(np.zeros((0, 3)))) == 64
    assert array_sha256(np.zeros((0, 3))) != array_sha256(np.zeros((3, 0)))
    assert array_sha256(np.array(5)) != array_sha256(np.array([5]))


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1))
def test_any_text_survives_the_shell(channel: str, image: str) -> None:
    words = shlex.split(SegmentSettings(channel=channel).to_command(image))
    assert words[2].removeprefix("./") == image.removeprefix("./")
    last = words[-1].removeprefix("--channel=").removeprefix("name=")
    assert last == channel.removeprefix("name=")
