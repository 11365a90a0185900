"""The card: every entry survives JSON, and what cannot be is refused with its name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.conftest import record

from napari_fcnseg._shared.errors import ModelFileError
from napari_fcnseg.models import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.preprocess.normalization import Normalization

NORMALIZATION = Normalization("fixed", 2.0, 99.0, (3.0,), (4.0,), "luminance")
MISSING = object()


def through_json(card: ModelRecord) -> ModelRecord:
    return ModelRecord.from_dict(json.loads(json.dumps(card.to_dict())))


def test_every_entry_survives_json() -> None:
    card = record(normalization=NORMALIZATION)
    for field in fields(card):  # or the test would show nothing
        assert getattr(card, field.name) != field.default, field.name
    assert through_json(card) == card


def test_what_may_be_left_out_survives_json() -> None:
    card = record(
        objects=None, seed_map="", diameter=None, pixel_size=None, tile_shape=None, halo=None, stride=None,
        sha256="", training={}, scores={}, weaknesses=(),
    )  # fmt: skip
    assert through_json(card) == card


@settings(max_examples=30)
@given(
    st.text(), st.lists(st.text(), max_size=3).map(tuple), st.floats(1e-3, 1e3), st.integers(1, 10**6),
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)),
)  # fmt: skip
def test_any_text_and_number_survives_json(
    text: str, weaknesses: tuple[str, ...], diameter: float, version: int, scores: dict[str, Any]
) -> None:
    card = record(
        title=text, description=text, weaknesses=weaknesses, diameter=diameter, version=version, scores=scores
    )
    assert through_json(card) == card


def test_id_ndim_and_the_maps_of_each_class() -> None:
    card = record(
        outputs=(OutputMap("inside", value=2), OutputMap("rim", value=2), OutputMap("depth", "none")),
        classes=(ModelClass(5, "other", "#000000"), ModelClass(2, "cell", "#ffffff")),
    )
    assert card.id == "cells@3"
    assert card.ndim == 2
    assert card.class_maps == ((0, ()), (5, ()), (2, (0, 1)))


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", "bioimage.io", "not a model card"),
        ("format", MISSING, "not a model card"),
        ("format_version", 2, "format version 2; this release reads 1"),
        ("format_version", MISSING, "format version None"),
        ("colour", "red", "unknown entries: colour"),
        ("name", MISSING, "name"),
        ("outputs", MISSING, "outputs"),
        ("name", 7, "name is 7"),
        ("name", "nuclei@1", "cannot be called 'nuclei@1'"),
        ("name", "../escape", "cannot be called"),
        ("version", "1", "version is '1'"),
        ("version", True, "version is True"),
        ("version", 0, "version 0"),
        ("title", None, "title is None"),
        ("network", "unet", "network is 'unet'"),
        ("network", {}, "ndim None"),
        ("network", {"ndim": 4, "in_channels": 1, "classes": 3}, "ndim 4"),
        ("network", {"ndim": 2, "in_channels": 1, "classes": 4}, "classes 4, but .* 3 outputs"),
        ("inputs", "cells", "inputs is 'cells'"),
        ("inputs", ["a", "b"], "2 inputs"),
        ("inputs", [3], "inputs is"),
        ("outputs", "abc", "damaged"),
        ("outputs", [{"name": "a"}], "1 outputs"),
        ("outputs", [{"nom": "a"}] * 3, "nom"),
        ("outputs", [{"name": "a", "activation": "relu"}] * 3, "relu.*softmax, sigmoid, none"),
        ("outputs", [{"name": n, "value": 1} for n in ("a", "b", "depth")], "class 1, which is not listed"),
        ("outputs", [{"name": "a", "value": "2"}] * 3, "value is '2'"),
        ("outputs", [{"name": "depth"}] * 3, "seed_map is 'depth'"),
        ("classes", [{"value": 0, "name": "a", "colour": "#000000"}], "value 0"),
        ("classes", [{"value": -1, "name": "a", "colour": "#000000"}], "value -1"),
        ("classes", [{"value": "2", "name": "a", "colour": "#000000"}], "value is '2'"),
        ("classes", [{"value": 2, "name": "a", "colour": "blue"}], "#rrggbb"),
        ("classes", [{"value": 2, "name": "a", "colour": "#000000"}] * 2, "share a value"),
        ("seed_map", "distance", "seed_map is 'distance'"),
        ("kind", "panoptic", "kind is 'panoptic'"),
        ("objects", {"reach": -3}, "reach is -3"),
        ("objects", {"range": 3}, "range"),
        ("objects", [1], "damaged"),
        ("normalization", {"method": "zscore"}, "zscore"),
        ("normalization", {"low": "1"}, "percentiles"),
        ("normalization", None, "damaged"),
        ("min_size", -1, "min_size is -1"),
        ("min_size", 1.5, "min_size is 1.5"),
        ("diameter", 0, "diameter is 0"),
        ("diameter", "17", "diameter is '17'"),
        ("pixel_size", float("inf"), "pixel_size is inf"),
        ("tile_shape", [64], "needs 2 sizes"),
        ("tile_shape", [64, 0], "at least 1"),
        ("tile_shape", ["64", "64"], "tile_shape is"),
        ("tile_shape", "64", "tile_shape is '64'"),
        ("colour_input", 1, "colour_input is 1"),
        ("weaknesses", "none", "weaknesses is 'none'"),
        ("training", [], "training is"),
        ("licence", None, "licence is None"),
    ],
)  # fmt: skip
def test_a_damaged_card_says_what_is_wrong(entry: str, value: Any, message: str) -> None:
    data = record().to_dict() | {entry: value}
    if value is MISSING:
        del data[entry]
    with pytest.raises(ModelFileError, match=message):
        ModelRecord.from_dict(json.loads(json.dumps(data)))


def test_a_card_is_not_changed_by_reading_it() -> None:
    data = record().to_dict()
    before = json.dumps(data)
    ModelRecord.from_dict(data)
    assert json.dumps(data) == before


def test_a_seed_map_is_needed_for_objects_only() -> None:
    assert replace(record(), objects=None, seed_map="").objects is None
    with pytest.raises(ModelFileError, match="seed_map"):
        record(seed_map="")
