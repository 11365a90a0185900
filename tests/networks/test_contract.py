"""What every network of the registry has to keep, those added later among them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from tests.networks.cases import CASES, EXACT, Case, is_exact, is_progressive, named
from tests.networks.impulse import check_field
from tests.networks.tiled import (
    BFLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    inside,
    noise,
    plan_for,
    proper,
    run_tiled,
    run_whole,
    unsettled,
    worst,
)
from torch import nn

from napari_fcnseg.networks import NETWORKS, NetworkSegmenter, build_network, derive_field, list_networks
from napari_fcnseg.networks.anysize import AnySize, mirrored
from napari_fcnseg.tiling.plan import round_up

CHANNELS, CLASSES = 2, 3
BFLOAT16_CLOSE = 0.05


def network_of(case: Case) -> nn.Module:
    name, ndim, options = case
    torch.manual_seed(0)
    network = build_network(name, in_channels=CHANNELS, classes=CLASSES, ndim=ndim, **options)
    return unsettled(network)


def segmenter_of(case: Case, dtype: torch.dtype = torch.float32) -> NetworkSegmenter:
    return NetworkSegmenter(
        network_of(case), in_channels=CHANNELS, out_channels=CLASSES, ndim=case[1], dtype=dtype
    )


def input_of(case: Case, seed: int = 0) -> torch.Tensor:
    """Return a batch of two images of the smallest size that spans two strides of the network proper."""
    network = network_of(case)
    if isinstance(network, AnySize):
        length = max(2 * network.step + network.offset, network.smallest) + sum(network.margin)
        shape = [length] * case[1]
    else:
        field = derive_field(network, case[1])
        shape = [2 * step + sum(lost) for step, lost in zip(field.stride, field.border, strict=True)]
    return torch.randn(2, CHANNELS, *shape, generator=torch.Generator().manual_seed(seed))


every = pytest.mark.parametrize("case", CASES, ids=named)
exact = pytest.mark.parametrize("case", EXACT, ids=named)


def test_every_builder_takes_the_same_first_words() -> None:
    for name, builder in NETWORKS.items():
        words = list(inspect.signature(builder).parameters)
        assert words[:3] == ["in_channels", "classes", "ndim"], name


@every
def test_class_count_and_size(case: Case) -> None:
    network, x = network_of(case), input_of(case)
    with torch.inference_mode():
        scores = proper(network)(x)
    lost = [sum(pair) for pair in derive_field(network, case[1]).border]
    assert scores.shape[:2] == (2, CLASSES)
    assert all(n >= have - less for n, have, less in zip(scores.shape[2:], x.shape[2:], lost, strict=True))
    assert scores.isfinite().all()
    # Each class has weights of its own.
    assert scores.std(dim=1).min() > 0


@pytest.mark.parametrize("case", [c for c in CASES if c[0] != "unet_valid"], ids=named)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 3), (33, 17, 5)], ids=str)
@torch.inference_mode()
def test_any_size_gives_scores_of_just_that_size(case: Case, shape: tuple[int, ...]) -> None:
    shape = shape[: case[1]]
    network, x = network_of(case), torch.from_numpy(noise(CHANNELS, shape))[None]
    scores = network(x)
    assert scores.shape == (1, CLASSES, *shape)
    # The mirrored rows and columns belong to the image: scores of a fitting size are left alone.
    if isinstance(network, AnySize) and not sum(network.margin):
        fitting = x
        for axis, length in enumerate(shape, start=2):
            fitting = mirrored(fitting, axis, 0, network.fitting(length) - length)
        assert torch.equal(network.scores(fitting)[inside(tuple((0, n) for n in shape))], scores)


@every
def test_what_a_network_says_of_its_sizes_is_what_its_layers_say(case: Case) -> None:
    network = network_of(case)
    if is_exact(case):
        assert isinstance(network, AnySize)
        field = derive_field(network, case[1])
        assert field.stride == (network.step,) * case[1]
        assert field.border == (network.margin,) * case[1]


@every
def test_the_gradient_reaches_every_weight(case: Case) -> None:
    network = network_of(case).train()
    proper(network)(input_of(case)).square().sum().backward()  # type: ignore[no-untyped-call]
    first = next(iter(network.parameters()))
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@every
def test_equal_seeds_give_equal_networks_and_scores(case: Case) -> None:
    x = input_of(case)
    with torch.inference_mode():
        assert torch.equal(network_of(case)(x), network_of(case)(x))
        network = network_of(case)
        assert torch.equal(network(x), network(x))
        assert not torch.equal(network(x), network(input_of(case, seed=1)))


@every
def test_weights_survive_saving(case: Case, tmp_path: Any) -> None:
    network = network_of(case)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(1)
    name, ndim, options = case
    again = build_network(name, in_channels=CHANNELS, classes=CLASSES, ndim=ndim, **options).eval()
    x = input_of(case)
    with torch.inference_mode():
        assert not torch.equal(again(x), network(x))
        again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(again(x), network(x))


@every
def test_exact_or_a_reason(case: Case) -> None:
    segmenter = segmenter_of(case)
    assert segmenter.exact_tiling == is_exact(case)
    assert bool(segmenter.inexact_reason) != segmenter.exact_tiling
    assert segmenter.progressive == is_progressive(case)


@exact
def test_impulses_confirm_the_declared_halo(case: Case) -> None:
    network = network_of(case)
    check_field(network, derive_field(network, case[1]), CHANNELS)


@every
def test_odd_sizes_run_in_tiles(case: Case) -> None:
    segmenter = segmenter_of(case)
    shape = (19, 13, 11)[: case[1]]
    scores = run_tiled(segmenter, noise(CHANNELS, shape), (8, 8, 8)[: case[1]])
    assert scores.shape == (CLASSES, *shape)
    assert scores.isfinite().all()


def sizes(case: Case) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return shapes and cores: inner seams with a full halo, odd sizes, and less than the padding."""
    segmenter, ndim = segmenter_of(case), case[1]
    reach = max(sum(pair) for pair in segmenter.halo)
    step = max(segmenter.stride)
    # Long enough on the first axis that some tile has its whole halo on both sides.
    long = reach + 5 * step + 3
    narrow = (step + 1, 5)[: ndim - 1]
    return [
        ((long, *narrow), (2 * step, *narrow)),
        ((3 * step - 1,) * ndim, (step,) * ndim),
        ((3, 1, 2)[:ndim], (1,) * ndim),
        ((1,) * ndim, (1,) * ndim),
    ]


def check_tiles(segmenter: NetworkSegmenter, case: Case, tolerance: float) -> None:
    complete = 0
    for shape, core in sizes(case):
        image = noise(CHANNELS, shape)
        whole = run_whole(segmenter, image)
        for cropping in (True, False):
            assert worst(run_tiled(segmenter, image, core, cropping=cropping), whole) <= tolerance
        plan = plan_for(segmenter, shape, core)
        before, after = plan.halo[0]
        (low, high), inner = plan.padded[0], [tile.read[0] for tile in plan]
        complete += sum(a > low and b < high for a, b in inner)
        assert all(b - a <= plan.core_shape[0] + before + after for a, b in inner)
    assert complete > 0 or all(a == b for a, b in zip(plan.halo, plan.border, strict=True))


@exact
def test_tiles_equal_the_whole_in_float32(case: Case) -> None:
    check_tiles(segmenter_of(case), case, FLOAT32_TOLERANCE)


@exact
def test_tiles_equal_the_whole_in_bfloat16(case: Case) -> None:
    check_tiles(segmenter_of(case, torch.bfloat16), case, BFLOAT16_TOLERANCE)


@exact
def test_tiles_of_any_size_give_the_same_scores(case: Case) -> None:
    segmenter, ndim = segmenter_of(case), case[1]
    shape = (23, 14, 9)[:ndim]
    image = noise(CHANNELS, shape, seed=1)
    whole = run_whole(segmenter, image)
    one = tuple(round_up(n, step) for n, step in zip(shape, segmenter.stride, strict=True))
    for core in ((1,) * ndim, (9, 5, 3)[:ndim], (16,) * ndim, one):
        assert worst(run_tiled(segmenter, image, core), whole) <= FLOAT32_TOLERANCE


@exact
def test_the_whole_is_the_network_itself(case: Case) -> None:
    """Folding, memory layout and precision aside, a segmenter adds nothing."""
    with torch.inference_mode():
        expected = proper(network_of(case))(input_of(case))
    assert worst(segmenter_of(case).predict(input_of(case)), expected) <= FLOAT32_TOLERANCE


@every
def test_bfloat16_is_close_to_float32(case: Case) -> None:
    coarse = segmenter_of(case, torch.bfloat16).predict(input_of(case))
    assert worst(coarse, segmenter_of(case).predict(input_of(case))) <= BFLOAT16_CLOSE


# One axis has one layout.
@pytest.mark.parametrize("case", [case for case in CASES if case[1] > 1], ids=named)
@torch.inference_mode()
def test_the_layout_in_memory_changes_nothing(case: Case) -> None:
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[case[1]]
    network, x = network_of(case), input_of(case)
    expected = network(x)
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    assert worst(network(x.contiguous(memory_format=layout)), expected) <= FLOAT32_TOLERANCE


def test_every_network_is_listed() -> None:
    assert list_networks() == sorted(NETWORKS)
    assert {case[0] for case in CASES} == set(NETWORKS)
