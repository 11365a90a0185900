"""PSPNet: the paper's totals and sizes, the pyramid by hand, the fixed one in tiles, export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.networks import layouts
from tests.networks.backbones.weights import parameters
from tests.networks.tiled import noise, run_tiled, run_whole, unsettled, worst
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks import NetworkSegmenter, build_network, derive_field
from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import WholeImageError, check_bounded
from napari_fcnseg.networks.pspnet import BinMeans, FixedPyramid, PyramidPooling, bin_weights, build_pspnet

SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 1 / 16}
SEMSEG: dict[str, Any] = {
    r"^layer0\.(\d+)": lambda place: f"encoder.{('conv', 'bn')[int(place[1]) % 3]}{int(place[1]) // 3 + 1}",
    r"^layer": "encoder.layer", r"^ppm\.": "neck.", r"^cls\.": "head.", r"^aux\.": "auxiliary.",
}  # fmt: skip


def small(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return unsettled(build_pspnet(2, 3, **{**SMALL, **options}))


@pytest.mark.parametrize(
    ("backbone", "stem", "classes", "plain", "with_aux"),
    [
        ("resnet50", None, 21, 46_716_373, 49_081_578),
        ("resnet50", None, 150, 46_782_550, 49_180_908),
        ("resnet101", None, 21, 65_708_501, 68_073_706),
        ("resnet50", "plain", 21, 46_592_597, 48_957_802),
        ("resnet101", "plain", 21, 65_584_725, 67_949_930),
    ],
)
def test_parameters_of_the_paper(
    backbone: str, stem: str | None, classes: int, plain: int, with_aux: int
) -> None:
    with torch.device("meta"):
        network = build_pspnet(3, classes, backbone=backbone, stem=stem)
        trained: Any = build_pspnet(3, classes, backbone=backbone, stem=stem, aux=True)
    assert (parameters(network), parameters(trained)) == (plain, with_aux)
    assert parameters(network.neck) == 4_198_400
    assert parameters(trained.auxiliary) == with_aux - plain


def named_as_ours(name: str) -> str:
    for pattern, ours in SEMSEG.items():
        name, changed = re.subn(pattern, ours, name)
        if changed:
            break
    return name


@pytest.mark.parametrize("pyramid", ["paper", "fixed"])
@pytest.mark.parametrize("depth", [50, 101])
def test_the_layout_of_the_authors_pytorch_code(depth: int, pyramid: str) -> None:
    with torch.device("meta"):
        network = build_pspnet(3, 21, backbone=f"resnet{depth}", aux=True, pyramid=pyramid)
    published = {named_as_ours(name): shape for name, shape in layouts.semseg_pspnet(depth, prefix="")}
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == published


def test_every_block_of_a_stage_is_dilated() -> None:
    with torch.device("meta"):
        encoder: Any = build_pspnet(3, 21).encoder
    assert {block.conv2.dilation[0] for block in encoder.layer3} == {2}
    assert {block.conv2.dilation[0] for block in encoder.layer4} == {4}


@pytest.mark.parametrize(("size", "cells"), [(473, 60), (713, 90), (1, 1)])
def test_sizes_of_the_paper(size: int, cells: int) -> None:
    with torch.device("meta"):
        network = build_pspnet(3, 21)
    assert network.fitting(size) == size
    sizes = Walk(network, 2, bounded=False).sizes(0, size)
    assert sizes is not None
    by_name = {str(node.target): length for node, length in sizes.items()}
    assert (by_name["neck"], by_name["up"]) == (cells, size)


def test_other_sizes_are_extended() -> None:
    network = small()
    assert [network.fitting(size) for size in (2, 8, 9, 10, 474)] == [9, 9, 9, 17, 481]


@given(st.integers(1, 90), st.integers(1, 7))
def test_bins_are_those_of_adaptive_pooling(length: int, bins: int) -> None:
    x = torch.randn(2, 3, length, dtype=torch.float64)
    assert torch.allclose(x @ bin_weights(length, bins, x), F.adaptive_avg_pool1d(x, bins), atol=1e-12)


@pytest.mark.parametrize("shape", [(60, 60), (7, 13), (1, 5)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_bin_means_equal_torchs_layer(shape: tuple[int, int], bins: int) -> None:
    x = torch.randn(2, 4, *shape)
    assert (BinMeans(bins)(x) - nn.AdaptiveAvgPool2d(bins)(x)).abs().max() <= 1e-6


@pytest.mark.parametrize("order", ["semseg", "caffe", "smp"])
@torch.inference_mode()
def test_scores_by_hand(order: str) -> None:
    """As the authors' code has them: adaptive pooling, corners aligned in both resizings."""
    network = small(order=order)
    x = torch.randn(1, 2, 65, 89)
    last = network.encoder(x)[-1]
    assert last.shape[2:] == (9, 12)
    pooled = {}
    for bins, (_, conv, norm, relu) in zip((1, 2, 3, 6), network.neck.features, strict=True):
        part = relu(norm(conv(F.adaptive_avg_pool2d(last, bins))))
        pooled[bins] = F.interpolate(part, size=(9, 12), mode="bilinear", align_corners=True)
    pooled[0] = last
    orders = {"semseg": (0, 1, 2, 3, 6), "caffe": (0, 6, 3, 2, 1), "smp": (1, 2, 3, 6, 0)}
    scores = network.head(torch.cat([pooled[bins] for bins in orders[order]], 1))
    expected = F.interpolate(scores, size=(65, 89), mode="bilinear", align_corners=True)
    assert worst(network(x), expected) <= 1e-6


@torch.inference_mode()
def test_auxiliary_scores_come_from_the_third_stage() -> None:
    network = small(aux=True)
    x = torch.randn(1, 2, 33, 41)
    main, auxiliary = network.with_auxiliary(x)
    assert torch.equal(main, network(x))
    third = network.auxiliary(network.encoder(x)[3])
    expected = F.interpolate(third, size=(33, 41), mode="bilinear", align_corners=True)
    assert worst(auxiliary, expected) <= 1e-6


@torch.inference_mode()
def test_on_an_image_of_the_largest_window_both_pyramids_pool_alike() -> None:
    paper, fixed = PyramidPooling(8, 2, "semseg"), FixedPyramid(8, 2, "semseg", (60, 30, 20, 10))
    fixed.load_state_dict(paper.state_dict())
    x = torch.randn(1, 8, 60, 60)
    for whole, windows in zip(paper.features, fixed.features, strict=True):
        assert (whole[0](x) - windows[0](x)).abs().max() <= 1e-6  # type: ignore[index]


@torch.inference_mode()
def test_the_fixed_pyramid_by_hand() -> None:
    network = small(pyramid="fixed", grid=(6, 3, 2, 1))
    x = torch.randn(1, 2, 96, 48)
    last = network.encoder(x)[-1]
    parts = [last]
    for size, (_, conv, norm, relu) in zip((6, 3, 2, 1), network.neck.features, strict=True):
        mean = last.unfold(2, size, size).unfold(3, size, size).mean((-1, -2))
        parts.append(F.interpolate(relu(norm(conv(mean))), scale_factor=size, mode="bilinear"))
    expected = F.interpolate(network.head(torch.cat(parts, 1)), scale_factor=8, mode="bilinear")
    assert worst(network(x), expected) <= 1e-5


def test_steps_of_the_fixed_pyramid() -> None:
    with torch.device("meta"):
        network = build_pspnet(3, 21, pyramid="fixed")
        field = derive_field(network, 2)
    assert network.step == 480
    assert (field.stride, field.halo, field.exact) == ((480, 480), ((960, 960), (960, 960)), True)


def test_without_pyramid_the_head_sees_the_map_alone() -> None:
    with torch.device("meta"):
        network, whole = build_pspnet(3, 21, pyramid=None), build_pspnet(3, 21)
    # 2048 channels fewer into the 3-wide convolution of 512.
    assert parameters(whole) - parameters(network) == 4_198_400 + 2048 * 512 * 9
    assert derive_field(network, 2).stride == (8, 8)


def test_the_papers_pyramid_is_inexact_and_says_why() -> None:
    network = small()
    segmenter = NetworkSegmenter(network, in_channels=2, out_channels=3, ndim=2)
    assert segmenter.inexact_reason == "PyramidPooling looks at the whole image"
    # What its other layers look at is read around a tile all the same.
    assert segmenter.stride == (8, 8)
    assert min(segmenter.halo[0]) > 200
    image = noise(2, (90, 500))
    whole = run_whole(segmenter, image)
    with torch.inference_mode():
        assert worst(network(torch.from_numpy(image)[None])[0], whole) <= 1e-5
    assert worst(run_tiled(segmenter, image, (96, 64)), whole) > 1e-3
    with pytest.raises(WholeImageError, match="BinMeans"):
        check_bounded(BinMeans(2))


def test_a_batch_of_one_cannot_train_the_one_bin() -> None:
    network = build_pspnet(2, 3, **SMALL).train()
    x = torch.randn(1, 2, 33, 33)
    with pytest.raises(NetworkError, match="at least 2 images, or freeze the normalisation"):
        network(x)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    assert network(x).isfinite().all()
    network.train()
    assert network(torch.cat([x, x])).shape == (2, 3, 33, 33)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg16"}, "backbone='vgg16' is not known; allowed are 'resnet18'"),
        ({"pyramid": "full"}, "pyramid='full' is not known; allowed are 'paper', 'fixed'"),
        ({"order": "last"}, "order='last' is not known; allowed are 'semseg', 'caffe', 'smp'"),
        ({"grid": (4, 2, 2, 1)}, "grid= belongs to pyramid='fixed', not to pyramid='paper'"),
        ({"pyramid": "fixed", "grid": (4, 2)}, r"grid=\(4, 2\) is not possible; give 4 sizes"),
        ({"pyramid": "fixed", "grid": (4, 2, 1, True)}, "is not possible; give 4 sizes"),
        ({"pyramid": "fixed", "grid": (4, 2, 1.5, 1)}, "grid=.* is not possible"),
        ({"backbone": "mobilenet_v2", "stem": "deep"}, "stem belong to ResNets; leave them out"),
        ({"pyramid": None, "order": "smp"}, "order='smp' has nothing to arrange without a pyramid"),
        ({"backbone": "resnet18", "strided": "1x1"}, "strided='1x1' is for bottlenecks"),
        ({"stem": "thick"}, "stem='thick' is not known"),
        ({"ndim": 3}, "ndim=3 is not possible; a PSPNet has 1 or 2 spatial axes"),
        ({"classes": 0}, "classes=0 is not possible"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build_network("pspnet", **{"in_channels": 1, "classes": 2, **options})


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_export_is_right_at_every_size(tmp_path: Path) -> None:
    """Of all behind the backbone, which is convolutions alone; by default exporters keep one size of bins."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = small()
    behind = nn.Sequential(network.neck, network.head, network.up)
    channels = network.encoder.channels[-1]
    sides = {axis: torch.export.Dim(f"side{axis}", min=2, max=500) for axis in (2, 3)}
    exported = torch.export.export(behind, (torch.randn(2, channels, 9, 13),), dynamic_shapes=(sides,))
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "pspnet.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pspnet.onnx")
    for shape in ((9, 13), (60, 60), (5, 2), (17, 8)):
        x = torch.randn(2, channels, *shape)
        with torch.inference_mode():
            expected = behind(x)
            assert worst(exported.module()(x), expected) <= 1e-6
        (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert worst(torch.from_numpy(scores), expected) <= 1e-5
