"""Front end and context module: sizes, fields, parameters, first weights, options."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.impulse import positive
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.dilated import (
    CONTEXT_DILATIONS,
    ContextModule,
    Dilated,
    build_dilated,
    build_dilated_frontend,
)
from napari_fcnseg.networks.field import Walk, derive_field
from napari_fcnseg.networks.geometry import CONVOLUTIONS

TINY = 1 / 64
FRONT_END = 134_346_581


def parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


def weights_alone(network: nn.Module) -> int:
    return sum(weights.numel() for name, weights in network.named_parameters() if name.endswith("weight"))


def convolutions(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, CONVOLUTIONS)]


def on_meta(builder: Any, *args: Any, **options: Any) -> Any:
    with torch.device("meta"):
        return builder(*args, **options)


def test_parameters_of_the_front_end() -> None:
    """As many as FCN-32s has (without its upsampling)."""
    assert parameters(on_meta(build_dilated_frontend, 3, 21)) == FRONT_END


@pytest.mark.parametrize(
    ("context", "total", "square"), [("basic", 28_392, 64), ("large", 6_803_139, 15_422)]
)
def test_parameters_of_the_context_module(context: str, total: int, square: int) -> None:
    module = on_meta(ContextModule, 21, ndim=2, context=context)
    assert parameters(module) == total
    assert weights_alone(module) == square * 21**2
    assert parameters(on_meta(build_dilated, 3, 21, context=context)) == FRONT_END + total


@pytest.mark.parametrize(("variant", "classes", "layers"), [(7, 11, 6), (8, 21, 7), (10, 19, 9)])
def test_parameters_of_the_variants(variant: int, classes: int, layers: int) -> None:
    """Three-wide layers, one that is one wide; what enlarges is fixed."""
    network = on_meta(build_dilated, 3, classes, variant=variant)
    wide, narrow = (classes * classes * kernel + classes for kernel in (9, 1))
    front_end = parameters(on_meta(build_dilated_frontend, 3, classes))
    assert parameters(network) == front_end + layers * wide + narrow


def test_channels_of_the_large_form() -> None:
    module = on_meta(ContextModule, 21, ndim=2, context="large")
    assert [layer.out_channels // 21 for layer in convolutions(module)] == [2, 2, 4, 8, 16, 32, 32, 1]
    assert {layer.out_channels % 21 for layer in convolutions(module)} == {0}


SIZES = [(380, 1), (388, 2), (500, 16), (628, 32), (852, 60), (884, 64), (900, 66), (1396, 128)]


@pytest.mark.parametrize(("given", "returned"), SIZES)
def test_sizes_of_the_paper(given: int, returned: int) -> None:
    network = build_dilated_frontend(1, 2, ndim=1, width=TINY)
    with torch.inference_mode():
        assert network.coarse(torch.zeros(1, 1, given)).shape == (1, 2, returned)


def test_less_than_the_field_gives_nothing() -> None:
    walk = Walk(build_dilated_frontend(1, 1, ndim=1, width=TINY).front_end, 1)
    assert walk.sizes(0, 379) is None
    sizes = walk.sizes(0, 380)
    assert sizes is not None
    assert sizes[walk.output] == 1


@pytest.mark.parametrize("context", ["basic", None])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 16), (13, 21)])
def test_scores_have_the_size_of_the_image(context: str | None, shape: tuple[int, int]) -> None:
    network = build_dilated(2, 3, width=TINY, context=context).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 2, *shape)).shape == (1, 3, *shape)


def test_the_image_is_mirrored_by_186_on_all_sides() -> None:
    network = build_dilated_frontend(1, 2, width=TINY).eval()
    image = np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)
    padded = torch.from_numpy(np.pad(image, 186, mode="reflect"))
    with torch.inference_mode():
        cells = network.coarse(padded[None, None])
        enlarged = nn.functional.interpolate(cells, scale_factor=8, mode="bilinear", align_corners=False)
        scores = network(torch.from_numpy(image)[None, None])
    assert cells.shape == (1, 2, 25, 3)
    torch.testing.assert_close(scores, enlarged, rtol=0, atol=1e-6 * float(enlarged.abs().max()))
    assert scores.std() > 0


def looked_at(function: Any, x: torch.Tensor, cell: int) -> tuple[int, int]:
    """Return the first and the last pixel of `x` whose change one cell of the output feels."""
    x = x.clone().requires_grad_()
    function(x)[..., cell].sum().backward()
    assert x.grad is not None
    found = x.grad.abs().sum((0, 1)).nonzero()[:, -1]
    return int(found.min()), int(found.max())


def field_of(network: Any, cells: int, cell: int) -> tuple[int, int]:
    """Return the first and the last pixel that a coarse cell can look at.

    Falling and rising ramps make each maximum take the first, and the last, of its window.
    """
    ramp = 1 + torch.arange(372 + 8 * cells, dtype=torch.float64)[None, None]
    first, _ = looked_at(network.coarse, ramp.flip(-1), cell)
    _, last = looked_at(network.coarse, ramp, cell)
    return first, last


@pytest.mark.parametrize("cell", [0, 2])
def test_a_cell_of_the_front_end_looks_at_380_pixels(cell: int) -> None:
    """From 8 j on, so its centre is 8 j + 189.5."""
    network = positive(build_dilated_frontend(1, 1, ndim=1, width=TINY))
    assert field_of(network, 3, cell) == (8 * cell, 8 * cell + 379)


def test_front_end_and_context_look_at_908_pixels() -> None:
    network = positive(build_dilated(1, 1, ndim=1, width=TINY))
    first, last = field_of(network, 71, 35)
    assert last - first + 1 == 908


FIELDS = {
    7: [3, 5, 9, 17, 33, 35, 35],
    8: [3, 5, 9, 17, 33, 65, 67, 67],
    10: [3, 5, 9, 17, 33, 65, 129, 257, 259, 259],
}


@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("padding", ["layers", "input"])
@pytest.mark.parametrize("variant", [7, 8, 10])
def test_fields_layer_by_layer(variant: int, padding: str, ndim: int) -> None:
    module: Any = positive(ContextModule(1, ndim=ndim, variant=variant, padding=padding))
    layers: list[nn.Module] = list(module)
    found: list[int] = []
    middle = FIELDS[variant][-1] // 2 + 1
    for end, layer in enumerate(layers, start=1):
        if not isinstance(layer, CONVOLUTIONS):
            continue
        # Padding around the input is more than the first layers need.
        around = sum(CONTEXT_DILATIONS[variant]) if padding == "input" else 0
        reach = FIELDS[variant][len(found)] // 2
        x = torch.ones(1, 1, *(3,) * (ndim - 1), 2 * middle + 1, dtype=torch.float64)
        cell = middle + (around - reach if padding == "input" else 0)
        first, last = looked_at(nn.Sequential(*layers[:end]), x, cell)
        found.append(last - first + 1)
        assert first + last == 2 * middle
    assert found == FIELDS[variant]


@pytest.mark.parametrize(("form", "variant"), [("basic", 7), ("basic", 8), ("basic", 10), ("large", 8)])
@pytest.mark.parametrize(
    ("ndim", "padding"), [(1, "layers"), (2, "layers"), (3, "layers"), (1, "input"), (2, "input")]
)
def test_the_module_begins_as_relu(form: str, variant: int, ndim: int, padding: str) -> None:
    """ReLU(x), not x: negative scores are cut at the first layer."""
    module = ContextModule(3, ndim=ndim, context=form, variant=variant, padding=padding, sigma=0.0).double()
    x = torch.randn(2, 3, *(5, 4, 3)[:ndim], dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), x.relu(), rtol=1e-14, atol=0)
    assert not torch.equal(x.relu(), x)


def test_first_weights_pass_each_class_on() -> None:
    """Spot checks of equation 5: 3 classes, from 6 to 6, 6 to 12, 12 to 24, 96 to 3 channels."""
    large: Any = ContextModule(3, ndim=1, context="large", sigma=0.0)
    weight = large.conv1_2.weight[..., 1]
    assert torch.equal(weight, 0.5 * torch.kron(torch.eye(3), torch.ones(2, 2)))
    assert torch.equal(large.conv2_1.weight[..., 1], 0.25 * torch.kron(torch.eye(3), torch.ones(4, 2)))
    assert torch.equal(large.final.weight[..., 0], torch.kron(torch.eye(3), torch.ones(1, 32)))
    basic: Any = ContextModule(3, ndim=1, sigma=0.0)
    assert torch.equal(basic.conv4_1.weight, torch.eye(3)[..., None] * torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize(("form", "place", "one"), [("basic", "conv3_1", 1.0), ("large", "conv3_1", 1 / 8)])
def test_noise_of_the_first_weights(form: str, place: str, one: float) -> None:
    torch.manual_seed(0)
    layer: Any = ContextModule(21, ndim=2, context=form).get_submodule(place)
    off = layer.weight[..., 0, 0].detach()
    # Five standard errors of a standard deviation.
    assert float(off.std()) == pytest.approx(0.01 * one, rel=5 / (2 * off.numel()) ** 0.5)
    centre = layer.weight[..., 1, 1].detach()
    assert int((centre == one).sum()) == layer.out_channels * layer.in_channels // 21
    assert not layer.bias.any()


def test_first_weights_of_the_front_end() -> None:
    torch.manual_seed(0)
    front_end: Any = build_dilated_frontend(3, 21, width=1 / 8).front_end
    final = front_end.final.weight.detach()
    assert float(final.std()) == pytest.approx(0.001, rel=5 / (2 * final.numel()) ** 0.5)
    inner = front_end.conv5_1.weight.detach()
    expected = (2 / inner[0].numel()) ** 0.5
    assert float(inner.std()) == pytest.approx(expected, rel=5 / (2 * inner.numel()) ** 0.5)
    assert not any(layer.bias.any() for layer in convolutions(front_end))


def test_where_zeros_are_added_matters_at_the_border_only() -> None:
    torch.manual_seed(0)
    layers: Any = ContextModule(2, ndim=1, sigma=0.3)
    whole: Any = ContextModule(2, ndim=1, padding="input")
    whole.load_state_dict(layers.state_dict())
    for bias in (layers.conv1_1.bias, whole.conv1_1.bias):  # what tells a padded cell from a zero one
        bias.data.fill_(0.5)
    assert [layer.padding[0] for layer in convolutions(whole)] == [33, 0, 0, 0, 0, 0, 0, 0]
    assert [layer.padding[0] for layer in convolutions(layers)] == [1, 1, 2, 4, 8, 16, 1, 0]
    x = torch.rand(1, 2, 90)
    with torch.inference_mode():
        a, b = layers(x), whole(x)
    assert a.shape == b.shape == x.shape
    torch.testing.assert_close(a[..., 33:-33], b[..., 33:-33], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(a[..., :33], b[..., :33], atol=1e-3)


@pytest.mark.parametrize("builder", [build_dilated_frontend, build_dilated])
@pytest.mark.parametrize("padding", ["mirror", "zeros"])
def test_scores_lie_on_their_pixels(builder: Any, padding: str) -> None:
    """A ramp comes out as a ramp, neither moved nor scaled, for layers that take means.

    A maximum over a rising ramp lies half a window late, over a falling one
    as much early, so half their difference lies right.
    """
    network: Any = builder(1, 1, ndim=1, width=TINY, padding=padding).double().eval()
    for layer in convolutions(network):
        layer.weight.data.fill_(1 / layer.weight[0].numel())
        layer.bias.data.zero_()
    length = 1400
    pixels = torch.arange(length + sum(network.margin), dtype=torch.float64) - network.margin[0]
    with torch.inference_mode():
        rising = network.scores(4000 + pixels[None, None])
        falling = network.scores(4000 - pixels[None, None])
    assert rising.shape[-1] == length
    found = ((rising - falling) / 2)[0, 0]
    inner = slice(560, -560)  # where padding, if any, has no say
    expected = torch.arange(length, dtype=torch.float64)
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("builder", [build_dilated_frontend, build_dilated])
def test_what_tiling_has_to_know(builder: Any, ndim: int) -> None:
    field = derive_field(builder(1, 1, ndim=ndim, width=TINY), ndim)
    assert field.exact
    assert field.stride == (8,) * ndim
    assert field.border == ((186, 186),) * ndim
    # An aligned block of 8 pixels is interpolated between its cell and the ones beside it; with the
    # context module, 33 more on each side.
    beyond = 8 if builder is build_dilated_frontend else 8 + 33 * 8
    assert field.halo == ((186 + beyond, 186 + beyond),) * ndim


def test_zeros_need_no_border() -> None:
    field = derive_field(build_dilated_frontend(1, 1, ndim=1, width=TINY, padding="zeros"), 1)
    assert field.exact
    assert field.border == ((0, 0),)
    network = build_dilated(1, 2, ndim=3, width=TINY, padding="zeros").eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 3, 9, 8)).shape == (1, 2, 3, 9, 8)
        assert network.coarse(torch.zeros(1, 1, 8, 16, 8)).shape == (1, 2, 1, 2, 1)


def test_zeros_and_mirrored_agree_within() -> None:
    networks = []
    for padding in ("mirror", "zeros"):
        torch.manual_seed(0)
        networks.append(build_dilated_frontend(1, 2, ndim=1, width=1 / 16, padding=padding).eval())
    x = torch.randn(1, 1, 480, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mirrored, zeros = (network(x) for network in networks)
    tolerance = 1e-5 * float(mirrored.abs().max())
    torch.testing.assert_close(mirrored[..., 208:-208], zeros[..., 208:-208], rtol=0, atol=tolerance)
    assert (mirrored - zeros).abs().max() > 100 * tolerance


def test_dilation10_enlarges_by_a_fixed_transposed_convolution() -> None:
    """As interpolation does inside, fading towards the border, where it has zeros for neighbours."""
    network = build_dilated(1, 2, width=TINY, variant=10).eval()
    x = torch.rand(1, 2, 5, 4)
    with torch.inference_mode():
        found = network.up(x)
        expected = nn.functional.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)
        row = nn.functional.conv_transpose2d(
            torch.ones(1, 1, 5, 4), torch.ones(1, 1, 16, 16), stride=8, padding=4
        )
    assert found.shape == expected.shape == (1, 2, 40, 32)
    assert row.shape[2:] == (40, 32)
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])
    # Half a cell beyond the centre of the last cell only 9/16 of it is left.
    torch.testing.assert_close(found[..., 0, 4], expected[..., 0, 4] * 9 / 16)


def test_layers_bear_the_names_of_the_papers_files() -> None:
    network = on_meta(build_dilated, 3, 21)
    stages = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), start=1) for j in range(1, n + 1)]
    front_end = [name for name, layer in network.front_end.named_children() if isinstance(layer, nn.Conv2d)]
    assert front_end == [*stages, "fc6", "fc7", "final"]
    context = ["conv1_1", "conv1_2", "conv2_1", "conv3_1", "conv4_1", "conv5_1", "fc1", "final"]
    found = [name for name, layer in network.context.named_children() if isinstance(layer, nn.Conv2d)]
    assert found == context


def test_dilations_and_poolings_of_the_front_end() -> None:
    front_end = on_meta(build_dilated_frontend, 3, 21).front_end
    assert [layer.dilation[0] for layer in convolutions(front_end)] == [1] * 10 + [2] * 3 + [4, 1, 1]
    assert {layer.padding for layer in convolutions(front_end)} == {(0, 0)}
    assert [name for name, _ in front_end.named_children() if "pool" in name] == ["pool1", "pool2", "pool3"]


@pytest.mark.parametrize("builder", [build_dilated_frontend, build_dilated])
def test_what_vgg16_has_weights_for(builder: Any) -> None:
    """torchvision's ``features``, then ``classifier.0`` and ``classifier.3`` as convolutions."""
    layers = on_meta(builder, 3, 21).encoder_convolutions()
    widths = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    expected = [(after, before, 3, 3) for before, after in zip([3, *widths], widths, strict=False)]
    assert [tuple(layer.weight.shape) for layer in layers] == [
        *expected, (4096, 512, 7, 7), (4096, 4096, 1, 1),
    ]  # fmt: skip
    totals = [sum(map(parameters, part)) for part in (layers[:13], layers[13:])]
    assert totals == [14_714_688, 119_545_856]


def test_the_ablation_is_the_front_end() -> None:
    x = torch.randn(1, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    scores = []
    for builder in (partial(build_dilated, context=None), build_dilated_frontend):
        torch.manual_seed(0)
        network: Dilated = builder(1, 2, width=TINY).eval()
        assert network.context is None
        with torch.inference_mode():
            scores.append(network(x))
    assert torch.equal(*scores)


def test_width_and_head() -> None:
    network = build_dilated_frontend(1, 2, width=1 / 32, head_channels=5)
    widths = [layer.out_channels for layer in convolutions(network)]
    assert widths == [2, 2, 4, 4, 8, 8, 8, *[16] * 6, 5, 5, 2]
    least = [layer.out_channels for layer in convolutions(build_dilated_frontend(1, 2, width=1e-6))]
    assert least == [1] * 15 + [2]
    assert [layer.out_channels for layer in build_dilated_frontend(1, 2, width=TINY).encoder_convolutions()][
        -2:
    ] == [64, 64]


def test_dropout_is_behind_both_heads() -> None:
    network = build_dilated_frontend(1, 2, width=TINY)
    rates = {n: layer.p for n, layer in network.front_end.named_children() if isinstance(layer, nn.Dropout)}
    assert rates == {"drop6": 0.5, "drop7": 0.5}
    other: Any = build_dilated(1, 2, width=TINY, dropout=0.1).front_end
    assert (other.drop6.p, other.drop7.p) == (0.1, 0.1)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"ndim": 4}, "ndim=4 is not possible; a dilated network has 1, 2 or 3"),
    ({"in_channels": 0}, "in_channels=0 is not possible"),
    ({"classes": 1.5}, "classes=1.5 is not possible"),
    ({"width": 0}, "width=0 is not possible; give a factor above 0"),
    ({"width": True}, "width=True is not possible"),
    ({"head_channels": 0}, "head_channels=0 is not possible"),
    ({"dropout": 1.0}, "dropout=1.0 is not possible"),
    ({"padding": "mirrored"}, r"padding='mirrored' is not known; allowed are .*Did you mean 'mirror'\?"),
    ({"context": "lagre"}, r"context='lagre' is not known; .*Did you mean 'large'\?"),
    ({"context": "large", "variant": 10}, "context='large' is defined for variant=8 only, not for 10"),
    ({"variant": 9}, "variant=9 is not known; allowed are 7, 8, 10"),
    ({"variant": True}, "variant=True is not known"),
    ({"variant": [8]}, r"variant=\[8\] is not known"),
    ({"context_padding": "valid"}, r"context_padding='valid' is not known; allowed are 'layers', 'input'"),
    ({"sigma": -1}, "sigma=-1 is not possible"),
    ({"context": None, "sigma": "no"}, "sigma='no' is not possible"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_refusals(change: dict[str, Any], message: str) -> None:
    values = {"in_channels": 1, "classes": 2, "width": TINY, **change}
    with pytest.raises(NetworkError, match=message):
        build_dilated(**values)
