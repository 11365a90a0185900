"""Roles of axes: said, never guessed; errors spell out the call."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from napari_fcnseg._shared.errors import AxesError
from napari_fcnseg.engine.layout import Layout, read_layout

NOTHING: dict[str, Any] = {"axes": None, "channel_axis": None, "channel": None}
RGB = ("red", "green", "blue")


def layout(shape: tuple[int, ...], ndim: int = 2, **options: Any) -> Layout:
    return read_layout(shape, ndim, **{**NOTHING, **options})


def message(shape: tuple[int, ...], ndim: int = 2, **options: Any) -> str:
    with pytest.raises(AxesError) as caught:
        layout(shape, ndim, **options)
    return str(caught.value)


def test_as_many_axes_as_the_model() -> None:
    assert layout((5, 6)) == Layout((), (0, 1), axes="yx")
    assert layout((4, 5, 6), 3) == Layout((), (0, 1, 2), axes="zyx")
    assert layout((6,), 1) == Layout((), (0,), axes="x")


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("tyx", Layout((0,), (1, 2), axes="tyx")),
        ("xy", Layout((), (1, 0), axes="xy")),
        ("zxyt", Layout((0, 3), (2, 1), axes="zxyt")),
        ("YXC", Layout((), (0, 1), 2, (0,), "yxc")),
    ],
)
def test_axes_by_letters(axes: str, expected: Layout) -> None:
    shape = tuple({"c": 1}.get(letter.lower(), 9) for letter in axes)
    assert layout(shape, axes=axes) == expected


def test_a_3d_model_looks_along_z() -> None:
    assert layout((2, 9, 9, 9), 3, axes="txzy") == Layout((0,), (2, 3, 1), axes="txzy")


def test_labels_keep_the_order_of_the_image() -> None:
    assert layout((9, 2, 9, 9), axes="xtzy").output_order() == (0, 1, 2, 3)
    assert layout((9, 1, 9), axes="xcy").output_order() == (0, 2)


@pytest.mark.parametrize("samples", [3, 4])
def test_a_trailing_three_or_four_is_not_guessed(samples: int) -> None:
    text = message((50, 60, samples))
    assert f"3 dimensions (shape (50, 60, {samples})), but this model looks at 2" in text
    assert f"channel_axis=-1 if the last axis ({samples}) are colours or channels" in text
    assert 'axes="tyx"' in text


def test_a_stack_is_not_guessed() -> None:
    text = message((7, 50, 60))
    assert "channel_axis=-1" not in text
    for call in ("channel_axis=0 if the first axis (7)", 'axes="tyx"', 'axes="zyx"'):
        assert call in text
    assert "the others are gone through one by one" in text


@pytest.mark.parametrize(
    ("shape", "ndim", "calls"),
    [
        ((7, 50, 60, 3), 2, ['axes="tyxc"', 'axes="zyxc"']),
        ((7, 2, 50, 60), 2, ['axes="tcyx"', 'axes="zcyx"', 'axes="tzyx"']),
        ((7, 2, 9, 50, 60), 2, ['axes="tczyx"']),
        ((7, 20, 50, 60), 3, ["channel_axis=0", 'axes="tzyx"']),
        ((20, 50, 60, 3), 3, ["channel_axis=-1", "channel_axis=0"]),
        ((2, 20, 50, 60, 4), 3, ['axes="tzyxc"']),
        ((2, 3, 20, 50, 60), 3, ['axes="tczyx"']),
        ((50, 60), 3, ["an array of 3 dimensions"]),
        ((), 2, ["an array of 2 dimensions"]),
        ((1, 2, 3, 4, 5, 6), 2, ["an array of 2 dimensions"]),
    ],
)
def test_likely_calls(shape: tuple[int, ...], ndim: int, calls: list[str]) -> None:
    text = message(shape, ndim)
    for call in calls:
        assert call in text


@pytest.mark.parametrize(
    ("shape", "ndim"),
    [((7, 50, 60), 2), ((7, 50, 60, 3), 2), ((7, 2, 50, 60), 2), ((7, 9, 50, 60), 3), ((7, 2, 9, 5, 6), 2)],
)
def test_the_calls_that_are_spelled_out_work(shape: tuple[int, ...], ndim: int) -> None:
    import re

    text = message(shape, ndim)
    calls = re.findall(r'axes="([a-z]+)"', text)
    assert calls
    for axes in calls:
        inputs = ("a",) if "c" not in axes else tuple("abcdefgh"[: shape[axes.index("c")]])
        assert len(layout(shape, ndim, axes=axes, inputs=inputs).axes) == len(shape)


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ("yx", 'axes="yx" names 2 axes, but the image has 3'),
        ("yyx", "at most once"),
        ("qyx", "letters t, c, z, y, x"),
        ("tzx", "lacks y; this model looks along y, x"),
    ],
)
def test_wrong_letters(axes: str, says: str) -> None:
    assert says in message((3, 9, 9), axes=axes)


def test_axes_and_channel_axis_contradict() -> None:
    assert "both given" in message((3, 9, 9), axes="cyx", channel_axis=0)


def test_channel_axis_that_does_not_exist() -> None:
    assert "channel_axis=3 does not exist in an image of 3 dimensions" in message((3, 9, 9), channel_axis=3)
    assert "besides channel_axis=0" in message((9, 9), channel_axis=0)


def test_channels_by_index_and_name() -> None:
    names = ("DAPI", "GFP", "RFP")
    both: dict[str, Any] = {"channel_axis": 0, "names": names}
    assert layout((3, 9, 9), channel=1, **both).channels == (1,)
    assert layout((3, 9, 9), channel=-1, **both).channels == (2,)
    assert layout((3, 9, 9), channel="RFP", **both).channels == (2,)
    assert layout((3, 9, 9), channel=["GFP", 0], inputs=("a", "b"), **both).channels == (1, 0)
    assert "no channel is called 'dapi'; the image names 'DAPI', 'GFP', 'RFP'" in message(
        (3, 9, 9), channel="dapi", **both
    )
    assert "none, so give an index" in message((3, 9, 9), channel_axis=0, channel="DAPI")
    assert "channel 3 does not exist; the image has 3 (0 to 2)" in message((3, 9, 9), channel=3, **both)


def test_names_of_another_axis_say_nothing() -> None:
    assert "none, so give an index" in message(
        (4, 9, 9), channel_axis=0, channel="DAPI", names=("DAPI", "GFP")
    )


def test_channels_must_match_the_card() -> None:
    text = message((3, 9, 9), channel_axis=0, inputs=("nuclei", "membrane"), names=("DAPI", "GFP", "RFP"))
    assert "3 channels are given: DAPI, GFP, RFP, but this model takes 2 (nuclei, membrane)" in text
    assert "such as channel=[0, 1]" in text
    assert "such as channel=0" in message((3, 9, 9), channel_axis=0)
    assert "say which axis they are" in message((9, 9), inputs=("a", "b"))
    assert "the image has no channel axis" in message((9, 9), channel=1)


def test_fluorescence_is_not_taken_for_colours() -> None:
    names = ("DAPI", "GFP", "RFP")
    assert "choose with channel=" in message((3, 9, 9), channel_axis=0, names=names, colour_input=True)
    asked = layout((3, 9, 9), channel_axis=0, names=names, channel=[0, 1, 2], colour_input=True)
    assert asked.channels == (0, 1, 2)
    assert layout((3, 9, 9), channel_axis=0, names=RGB, colour_input=True).channels == (0, 1, 2)


@pytest.mark.parametrize("names", [(), (*RGB, "alpha")])
@pytest.mark.parametrize("options", [{"colour_input": True}, {"inputs": RGB}])
def test_alpha_is_dropped_and_said_so(
    names: tuple[str, ...], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert layout((9, 9, 4), channel_axis=2, names=names, **options).channels == (0, 1, 2)
    assert "alpha and dropped" in caplog.text


def test_four_named_channels_hold_no_alpha() -> None:
    text = message((9, 9, 4), channel_axis=2, names=("a", "b", "c", "d"), colour_input=True)
    assert "4 channels are given" in text
