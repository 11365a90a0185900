"""Bare networks become models, and what does not fit is refused before a pixel is read."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.models.conftest import network, record
from torch import nn

from napari_fcnseg._shared.errors import ModelError, TilingError
from napari_fcnseg.models import ModelClass, OutputMap, as_model
from napari_fcnseg.models.model import make_model
from napari_fcnseg.networks import build_network, network_config
from napari_fcnseg.preprocess.normalization import Normalization

IMAGE = torch.randn((1, 1, 32, 32), generator=torch.Generator().manual_seed(0))


def plain(classes: int = 3, in_channels: int = 1) -> nn.Module:
    """Return a module of nobody's making."""
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 1))


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (2, {1: "class 1", 2: "class 2"}),
        (["cell", "rim"], {1: "cell", 2: "rim"}),
        (("cell", "rim"), {1: "cell", 2: "rim"}),
        ({7: "cell", 3: "rim"}, {7: "cell", 3: "rim"}),
    ],
)
def test_classes_as_count_names_or_mapping(classes: Any, expected: dict[int, str]) -> None:
    card = as_model(network(), classes=classes).record
    assert {c.value: c.name for c in card.classes} == expected
    assert len({c.colour for c in card.classes}) == 2
    first, second = expected
    assert card.class_maps == ((0, (0,)), (first, (1,)), (second, (2,)))
    assert card.outputs[0] == OutputMap("background", value=0)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (0, "classes is empty"),
        ([], "classes is empty"),
        ({}, "classes is empty"),
        ("cell", r"classes is the text 'cell'.*\['cell'\]"),
        ({"cell": 1, "rim": 2}, "value is 'cell'"),
        ({0: "ground", 1: "cell"}, "has value 0"),
        ([1, 2], "name is 1"),
        (1, "gives 3 maps, but 1 classes and the background need 2"),
        (3, "gives 3 maps, but 3 classes and the background need 4"),
    ],
)
@pytest.mark.parametrize("made", [network, plain])
def test_classes_that_do_not_fit(made: Any, classes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        as_model(made(), classes=classes)


# ---------------------------------------------------------------- bare modules


def test_what_is_read_off_a_network() -> None:
    bare = plain(in_channels=3)
    model = as_model(bare, classes=2, name="mine")
    card = model.record
    assert (card.id, card.ndim, card.colour_input, card.kind) == ("mine@1", 2, False, "classes")
    assert card.inputs == ("channel 0", "channel 1", "channel 2")
    assert (model.segmenter.halo, model.segmenter.stride) == (((1, 1), (1, 1)), (1, 1))
    assert model.network is bare
    assert not model.copyable
    assert "mine@1" in repr(model)
    image = torch.randn(1, 3, 9, 7)
    assert torch.allclose(model.segmenter.predict(image), bare(image), atol=1e-6)


@pytest.mark.parametrize(("ndim", "conv"), [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_axes_are_those_of_the_convolutions(ndim: int, conv: type[nn.Module]) -> None:
    model = as_model(nn.Sequential(conv(1, 2, 5, padding=2)), classes=1)
    assert model.record.ndim == model.segmenter.ndim == ndim
    assert model.segmenter.halo == ((2, 2),) * ndim
    assert model.record.colour_input


def test_the_config_of_a_network_of_ours_is_kept() -> None:
    made = network()
    assert as_model(made, classes=2).record.network == network_config(made)


@pytest.mark.parametrize("config", [SimpleNamespace(classes=9), {"classes": 9}, {"hidden_size": 3}, 7])
def test_the_config_of_other_libraries_says_nothing(config: Any) -> None:
    bare = plain()
    bare.config = config
    assert as_model(bare, classes=2).record.network["classes"] == 3


class Wrapped(nn.Module):
    """Returns what some libraries return."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, image: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict(out=self.layer(image))


def test_scores_in_a_dictionary_are_refused() -> None:
    with pytest.raises(ModelError, match="must return one tensor"):
        as_model(Wrapped(), classes=1, halo=0, stride=1)


def test_scores_smaller_than_the_image_are_refused() -> None:
    shrinking = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ModelError, match="bring its scores back to the size of the image"):
        as_model(shrinking, classes=1)


def test_a_network_without_convolutions() -> None:
    with pytest.raises(ModelError, match="Sequential has no convolution"):
        as_model(nn.Sequential(nn.ReLU()), classes=1)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    made = network().train(training)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    model = as_model(made, classes=2)
    assert made.training is training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert torch.equal(model.segmenter.predict(IMAGE), model.segmenter.predict(IMAGE))


def test_normalization_may_be_given() -> None:
    assert as_model(network(), classes=2).record.normalization == Normalization()
    fixed = as_model(network(), classes=2, normalization={"method": "fixed", "offset": 3, "scale": 2})
    assert fixed.record.normalization == Normalization("fixed", offset=(3,), scale=(2,))
    with pytest.raises(ValueError, match="Did you mean 'percentile'"):
        as_model(network(), classes=2, normalization="percentle")


# ---------------------------------------------------------------- halo and tiles


@pytest.mark.parametrize("halo", [4, (4, 4), ((8, 8), (6, 8))])
def test_a_halo_that_is_too_small_is_refused(halo: Any) -> None:
    assert as_model(network(), classes=2).segmenter.halo == ((8, 8), (8, 8))
    with pytest.raises(TilingError, match="smaller than"):
        as_model(network(), classes=2, halo=halo)


def test_a_larger_halo_is_taken() -> None:
    assert as_model(network(), classes=2, halo=11).segmenter.halo == ((12, 12), (12, 12))


def test_a_network_of_whole_image_statistics_is_inexact_and_has_a_window() -> None:
    model = as_model(network(norm="group", base_channels=8), classes=2)
    assert not model.segmenter.exact_tiling
    assert "GroupNorm" in model.segmenter.inexact_reason
    assert model.record.tile_shape == (512, 512)
    given = as_model(network(norm="group", base_channels=8), classes=2, tile_shape=[96, 128])
    assert given.record.tile_shape == (96, 128)
    with pytest.raises(TilingError, match="no halo makes this network exact"):
        as_model(network(norm="group", base_channels=8), classes=2, halo=64, stride=2)


def test_an_inexact_network_needs_the_window_of_its_card() -> None:
    made = network(norm="group", base_channels=8)
    card = record(network=network_config(made), halo=None, stride=None)
    assert not make_model(card, made).segmenter.exact_tiling
    with pytest.raises(ModelError, match=r"GroupNorm.*needs a tile_shape"):
        make_model(record(network=network_config(made), halo=None, stride=None, tile_shape=None), made)


@pytest.mark.parametrize("tile_shape", [(64,), (64, 64, 64), (0, 64)])
def test_a_window_of_other_axes_is_refused(tile_shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="tile_shape"):
        as_model(network(), classes=2, tile_shape=tile_shape)


def test_each_place_is_prepared_once() -> None:
    model = as_model(network(), classes=2)
    cpu = torch.device("cpu")
    half = model.on(cpu, torch.bfloat16)
    assert model.on(cpu, torch.bfloat16) is half
    assert model.on(cpu, torch.float32) is model.segmenter
    exact, rough = model.segmenter.predict(IMAGE), half.predict(IMAGE)
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


def test_colours_are_told_apart_and_start_again() -> None:
    bare = plain(classes=12)
    colours = [c.colour for c in as_model(bare, classes=11).record.classes]
    assert len(set(colours[:9])) == 9
    assert colours[9:] == colours[:2]
    assert all(isinstance(c, ModelClass) for c in as_model(bare, classes=11).record.classes)


def test_a_network_of_the_paper_loses_its_border() -> None:
    made = build_network("unet_valid", in_channels=1, classes=2, depth=2, base_channels=2)
    model = as_model(made, classes=["cell"])
    assert model.segmenter.border[0][0] > 0
    with pytest.raises(ModelError, match="gives 2 maps"):
        as_model(made, classes=3)


# ---------------------------------------------------------------- what is no network


def test_what_gives_scores_itself_is_a_model_too() -> None:
    segmenter = as_model(plain(2), classes=1).segmenter
    made = as_model(segmenter, classes=["cell"])
    assert made.network is None
    assert made.segmenter is segmenter
    assert not made.copyable
    with pytest.raises(ModelError, match="states halo and stride itself"):
        as_model(segmenter, classes=1, halo=3)
    with pytest.raises(ModelError, match="gives 2 maps"):
        as_model(segmenter, classes=2)
    with pytest.raises(ModelError, match="int gives no scores"):
        as_model(7, classes=1)  # type: ignore[arg-type]
