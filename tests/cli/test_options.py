"""From words to settings, and back to the same words' meaning."""

from __future__ import annotations

import argparse
import logging
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import LABEL_DTYPES, SegmentSettings
from napari_fcnseg.cli.options import add_settings, settings_of


def _parsed(words: list[str], recorded: SegmentSettings | None = None) -> SegmentSettings:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--out")
    add_settings(parser)
    return settings_of(parser.parse_args(words), recorded)


_positive = st.floats(1e-3, 1e6)
_names = st.text(min_size=1, max_size=8).filter(str.strip)
_channel = st.integers(-3, 9) | _names
_settings = st.fixed_dictionaries(
    {},
    optional={
        "model": _names,
        "kind": st.sampled_from(["classes", "instances"]),
        "axes": st.sampled_from(["yx", "tcyx", "yxc"]),
        "channel_axis": st.integers(-3, 3),
        "channel": _channel | st.lists(_channel, min_size=2, max_size=3).map(tuple),
        "spacing": st.lists(_positive, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("zyx"), _positive, min_size=1),
        "diameter": _positive,
        "normalization": st.sampled_from(["haematoxylin", {"low": 1.5, "method": "percentile"}]),
        "threshold": st.floats(0, 1),
        "min_size": st.integers(0, 99),
        "clear_border": st.booleans(),
        "tile_shape": st.lists(st.integers(1, 4096), min_size=1, max_size=3).map(tuple),
        "batch_size": st.integers(1, 64),
        "memory": st.sampled_from(["4GB", "512 MiB", 123456789]),
        "device": st.sampled_from(["cpu", "cuda:1"]),
        "precision": st.sampled_from(["float32", "bfloat16"]),
        "label_dtype": st.sampled_from(LABEL_DTYPES),
        "refine": st.sampled_from(
            [
                ({"name": "crf"},),
                ({"name": "crf"}, {"name": "split"}),
                ({"name": "crf", "iterations": 3},),
            ]
        ),
    },
)


@given(_settings)
def test_a_copied_command_gives_the_same_settings(options: dict[str, Any]) -> None:
    settings = SegmentSettings(**options)
    words = shlex.split(settings.to_command("in.tif", "out.tif"))
    assert _parsed(words[2:]) == settings


@given(_settings, _settings)
def test_flags_override_what_was_recorded(recorded: dict[str, Any], given_: dict[str, Any]) -> None:
    # A setting at its default needs no word, so it cannot override anything.
    flags = SegmentSettings(**given_)
    words = shlex.split(flags.to_command("in.tif", "out.tif"))
    base, got = SegmentSettings(**recorded), _parsed(words[2:], SegmentSettings(**recorded))
    assert {name: getattr(got, name) for name in flags.options()} == flags.options()
    assert SegmentSettings(**{**base.options(), **got.options()}) == SegmentSettings(
        **{**base.options(), **flags.options()}
    ), "the rest is as recorded, or at its default"


_CHANGES: list[tuple[dict[str, Any], list[str], set[str]]] = [
    ({"axes": "tyx"}, ["--channel-axis", "0"], {"axes"}),
    ({"channel_axis": 0}, ["--axes", "TYX"], {"channel_axis"}),
    ({"diameter": 30}, ["--spacing", "0.5"], {"diameter"}),
    ({"spacing": (0.5, 0.5)}, ["--diameter", "30"], {"spacing"}),
    (
        {"kind": "instances", "min_size": 5, "clear_border": True, "label_dtype": "int32", "threshold": 0.4},
        ["--kind", "classes"],
        {"min_size", "clear_border", "label_dtype", "threshold"},
    ),
    ({"kind": "instances", "refine": ({"name": "split"},)}, ["--kind", "classes"], {"refine"}),
    (
        {"kind": "classes", "label_dtype": "uint8", "threshold": 0.4},
        ["--kind", "instances"],
        {"label_dtype"},
    ),
    (
        {
            "model": "nuclei@1",
            "normalization": {"low": 1.0},
            "min_size": 5,
            "tile_shape": (64, 64),
            "threshold": 0.4,
        },
        ["--model", "other"],
        {"normalization", "min_size", "tile_shape", "threshold"},
    ),
    ({"tile_shape": (64, 64)}, ["--memory", "1GB"], {"tile_shape"}),
]


@pytest.mark.parametrize(("recorded", "words", "dropped"), _CHANGES, ids=lambda value: str(value)[:30])
def test_a_flag_resets_what_follows_from_the_recorded_one(
    recorded: dict[str, Any], words: list[str], dropped: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    kept: dict[str, Any] = {"device": "cpu", "precision": "float32", "batch_size": 2, "channel": 1}
    expected = {k: v for k, v in {**recorded, **kept}.items() if k not in dropped}
    with caplog.at_level(logging.INFO, "napari_fcnseg"):
        got = _parsed(["a.tif", *words], SegmentSettings(**recorded, **kept))
    assert got == _parsed(["a.tif", *words], SegmentSettings(**expected))
    assert {name: getattr(got, name) for name in dropped} == dict.fromkeys(dropped) | (
        {"clear_border": False} if "clear_border" in dropped else {}
    )
    (said,) = caplog.messages
    assert set(said.split(": ")[1].split(", ")) == dropped


def test_what_is_a_flag_too_stays() -> None:
    recorded = SegmentSettings(model="a", min_size=5, threshold=0.4, tile_shape=(64, 64))
    got = _parsed(["i.tif", "--model", "b", "--min-size", "7", "--threshold", "0.4"], recorded)
    assert got == SegmentSettings(model="b", min_size=7, threshold=0.4)


def test_a_flag_that_repeats_the_record_resets_nothing() -> None:
    recorded = SegmentSettings(model="a", kind="instances", axes="yx", min_size=5, label_dtype="int64")
    assert _parsed(["i.tif", "--model", "a", "--kind", "instances", "--axes", "YX"], recorded) == recorded


def test_no_clear_border_overrides_a_record() -> None:
    recorded = SegmentSettings(clear_border=True)
    assert _parsed(["a.tif"], recorded).clear_border
    assert not _parsed(["a.tif", "--no-clear-border"], recorded).clear_border


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", {"y": 0.5, "x": 0.5}),
        ("2,0.5,0.25", (2.0, 0.5, 0.25)),
        ("Z=2,y=0.5,x=0.5", {"z": 2.0, "y": 0.5, "x": 0.5}),
    ],
)
def test_spacing(text: str, expected: object) -> None:
    assert _parsed(["a.tif", "--spacing", text]).spacing == expected


def test_tile_shape_takes_both_spellings() -> None:
    assert _parsed(["a.tif", "--tile-shape", "512x256"]).tile_shape == (512, 256)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--memory", "4 gigs"], "KiB MiB GiB"),
        (["--spacing", "half"], "'half' cannot be read"),
        (["--tile-shape", "a,b"], "'a,b' cannot be read"),
        (["--normalization", "{1"], "cannot be read"),
        (["--refine", "[1"], "cannot be read"),
        (["--kind", "objects"], "invalid choice"),
    ],
)
def test_words_that_cannot_be_read(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        _parsed(["a.tif", *words])
    assert left.value.code == 2
    assert says in capsys.readouterr().err


def test_values_out_of_range() -> None:
    with pytest.raises(InputError, match="diameter is -3"):
        _parsed(["a.tif", "--diameter", "-3"])
