"""The paper's network and the same-padded one: sizes, parameters, first weights, options."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks import NETWORKS, build_network, network_config, network_from_config
from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import CONVOLUTIONS, TRANSPOSED
from napari_fcnseg.networks.layers import Crop
from napari_fcnseg.networks.unet import UNet, build_unet, build_unet_valid, skip_margins


def parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


def convolution(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> int:
    return inputs * outputs * kernel + bias * outputs


def expected_parameters(
    in_channels: int, classes: int, *, base: int, depth: int, ndim: int, norm: str, up: str
) -> int:
    """Count by hand: two 3-wide convolutions a level and side, one up-convolution, one head."""
    cube, bias = 3**ndim, norm in ("none", "group")
    normal = {"none": 0, "batch": 2, "group": 2, "instance": 2}[norm]
    corner = 2**ndim if up == "transpose" else 1

    def block(inputs: int, outputs: int) -> int:
        first, second = (convolution(n, outputs, cube, bias=bias) for n in (inputs, outputs))
        return first + second + 2 * normal * outputs

    widths = [base * 2**level for level in range(depth + 1)]
    encoder = sum(block(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
    decoder = sum(convolution(2 * w, w, corner) + block(2 * w, w) for w in widths[:-1])
    return encoder + decoder + convolution(base, classes, 1)


@pytest.mark.parametrize(
    ("in_channels", "classes", "count"),
    [(1, 2, 31_030_658), (1, 1, 31_030_593), (3, 2, 31_031_810), (3, 21, 31_033_045)],
)
def test_parameters_of_the_paper(in_channels: int, classes: int, count: int) -> None:
    with torch.device("meta"):
        network = UNet(
            in_channels, classes, ndim=2, depth=4, base_channels=64,
            norm="none", up="transpose", padding=0, dropout=0.5,
        )  # fmt: skip
    assert parameters(network) == count
    by_hand = expected_parameters(in_channels, classes, base=64, depth=4, ndim=2, norm="none", up="transpose")
    assert by_hand == count


def test_the_defaults_of_the_paper() -> None:
    network = build_network("unet_valid", in_channels=1, classes=2)
    assert parameters(network) == 31_030_658
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert [math.prod(layer.kernel_size) for layer in convolutions].count(9) == 18
    assert len(convolutions) == 23


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("up", ["transpose", "nearest", "linear"])
def test_parameters_of_the_same_padded_one(ndim: int, norm: str, up: str) -> None:
    network = build_unet(3, 5, ndim=ndim, depth=2, base_channels=6, norm=norm, up=up)
    expected = expected_parameters(3, 5, base=6, depth=2, ndim=ndim, norm=norm, up=up)
    assert parameters(network) == expected


@pytest.mark.parametrize(("base", "groups"), [(16, [8, 8, 8]), (6, [2, 4, 8]), (3, [1, 2, 4])])
def test_group_normalisation_has_up_to_eight_groups(base: int, groups: list[int]) -> None:
    network = build_unet(1, 2, depth=2, base_channels=base, norm="group")
    found = [layer.num_groups for layer in network.encoder.modules() if isinstance(layer, nn.GroupNorm)]
    assert found == [n for n in groups for _ in range(2)]


def test_parameters_of_the_default_unet() -> None:
    """1.94 million: 16 channels, 4 levels."""
    expected = expected_parameters(1, 4, base=16, depth=4, ndim=2, norm="batch", up="transpose")
    assert parameters(build_unet(1, 4)) == expected == 1_942_340


@pytest.mark.parametrize(
    ("depth", "loss", "least", "beyond"),
    [(1, 16, 18, 0), (2, 40, 44, 0), (3, 88, 92, 4), (4, 184, 188, 12), (5, 376, 380, 28)],
)
def test_sizes_that_the_unpadded_form_takes(depth: int, loss: int, least: int, beyond: int) -> None:
    """Lengths n = beyond mod 2^depth from the least on; each loses the same."""
    walk = Walk(build_unet_valid(1, 1, ndim=1, depth=depth, base_channels=1), 1)
    taken = {}
    for length in range(1, least + 6 * 2**depth):
        sizes = walk.sizes(0, length)
        if sizes is not None:
            taken[length] = sizes[walk.output]
    assert all(n - size == loss for n, size in taken.items())
    assert list(taken) == list(range(least, least + 6 * 2**depth, 2**depth))
    assert least % 2**depth == beyond


@pytest.mark.parametrize(("given", "returned"), [(572, 388), (188, 4), (204, 20)])
def test_sizes_of_the_paper(given: int, returned: int) -> None:
    network = build_unet_valid(1, 2, base_channels=1).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, given, 188)).shape == (1, 2, returned, 4)


def test_a_size_that_does_not_come_out_even_fails() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        build_unet_valid(1, 2, ndim=1, base_channels=1)(torch.zeros(1, 1, 572 + 8))


def test_the_same_padded_one_keeps_the_size() -> None:
    with torch.inference_mode():
        assert build_unet(1, 3, depth=3, base_channels=2)(torch.zeros(2, 1, 40, 24)).shape == (2, 3, 40, 24)


def test_margins_from_deep_to_shallow() -> None:
    assert skip_margins(4)[::-1] == [4, 16, 40, 88]
    network = build_unet_valid(1, 2, base_channels=1)
    assert [crop.margin for crop in network.crop if isinstance(crop, Crop)] == [88, 40, 16, 4]


def test_the_crop_takes_the_centre() -> None:
    x = torch.arange(2 * 7 * 6).reshape(1, 2, 7, 6)
    assert torch.equal(Crop(2)(x), x[:, :, 2:5, 2:4])
    assert torch.equal(Crop(0)(x), x)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_first_weights(ndim: int) -> None:
    """Normal, with sqrt(2 / N), N the inputs of one output value; no bias."""
    torch.manual_seed(0)
    network = build_unet(8, 8, ndim=ndim, depth=1, base_channels=48, norm="none")
    checked = 0
    layers: list[Any] = list(network.modules())
    for layer in layers:
        if isinstance(layer, CONVOLUTIONS + TRANSPOSED):
            weights, bias = layer.weight.detach(), layer.bias
            # Output channels x inputs; each output pixel of an up-convolution sees one input pixel.
            inputs = weights[0].numel() if isinstance(layer, CONVOLUTIONS) else weights.shape[0]
            n = weights.numel()
            spread = math.sqrt(2 / inputs)
            # Five standard errors of a mean and of a standard deviation.
            assert float(weights.mean()) == pytest.approx(0, abs=5 * spread / math.sqrt(n))
            assert float(weights.std()) == pytest.approx(spread, rel=5 / math.sqrt(2 * n))
            assert bias is None or not bias.any()
            # Within one standard deviation lie 68.3 % of a normal distribution, 57.7 % of a uniform one.
            within = float((weights.abs() < spread).float().mean())
            assert within == pytest.approx(0.6827, abs=5 * 0.466 / math.sqrt(n))
            checked += 1
    assert checked == 8


CHANGES: dict[str, list[dict[str, Any]]] = {
    "unet": [
        {"depth": 3}, {"base_channels": 8}, {"norm": "none"}, {"norm": "group"}, {"norm": "instance"},
        {"up": "nearest"}, {"up": "linear"}, {"dropout": 0.5}, {"ndim": 3}, {"ndim": 1},
    ],
    "unet_valid": [{"depth": 1}, {"base_channels": 8}, {"dropout": 0.2}, {"ndim": 1}],
}  # fmt: skip
CASES = [(name, change) for name, changes in CHANGES.items() for change in changes]


def structure(network: nn.Module) -> str:
    return repr(network)


@pytest.mark.parametrize(("name", "change"), CASES)
def test_every_option_changes_the_network(name: str, change: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"in_channels": 1, "classes": 2, "depth": 2, "base_channels": 4}
    assert structure(build_network(name, **plain)) != structure(build_network(name, **{**plain, **change}))


@pytest.mark.parametrize("up", ["transpose", "nearest", "linear"])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_every_option_changes_the_scores(up: str, norm: str) -> None:
    def scores(**options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        network = build_unet(1, 2, depth=2, base_channels=4, **options)
        torch.manual_seed(1)
        return network(torch.randn(2, 1, 16, 16))  # type: ignore[no-any-return]

    usual = scores()
    assert torch.equal(usual, scores(norm="batch", up="transpose", dropout=0.0))
    assert torch.equal(usual, scores(up=up, norm=norm)) == ((up, norm) == ("transpose", "batch"))
    assert not torch.equal(scores(up=up, norm=norm), scores(up=up, norm=norm, dropout=0.5))


def test_dropout_is_at_the_end_of_the_contracting_path() -> None:
    assert [layer.p for layer in build_unet_valid(1, 2, base_channels=1).drop] == [0, 0, 0, 0.5, 0.5]
    assert [layer.p for layer in build_unet(1, 2, depth=1, dropout=0.25).drop] == [0.25, 0.25]


@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_config_survives_json_and_gives_the_same_network(name: str, change: dict[str, Any]) -> None:
    options: dict[str, Any] = {"in_channels": 3, "classes": 2, "depth": 2, "base_channels": 4, **change}
    network = build_network(name, **options)
    config = json.loads(json.dumps(network_config(network)))
    again = network_from_config(config)
    assert structure(again) == structure(network)
    assert network_config(again) == network_config(network)
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, *(44,) * options.get("ndim", 2)) if name == "unet_valid" else None
    x = torch.randn(1, 3, *(16,) * options.get("ndim", 2)) if x is None else x
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), again.eval()(x))


def test_a_config_is_a_copy() -> None:
    network = build_network("unet", in_channels=1, classes=2, depth=1)
    network_config(network)["options"]["depth"] = 3
    assert network_config(network)["options"] == {"depth": 1}


def test_names_and_builders() -> None:
    assert {"unet": build_unet, "unet_valid": build_unet_valid}.items() <= NETWORKS.items()


def config(**change: Any) -> dict[str, Any]:
    whole = {"network": "unet", "in_channels": 1, "classes": 2, "ndim": 2, "options": {}, **change}
    return {name: value for name, value in whole.items() if value != "absent"}


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"network": "unett"}, r"no network is called 'unett'; known are .*unet_valid.*Did you mean 'unet'\?"),
    ({"network": None}, "no network is called None"),
    ({"network": ["unet"]}, r"no network is called \['unet'\]"),
    ({"options": {"dept": 3}}, r"unet has no option 'dept'; it takes .*Did you mean 'depth'\?"),
    ({"options": {"in_channels": 3}}, "unet has no option 'in_channels'"),
    ({"network": "unet_valid", "options": {"norm": "batch"}}, "unet_valid has no option 'norm'"),
    ({"options": []}, "options"),
    ({"options": {"depth": 0}}, "depth=0 is not possible"),
    ({"options": {"depth": "4"}}, "depth='4' is not possible"),
    ({"options": {"depth": True}}, "depth=True is not possible"),
    ({"options": {"base_channels": -1}}, "base_channels=-1 is not possible"),
    ({"options": {"norm": "bach"}}, r"norm='bach' is not known; allowed are .*Did you mean 'batch'\?"),
    ({"options": {"up": "liner"}}, r"up='liner' is not known; .*Did you mean 'linear'\?"),
    ({"options": {"up": None}}, "up=None is not known"),
    ({"options": {"dropout": 1.0}}, "dropout=1.0 is not possible"),
    ({"options": {"dropout": -0.1}}, "dropout=-0.1 is not possible"),
    ({"options": {"dropout": "0.5"}}, "dropout='0.5' is not possible"),
    ({"options": {"dropout": math.nan}}, "dropout=nan is not possible"),
    ({"in_channels": 0}, "in_channels=0 is not possible"),
    ({"classes": 1.5}, "classes=1.5 is not possible"),
    ({"ndim": 4}, "ndim=4 is not possible; a U-Net has 1, 2 or 3"),
    ({"ndim": True}, "ndim=True is not possible"),
    ({"ndim": 2.0}, "ndim=2.0 is not possible"),
    ({"ndim": "absent"}, "has the keys .*but this one has"),
    ({"weights": 1}, "has the keys .*but this one has"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        network_from_config(config(**change))


def test_a_bare_module_has_no_config() -> None:
    with pytest.raises(NetworkError, match=r"Conv2d was not made by build_network.*as_model"):
        network_config(nn.Conv2d(1, 1, 1))
