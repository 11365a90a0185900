"""The contract of every model that is shipped."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_fcnseg.models import ModelRecord, list_models, load_model, model_folder, verify_model
from napari_fcnseg.models.files import CARD, WEIGHTS, read_model
from napari_fcnseg.segmentation import segment

MEGABYTES = 10
EVERY = pytest.mark.parametrize("record", list_models(), ids=lambda record: record.id)
DECODING = pytest.mark.parametrize(
    "record", [r for r in list_models() if r.kind == "instances"], ids=lambda record: record.id
)


def discs(record: ModelRecord) -> tuple[NDArray[np.uint16], list[tuple[int, ...]]]:
    """Return an image of bright discs of the size that a model expects, and their centres."""
    diameter = record.diameter or 20.0
    pitch, count = round(2.2 * diameter), 4 if record.ndim < 3 else 2
    random = np.random.default_rng(0)
    grid = itertools.product(range(count), repeat=record.ndim)
    centres = [tuple(int((i + 0.5) * pitch + random.integers(-3, 4)) for i in place) for place in grid]
    pixels = np.moveaxis(np.indices((count * pitch,) * record.ndim), 0, -1)
    nearest = np.min([np.linalg.norm(pixels - c, axis=-1) for c in centres], axis=0)
    soft = 1 / (1 + np.exp(np.clip(2 * (nearest - diameter / 2), -50, 50)))
    image = 400 + 2000 * soft + random.normal(0, 40, soft.shape)
    return image.astype(np.uint16), centres


def test_the_default_is_there() -> None:
    assert "nuclei" in {record.name for record in list_models()}
    assert load_model("nuclei").record.kind == "instances"


@EVERY
def test_the_weights_are_those_of_the_card(record: ModelRecord) -> None:
    assert verify_model(record.id) == record
    assert model_folder(record.id).name == record.id
    assert len(record.sha256) == 64


@EVERY
def test_the_folder_is_small_and_holds_nothing_else(record: ModelRecord) -> None:
    folder = model_folder(record.id)
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS}
    assert (folder / WEIGHTS).stat().st_size <= MEGABYTES * 10**6


@EVERY
def test_the_card_says_what_a_user_must_know(record: ModelRecord) -> None:
    for name in ("title", "description", "licence", "data_licence", "citation"):
        assert getattr(record, name).strip(), name
    assert record.weaknesses
    assert all(text.strip() for text in record.weaknesses)
    assert record.training
    assert record.diameter
    assert len(record.inputs) == record.network["in_channels"]
    assert ModelRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def numbers(entry: object) -> list[float]:
    """Return every number of nested plain data."""
    if isinstance(entry, dict | list):
        parts = entry.values() if isinstance(entry, dict) else entry
        return [number for part in parts for number in numbers(part)]
    return [float(entry)] if isinstance(entry, int | float) else []


@EVERY
def test_the_card_has_scores(record: ModelRecord) -> None:
    found = numbers(record.scores)
    assert found
    assert all(math.isfinite(score) and score >= 0 for score in found)


@EVERY
def test_two_loads_give_the_same_scores_twice(record: ModelRecord) -> None:
    one, other = (read_model(model_folder(record.id)) for _ in range(2))
    assert one.network is not None
    assert not one.network.training
    size = [max(32, 2 * step) for step in one.segmenter.stride]
    image = torch.rand((1, one.segmenter.in_channels, *size), generator=torch.Generator().manual_seed(0))
    scores = one.segmenter.predict(image)
    assert scores.shape[1] == len(record.outputs)
    assert scores.isfinite().all()
    assert scores.std() > 0
    assert torch.equal(scores, one.segmenter.predict(image))
    assert torch.equal(scores, other.segmenter.predict(image))


@DECODING
@pytest.mark.parametrize("invert", [False, True], ids=["bright", "dark"])
def test_every_disc_is_one_object(record: ModelRecord, invert: bool) -> None:
    image, centres = discs(record)
    channels = np.stack([image.max() - image if invert else image] * len(record.inputs))
    if invert and len(record.inputs) > 1:
        pytest.skip("polarity is a matter of one-channel models")
    labels = segment(channels, record.id, channel_axis=0, device="cpu")
    found = [int(labels[centre]) for centre in centres]
    assert 0 not in found
    assert len(set(found)) == len(centres)
    assert labels.max() <= len(centres) * 1.1
    share = (labels > 0).mean() / (image > 1400).mean()
    assert 0.6 < share < 1.6
