"""FCN-32s, 16s and 8s against the figures of the paper and of the authors' code."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks.tiled import unsettled
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks import build_network
from napari_fcnseg.networks.fcn import (
    AT_ONCE,
    build_fcn8s,
    build_fcn8s_at_once,
    build_fcn16s,
    build_fcn32s,
    init_from_coarser,
)
from napari_fcnseg.networks.fcn_network import FCN
from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import MAX_POOLS, MEAN_POOLS, TRANSPOSED
from napari_fcnseg.networks.progressive import ProgressiveNetwork
from napari_fcnseg.networks.upsampling import BilinearUpsampling, bilinear_kernel

TINY: dict[str, Any] = {"width": 1 / 16, "head_channels": 8}
Builder = Callable[..., nn.Module]
BUILDERS: dict[str, Builder] = {
    "fcn32s": build_fcn32s, "fcn16s": build_fcn16s,
    "fcn8s": build_fcn8s, "fcn8s_at_once": build_fcn8s_at_once,
}  # fmt: skip
FORMS = [
    ("vgg16", "torchvision", "exact"), ("vgg16", "torchvision", "pad100"),
    ("alexnet", "torchvision", "exact"), ("alexnet", "torchvision", "pad100"),
    ("alexnet", "caffe", "exact"), ("alexnet", "caffe", "pad100"),
    ("googlenet", "torchvision", "exact"), ("googlenet", "caffe", "exact"),
]  # fmt: skip


def tiny(
    builder: Builder, backbone: str = "vgg16", *, channels: int = 2, classes: int = 3, **options: Any
) -> Any:
    head = {} if backbone == "googlenet" else {"head_channels": 8}
    torch.manual_seed(0)
    network = builder(channels, classes, backbone=backbone, width=1 / 16, **head, **options)
    assert isinstance(network, FCN)
    return network.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("name", "options", "total"),
    [
        ("fcn32s", {}, 134_346_581),
        ("fcn16s", {}, 134_357_354),
        ("fcn8s", {}, 134_362_751),
        ("fcn8s_at_once", {}, 134_362_751),
        ("fcn32s", {"padding": "pad100"}, 134_346_581),
        ("fcn32s", {"backbone": "alexnet"}, 57_089_877),
        ("fcn32s", {"backbone": "alexnet", "form": "caffe"}, 56_954_261),
        ("fcn32s", {"backbone": "googlenet"}, 5_621_429),
        ("fcn32s", {"backbone": "googlenet", "form": "caffe"}, 5_995_077),
        ("fcn32s", {"upsampling": "learned"}, 134_346_581 + 1_806_336),
        ("fcn16s", {"upsampling": "learned"}, 134_357_354 + 458_640),
        ("fcn8s", {"upsampling": "learned"}, 134_362_751 + 127_008),
        ("fcn32s", {"upsampling": "channelwise"}, 134_346_581 + 86_016),
        ("fcn16s", {"upsampling": "channelwise"}, 134_357_354 + 21_840),
        ("fcn8s", {"upsampling": "channelwise"}, 134_362_751 + 6_048),
        ("fcn32s", {"upsampling": "last_fixed"}, 134_346_581),
        ("fcn8s", {"upsampling": "last_fixed"}, 134_362_751 + 2 * 21 * 21 * 16),
    ],
)
def test_parameter_totals(name: str, options: dict[str, Any], total: int) -> None:
    with torch.device("meta"):
        network = build_network(name, in_channels=3, classes=21, **options)
    assert sum(weights.numel() for weights in network.parameters()) == total


def test_a_narrower_head() -> None:
    network = tiny(build_fcn32s)
    assert [network.head.fc6.out_channels, network.head.fc7.out_channels] == [8, 8]
    wide: Any = build_fcn32s(1, 2, width=1 / 64)
    assert wide.head.fc6.out_channels == 64


# ---------------------------------------------------------------- 100 pixels of padding


@pytest.mark.parametrize(
    ("builder", "backbone", "kernels", "crops"),
    [
        (build_fcn32s, "vgg16", [64], [19]),
        (build_fcn16s, "vgg16", [4, 32], [-5, 27]),
        (build_fcn8s, "vgg16", [4, 4, 16], [-5, -9, 31]),
        (build_fcn8s_at_once, "vgg16", [4, 4, 16], [-5, -9, 31]),
        (build_fcn32s, "alexnet", [63], [18]),
    ],
)
def test_kernels_and_offsets_of_the_authors_files(
    builder: Builder, backbone: str, kernels: list[int], crops: list[int]
) -> None:
    network = tiny(builder, backbone, padding="pad100")
    ups = [join.up for join in network.joins] + [network.out.up]
    assert [up.kernel_size for up in ups] == [(kernel, kernel) for kernel in kernels]
    # A negative shift crops the finer map.
    assert [join.shift for join in network.joins] + [network.out.crop.offset] == crops


def test_sizes_of_an_image_of_500() -> None:
    network = tiny(build_fcn32s, channels=1, ndim=1, padding="pad100")
    sizes: dict[str, int] = {}
    for name, layer in {
        "pool5": network.encoder,
        "score": network.score_fr,
        "upscore": network.out.up,
    }.items():
        layer.register_forward_hook(
            lambda _, __, y, name=name: sizes.update({name: (y[-1] if name == "pool5" else y).shape[-1]})
        )
    assert network.scores(torch.zeros(1, 1, 500)).shape[-1] == 500
    assert sizes == {"pool5": 22, "score": 16, "upscore": 544}


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet"])
@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_each_size_up_to_699_has_scores_without_mirroring(builder: Builder, backbone: str) -> None:
    network = tiny(builder, backbone, ndim=1, padding="pad100")
    walk = Walk(network, 1)
    found = [walk.sizes(0, length) for length in range(1, 700)]
    assert [sizes and sizes[walk.output] for sizes in found] == list(range(1, 700))
    with torch.inference_mode():
        assert network.scores(torch.zeros(1, 2, 71)).shape == (1, 3, 71)


@pytest.mark.parametrize("name", ["fcn8s", "fcn8s_at_once"])
@torch.inference_mode()
def test_the_authors_network_by_hand(name: str) -> None:
    """As `net.py` of the authors has it, on a size that is no multiple of 32."""
    network: Any = unsettled(tiny(BUILDERS[name], padding="pad100"))
    image = noise(1, 2, 71, 40)
    pool3, pool4, pool5 = network.encoder(image)
    score, factors = network.score_fr(network.head(pool5)), AT_ONCE if name.endswith("once") else (1, 1)

    def enlarged(x: torch.Tensor, kernel: int) -> torch.Tensor:
        weight = torch.zeros(x.shape[1], x.shape[1], kernel, kernel)
        for c in range(x.shape[1]):
            weight[c, c] = bilinear_kernel(kernel, 2)
        return F.conv_transpose2d(x, weight, stride=kernel // 2)

    def window(x: torch.Tensor, offset: int, like: torch.Tensor) -> torch.Tensor:
        height, width = like.shape[2:]
        return x[:, :, offset : offset + height, offset : offset + width]

    for join, factor, pooled, offset in zip(network.joins, factors, (pool4, pool3), (5, 9), strict=True):
        score = enlarged(score, 4)
        score = score + window(join.score(pooled * factor), offset, score)
    expected = window(enlarged(score, 16), 31, image)
    torch.testing.assert_close(network.scores(image), expected, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- the exact form


@torch.inference_mode()
def test_on_vgg16_all_is_plain_resizing() -> None:
    network: Any = unsettled(tiny(build_fcn8s))
    x = noise(1, 2, 64, 96)
    pool3, pool4, pool5 = network.encoder(x)
    assert [tuple(m.shape[2:]) for m in (pool3, pool4, pool5)] == [(8, 12), (4, 6), (2, 3)]
    scores = network.score_fr(network.head(pool5))
    for factor, map_, join in ((2, pool4, network.joins[0]), (2, pool3, network.joins[1]), (8, None, None)):
        scores = F.interpolate(scores, scale_factor=factor, mode="bilinear")
        scores = scores if join is None else scores + join.score(map_)
    torch.testing.assert_close(network(x), scores, atol=1e-5, rtol=1e-5)
    ups = [network.out.up, *(join.up for join in network.joins)]
    assert all(isinstance(up, BilinearUpsampling) for up in ups)


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("builder", [build_fcn32s, build_fcn16s, build_fcn8s], ids=["32s", "16s", "8s"])
@pytest.mark.parametrize("form", FORMS, ids="-".join)
@torch.inference_mode()
def test_constant_scores_reach_each_pixel(form: tuple[str, str, str], builder: Builder, pool: str) -> None:
    """No pixel goes without a score, and where zeros beyond the map do not count, all have the same."""
    backbone, kind, padding = form
    for upsampling in ("fixed", "learned"):
        network = tiny(
            builder,
            backbone,
            form=kind,
            padding=padding,
            pool=pool,
            upsampling=upsampling,
            ndim=1,
            channels=1,
        )
        nn.init.ones_(network.score_fr.bias)
        scores = network.scores(torch.zeros(1, 1, 96))
        assert scores.shape == (1, 3, 96)
        assert scores.min() > 0
        torch.testing.assert_close(scores[..., 48:64], torch.ones(1, 3, 16))


# ---------------------------------------------------------------- step 0, and stages


@pytest.mark.parametrize("name", BUILDERS)
def test_scores_begin_at_zero(name: str) -> None:
    assert not tiny(BUILDERS[name])(noise(1, 2, 32, 32)).any()


def stages(backbone: str, padding: str) -> list[Any]:
    """Return FCN-32s with random scores, and FCN-16s and 8s, each begun from the one before."""
    networks = [tiny(b, backbone, padding=padding) for b in (build_fcn32s, build_fcn16s, build_fcn8s)]
    nn.init.normal_(networks[0].score_fr.weight)
    for finer, coarser in zip(networks[1:], networks, strict=False):
        init_from_coarser(finer, coarser)
    return networks


@torch.inference_mode()
def test_finer_networks_begin_with_the_scores_of_the_coarser() -> None:
    """Where pixel centres fall upon one another, interpolation in two steps is that in one."""
    x = noise(1, 2, 160, 96)
    coarse, *finer = (network(x) for network in stages("alexnet", "pad100"))
    for scores in finer:
        torch.testing.assert_close(scores, coarse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", ["exact", "pad100"])
@torch.inference_mode()
def test_on_vgg16_two_steps_round_the_corners_of_one(padding: str) -> None:
    """Cells of 2 x 2 have no pixel at their centre: the difference is an eighth of the bend at most."""
    x, inside = noise(1, 2, 224, 224), (..., slice(64, -64), slice(64, -64))
    networks = stages("vgg16", padding)
    results = [network(x) for network in networks]
    cells = networks[0].score_fr(networks[0].head(networks[0].encoder(x)[-1]))
    bend = max(float(cells.diff(n=2, dim=axis).abs().max()) for axis in (2, 3))
    for finer, coarser in itertools.pairwise(reversed(results)):
        assert (finer - coarser)[inside].abs().max() <= 2 * bend / 8
        assert (finer.argmax(1) == coarser.argmax(1)).float().mean() > 0.97
    # The joins themselves add nothing to what they upsample.
    join, pool4 = networks[1].joins[0], networks[1].encoder(x)[-2]
    assert torch.equal(join(cells, pool4), join(cells, torch.zeros_like(pool4)))


def test_stages_need_the_same_options() -> None:
    with pytest.raises(NetworkError, match=r"such as joins.0.score.weight, have no place"):
        init_from_coarser(tiny(build_fcn32s), tiny(build_fcn16s))
    with pytest.raises(NetworkError, match="have no place"):
        init_from_coarser(tiny(build_fcn16s), tiny(build_fcn32s, "alexnet"))
    with pytest.raises(NetworkError, match="have no place"):
        init_from_coarser(tiny(build_fcn16s), tiny(build_fcn32s, classes=4))


def test_learned_kernels_of_a_stage_that_have_another_stride_stay() -> None:
    finer, coarser = (tiny(b, upsampling="learned") for b in (build_fcn16s, build_fcn32s))
    kept = finer.out.up.weight.clone()
    nn.init.normal_(coarser.out.up.weight)
    nn.init.normal_(coarser.head.fc7.weight)
    init_from_coarser(finer, coarser)
    assert torch.equal(finer.out.up.weight, kept)
    assert torch.equal(finer.head.fc7.weight, coarser.head.fc7.weight)


@torch.inference_mode()
def test_at_once_is_8s_on_scaled_maps() -> None:
    plain, scaled = tiny(build_fcn8s), tiny(build_fcn8s_at_once)
    unsettled(plain)
    scaled.load_state_dict(plain.state_dict())
    assert not torch.allclose(scaled(noise(1, 2, 32, 32)), plain(noise(1, 2, 32, 32)), atol=1e-3)
    for join, scale in zip(scaled.joins, (0.01, 0.0001), strict=True):
        join.score.weight.div_(scale)
    torch.testing.assert_close(scaled(noise(1, 2, 32, 32)), plain(noise(1, 2, 32, 32)), atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------- options


def test_dropout_is_of_single_values() -> None:
    torch.manual_seed(0)
    head = tiny(build_fcn32s, dropout=0.25).head.train()
    dropped = head.drop6(torch.ones(1, 8, 20, 20)) == 0
    assert all(0 < float(share) < 1 for share in dropped.float().mean((0, 2, 3)))
    assert abs(float(dropped.float().mean()) - 0.25) < 0.05


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "googlenet"])
def test_learned_kernels_draw_no_checkerboard(backbone: str) -> None:
    network = tiny(build_fcn8s, backbone, upsampling="learned")
    ups = [layer for layer in network.modules() if isinstance(layer, TRANSPOSED)]
    assert len(ups) == 3
    assert all(k % s == 0 for up in ups for k, s in zip(up.kernel_size, up.stride, strict=True))
    assert all(up.weight.requires_grad for up in ups)
    with torch.inference_mode():
        fixed = tiny(build_fcn8s, backbone)
        nn.init.normal_(network.score_fr.weight)
        fixed.load_state_dict(network.state_dict(), strict=False)
        x, inside = noise(1, 2, 160, 160), (..., slice(48, -48), slice(48, -48))
        torch.testing.assert_close(network(x)[inside], fixed(x)[inside], atol=1e-4, rtol=1e-4)


def test_the_last_kernel_alone_is_fixed() -> None:
    network = tiny(build_fcn8s, upsampling="last_fixed")
    trained = [name for name, _ in network.named_parameters() if ".up." in name]
    assert trained == ["joins.0.up.weight", "joins.1.up.weight"]
    assert isinstance(network.out.up, BilinearUpsampling)


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "googlenet"])
@torch.inference_mode()
def test_poolings_take_the_mean(backbone: str) -> None:
    network = unsettled(tiny(build_fcn8s, backbone, pool="mean"))
    strided = [m for m in network.modules() if isinstance(m, (*MAX_POOLS, *MEAN_POOLS)) and m.stride != 1]
    assert strided
    assert all(isinstance(layer, MEAN_POOLS) for layer in strided)
    x = noise(1, 2, 64, 96)
    scores = network(x)
    assert not torch.allclose(scores, unsettled(tiny(build_fcn8s, backbone))(x), atol=1e-3)
    # Zeros around the image count in the mean, also where a box of it is computed alone.
    for box in (((0, 33), (61, 96)), ((40, 64), (7, 8))):
        part = scores[..., slice(*box[0]), slice(*box[1])]
        torch.testing.assert_close(ProgressiveNetwork(network, 2)(x, box), part, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backbone": "vgg"}, r"backbone='vgg' is not known.*'vgg16'"),
        ({"backbone": "vgg16", "form": "caffe"}, "form='caffe' is for alexnet and googlenet"),
        ({"form": "paper"}, "form='paper' is not known"),
        ({"padding": "same"}, "padding='same' is not known"),
        ({"backbone": "googlenet", "padding": "pad100"}, "googlenet has none, take 'exact'"),
        ({"backbone": "googlenet", "head_channels": 8}, "leave out head_channels=8"),
        ({"head_channels": 0}, "head_channels=0"),
        ({"upsampling": "nearest"}, "upsampling='nearest' is not known"),
        ({"pool": "mean", "backbone": "alexnet", "ndim": 3}, "pool='mean' is for 1 or 2 axes"),
        ({"pool": "min"}, "pool='min' is not known"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": "half"}, "dropout='half'"),
        ({"width": 0}, "width=0"),
        ({"ndim": 4}, "ndim=4"),
        ({"streams": (1, 2)}, "3 channels, but in_channels=1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], reason: str) -> None:
    for builder in BUILDERS.values():
        with pytest.raises(NetworkError, match=reason):
            builder(1, 2, **options)
    with pytest.raises(NetworkError, match="in_channels=0"):
        build_fcn32s(0, 2)
    with pytest.raises(NetworkError, match="classes=0"):
        build_fcn32s(1, 0)
