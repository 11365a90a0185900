"""Published backbones: each goes into every network that is built on it, and says what did not."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.networks import layouts
from tests.networks.layouts import fabricated
from torch import nn

from napari_fcnseg._shared.errors import ModelError, ModelFileError, UnknownModelError
from napari_fcnseg.models.pretrained import (
    PRETRAINED,
    PretrainedRecord,
    load_pretrained,
    pretrained_record,
    weights_file,
)
from napari_fcnseg.networks import build_network
from napari_fcnseg.networks.backbones import build_backbone, build_classifier

WIDTH = 1 / 16
State = dict[str, torch.Tensor]


def wide(channels: int) -> int:
    return max(1, round(channels * WIDTH))


FILES: dict[str, Callable[[], Iterator[layouts.Entry]]] = {
    "alexnet": lambda: layouts.alexnet(wide),
    "vgg16": lambda: layouts.vgg16(wide),
    "vgg16_bn": lambda: layouts.vgg16(wide, batch_norm=True),
    "googlenet": lambda: layouts.googlenet(wide),
    "resnet18": lambda: layouts.resnet(18, wide),
    "resnet34": lambda: layouts.resnet(34, wide),
    "resnet50": lambda: layouts.resnet(50, wide),
    "resnet101": lambda: layouts.resnet(101, wide),
    "mobilenet_v2": lambda: layouts.mobilenet_v2(wide),
}


def written(folder: Path, name: str) -> tuple[Path, State]:
    """Write a file of the layout of `name`, of narrow layers."""
    state = fabricated(FILES[name]())
    torch.save(state, folder / f"{name}.pth")
    return folder / f"{name}.pth", state


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNSEG_OFFLINE", "1")
    monkeypatch.setenv("FCNSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("FCNSEG_WEIGHTS", raising=False)


# ---------------------------------------------------------------- the registry

# Leading digits of the SHA-256, as in the addresses that torchvision prints; parameters.
FACTS = {
    "alexnet": ("7be5be79", 61_100_840),
    "vgg16": ("397923af", 138_357_544),
    "vgg16_bn": ("6c64b313", 138_365_992),
    "vgg16_features": ("88682ab5", 138_357_544),
    "googlenet": ("1378be20", 13_004_888),
    "resnet18": ("f37072fd", 11_689_512),
    "resnet34": ("b627a593", 21_797_672),
    "resnet50": ("0676ba61", 25_557_032),
    "resnet50_v2": ("11ad3fa6", 25_557_032),
    "resnet101": ("63fe2227", 44_549_160),
    "resnet101_v2": ("cd907fc2", 44_549_160),
    "mobilenet_v2": ("b0353104", 3_504_872),
    "mobilenet_v2_v2": ("7ebf99e0", 3_504_872),
    "fcn_resnet50_coco": ("1167a1af", 35_322_218),
    "fcn_resnet101_coco": ("7ecb50ca", 54_314_346),
    "deeplabv3_resnet50_coco": ("cd0a2569", 42_004_074),
    "deeplabv3_resnet101_coco": ("586e9e4e", 60_996_202),
}


def test_the_registry_states_the_published_facts() -> None:
    assert {name: (record.sha256_prefix, record.parameters) for name, record in PRETRAINED.items()} == FACTS
    for record in PRETRAINED.values():
        assert record.url == f"https://download.pytorch.org/models/{record.filename}"
        assert record.licence
        assert record.data_licence


def test_preprocessing_for_images_from_0_to_255() -> None:
    rule = pretrained_record("resnet50").normalization
    assert rule.method == "fixed"
    assert rule.offset == pytest.approx((123.675, 116.28, 103.53))
    assert rule.scale == pytest.approx((58.395, 57.12, 57.375))
    # The VGG authors only subtract the mean; torchvision's GoogLeNet wants -1 to 1.
    rule = pretrained_record("vgg16_features").normalization
    assert rule.offset == pytest.approx((123.0, 117.0, 104.0), abs=0.01)
    assert rule.scale == pytest.approx((1.0, 1.0, 1.0))
    assert pretrained_record("googlenet").normalization.offset == (127.5,) * 3


def test_unknown_names() -> None:
    with pytest.raises(UnknownModelError, match=r"'resnet5'.*Did you mean 'resnet50'.*'\./resnet5'"):
        weights_file("resnet5")


def test_names_and_paths(tmp_path: Path) -> None:
    record = PRETRAINED["resnet18"]
    assert weights_file(tmp_path / record.filename) == (tmp_path / record.filename, record)
    assert weights_file("x/mine.pth") == (Path("x/mine.pth"), None)
    assert weights_file("mine.safetensors") == (Path("mine.safetensors"), None)
    with pytest.raises(ModelError, match=r"resnet18-f37072fd.pth is not on this machine"):
        weights_file("resnet18")


# ---------------------------------------------------------------- classifiers and encoders


@pytest.mark.parametrize("name", FILES)
def test_a_classifier_takes_everything(name: str, tmp_path: Path) -> None:
    path, state = written(tmp_path, name)
    network = build_classifier(name, width=WIDTH, **({"aux_logits": True} if name == "googlenet" else {}))
    report = load_pretrained(network, path)
    own = network.state_dict()
    assert own.keys() == state.keys() == set(report.loaded)
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert report.fresh == report.unused == report.adapted == ()
    assert report.record is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 5])
def test_an_encoder_takes_all_but_the_head_for_any_channel_count(
    name: str, channels: int, tmp_path: Path
) -> None:
    path, state = written(tmp_path, name)
    network = build_backbone(name, channels, width=WIDTH)
    report = load_pretrained(network, path)
    assert report.fresh == ()
    assert set(report.loaded) == set(network.state_dict())
    assert {key.split(".")[0] for key in report.unused} <= {"fc", "classifier", "aux1", "aux2"}
    first = next(key for key in state if state[key].ndim == 4)
    assert report.adapted == (first,)
    if channels == 1:
        assert torch.allclose(network.state_dict()[first], state[first].sum(1, keepdim=True))


def test_grey_images_are_answered_as_grey_rgb(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "resnet18")
    colour, grey = (build_classifier("resnet18", n, width=WIDTH).eval() for n in (3, 1))
    for network in (colour, grey):
        load_pretrained(network, path)
    image = torch.randn(1, 1, 40, 40)
    assert torch.allclose(grey(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-4)


def test_other_class_counts_keep_a_fresh_head(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "resnet18")
    network = build_classifier("resnet18", classes=7, width=WIDTH)
    report = load_pretrained(network, path)
    assert report.fresh == report.unused == ("fc.weight", "fc.bias")
    assert "left as they were: fc" in str(report)


def test_feature_parts_alone(tmp_path: Path) -> None:
    state = fabricated(FILES["vgg16"]())
    alone = {key.removeprefix("features."): v for key, v in state.items() if key.startswith("features.")}
    save_file({key: value.half() for key, value in alone.items()}, tmp_path / "part.safetensors")
    network = build_backbone("vgg16", width=WIDTH)
    assert load_pretrained(network, tmp_path / "part.safetensors").fresh == ()
    own = network.state_dict()
    assert own["features.28.weight"].dtype == torch.float32
    assert torch.equal(own["features.28.weight"], state["features.28.weight"].half().float())


# ---------------------------------------------------------------- networks

CASES: dict[str, tuple[str, str, dict[str, Any], set[str]]] = {
    # case: file, network, options, layers that stay fresh
    "fcn32s": ("vgg16", "fcn32s", {}, {"score_fr"}),
    "fcn16s": ("vgg16", "fcn16s", {"padding": "pad100"}, {"score_fr", "joins.0.score"}),
    "fcn8s": ("vgg16", "fcn8s", {}, {"score_fr", "joins.0.score", "joins.1.score"}),
    "fcn16s bn": ("vgg16_bn", "fcn16s", {"backbone": "vgg16_bn"}, {"score_fr", "joins.0.score"}),
    "fcn at once": ("vgg16", "fcn8s_at_once", {}, {"score_fr", "joins.0.score", "joins.1.score"}),
    "fcn alexnet": ("alexnet", "fcn32s", {"backbone": "alexnet"}, {"score_fr"}),
    "fcn googlenet": ("googlenet", "fcn16s", {"backbone": "googlenet"}, {"score_fr", "joins.0.score"}),
    "dilated_frontend": ("vgg16", "dilated_frontend", {}, {"front_end.final"}),
    "dilated": ("vgg16", "dilated", {"context": None}, {"front_end.final"}),
    "fcn_resnet": ("resnet18", "fcn_resnet", {"backbone": "resnet18"}, {"head"}),
    "fcn_resnet fcn": ("resnet50", "fcn_resnet", {"head": "fcn"}, {"head.0", "head.1", "head.4"}),
    "fcn_resnet 34": ("resnet34", "fcn_resnet", {"backbone": "resnet34"}, {"head"}),
    "pspnet plain": (
        "resnet50", "pspnet", {"stem": "plain", "pyramid": None}, {"head.0", "head.1", "head.4"},
    ),
    "pspnet 101": (
        "resnet101", "pspnet", {"stem": "plain", "pyramid": None, "backbone": "resnet101"},
        {"head.0", "head.1", "head.4"},
    ),
    "pspnet mobile": (
        "mobilenet_v2", "pspnet", {"backbone": "mobilenet_v2", "pyramid": None},
        {"head.0", "head.1", "head.4"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_network_on_a_published_backbone(case: str, tmp_path: Path) -> None:
    name, network_name, options, fresh = CASES[case]
    path, state = written(tmp_path, name)
    network = build_network(network_name, in_channels=3, classes=4, width=WIDTH, **options)
    report = load_pretrained(network, path)
    assert {key.rpartition(".")[0] for key in report.fresh} == fresh
    heads = ("fc.", "classifier.6.", "aux1.", "aux2.") + ("classifier.1.",) * (name == "mobilenet_v2")
    assert all(key.startswith(heads) for key in report.unused)
    assert len(report.loaded) + len(report.unused) == len(state)


@pytest.mark.parametrize(
    ("name", "fc6"), [("fcn8s", "head.fc6"), ("dilated", "front_end.fc6"), ("deconvnet", "dense.0")]
)
def test_the_classifier_is_transplanted(name: str, fc6: str, tmp_path: Path) -> None:
    path, state = written(tmp_path, "vgg16")
    network = build_network(name, in_channels=1, classes=4, width=WIDTH)
    report = load_pretrained(network, path)
    own = network.state_dict()
    assert own[f"{fc6}.weight"].shape == (256, 32, 7, 7)
    assert torch.equal(own[f"{fc6}.weight"].flatten(1), state["classifier.0.weight"])
    assert torch.equal(own[f"{fc6}.bias"], state["classifier.0.bias"])
    kernels = [own[key] for key in report.loaded if own[key].ndim == 4][:15]
    sources = [value for value in state.values() if value.ndim > 1][:15]
    assert all(torch.equal(k.flatten(), s.flatten()) for k, s in zip(kernels[1:], sources[1:], strict=True))


def test_deconvnet_takes_normalisation_only_from_a_file_that_has_it(tmp_path: Path) -> None:
    plain, normed = (written(tmp_path, name)[0] for name in ("vgg16", "vgg16_bn"))
    network = build_network("deconvnet", in_channels=3, classes=4, width=WIDTH)
    encoder = {key for key in network.state_dict() if key.startswith("encoder.")}
    assert len(encoder - set(load_pretrained(network, plain).loaded)) == 13 * 5
    assert encoder <= set(load_pretrained(network, normed).loaded)
    assert not any(key.startswith("decoder") for key in load_pretrained(network, normed).loaded)


def test_both_streams_of_a_late_fusion(tmp_path: Path) -> None:
    path, state = written(tmp_path, "vgg16")
    network = build_network("fcn32s", in_channels=4, classes=4, width=WIDTH, streams=(3, 1))
    report = load_pretrained(network, path)
    assert {key.rpartition(".")[0] for key in report.fresh} == {"networks.0.score_fr", "networks.1.score_fr"}
    assert report.adapted == ("networks.1.encoder.features.0.weight",)
    own = network.state_dict()
    for i in range(2):
        assert torch.equal(own[f"networks.{i}.head.fc6.weight"].flatten(1), state["classifier.0.weight"])


def test_a_deep_stem_keeps_its_weights_and_their_statistics(tmp_path: Path) -> None:
    path, state = written(tmp_path, "resnet50")
    network = build_network("pspnet", in_channels=3, classes=4, width=WIDTH, pyramid=None)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_pretrained(network, path)
    stem = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "layer1.0.conv1", "layer1.0.bn1"}
    stem |= {"layer1.0.downsample.0", "layer1.0.downsample.1"}
    fresh = {key.rpartition(".")[0] for key in report.fresh}
    assert fresh == {f"encoder.{name}" for name in stem} | {"head.0", "head.1", "head.4"}
    own = network.state_dict()
    assert all(torch.equal(own[key], before[key]) for key in report.fresh)
    assert torch.equal(own["encoder.layer1.0.conv2.weight"], state["layer1.0.conv2.weight"])
    assert "left as they were: encoder.conv1, encoder.bn1" in str(report)


def test_the_backbone_of_a_published_segmentation_network(tmp_path: Path) -> None:
    state = fabricated(layouts.torchvision_fcn_resnet(50, wide=wide))
    torch.save(state, tmp_path / "seg.pth")
    network = build_network("fcn_resnet", in_channels=3, classes=4, width=WIDTH)
    report = load_pretrained(network, tmp_path / "seg.pth")
    assert {key.split(".")[0] for key in report.fresh} == {"head"}
    assert torch.equal(network.state_dict()["encoder.conv1.weight"], state["backbone.conv1.weight"])


# ---------------------------------------------------------------- by name


def test_by_name_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = written(tmp_path, "resnet18")
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    record = PretrainedRecord("tiny", f"tiny-{prefix}.pth", "resnet18", 0, "none")
    monkeypatch.setitem(PRETRAINED, "tiny", record)
    monkeypatch.setenv("FCNSEG_WEIGHTS", str(tmp_path))
    shutil.copy(path, tmp_path / record.filename)
    report = load_pretrained(build_backbone("resnet18", width=WIDTH), "tiny")
    assert (report.record, report.path) == (record, tmp_path / record.filename)
    assert report.fresh == ()


@pytest.mark.parametrize("name", FILES)
def test_imagenet_means_the_file_of_the_backbone(name: str) -> None:
    with pytest.raises(ModelError, match=rf"{re.escape(PRETRAINED[name].filename)} is not on this machine"):
        load_pretrained(build_backbone(name, width=WIDTH), "imagenet")


def test_a_registered_file_that_is_another_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "resnet18")
    path = path.rename(tmp_path / PRETRAINED["resnet18"].filename)
    network = build_backbone("resnet18", width=WIDTH)
    with pytest.raises(ModelFileError, match="not what its name states"):
        load_pretrained(network, path)


def test_a_classifier_of_no_use_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fabricated(FILES["vgg16"]())
    state |= {key: value.fill_(torch.nan) for key, value in state.items() if key.startswith("classifier")}
    torch.save(state, tmp_path / "x.pth")
    prefix = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()[:8]
    path = (tmp_path / "x.pth").rename(tmp_path / f"f-{prefix}.pth")
    record = PretrainedRecord("f", path.name, "vgg16", 0, "none", features_only=True)
    monkeypatch.setitem(PRETRAINED, "f", record)
    monkeypatch.setenv("FCNSEG_WEIGHTS", str(tmp_path))
    network = build_network("fcn32s", in_channels=3, classes=4, width=WIDTH)
    report = load_pretrained(network, "f")
    assert {"head.fc6.weight", "head.fc7.bias"} <= set(report.fresh)
    assert all(value.isfinite().all() for value in network.state_dict().values())


# ---------------------------------------------------------------- refusals


def test_a_network_without_a_published_backbone() -> None:
    network = build_network("unet", in_channels=1, classes=2, depth=1, base_channels=2)
    with pytest.raises(ModelError, match=r"UNet has no backbone.*VGG16"):
        load_pretrained(network)


@pytest.mark.parametrize(
    ("own", "file"), [("resnet18", "resnet34"), ("vgg16", "vgg16_bn"), ("vgg16", "alexnet")]
)
def test_another_backbone(own: str, file: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, file)
    network = build_backbone(own, width=WIDTH)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ModelError, match=rf"holds {file}, but .* is built on {own}; take weights='{own}'"):
        load_pretrained(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_nothing_fits(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "resnet18")
    match = r"no weight of .* fits .*conv1.weight \(4, 3, 7, 7\): nearest is conv1.weight \(8, 3, 7, 7\)"
    with pytest.raises(ModelError, match=match):
        load_pretrained(build_backbone("resnet18", width=1 / 8), path)


def test_volumes_are_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "vgg16")
    with pytest.raises(ModelError, match="in 1D or 3D"):
        load_pretrained(build_backbone("vgg16", ndim=3, width=WIDTH), path)


def test_a_foreign_file(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"x.pth holds no backbone.*Of the file: weight \(4, 3, 3, 3\)"):
        load_pretrained(build_backbone("vgg16", width=WIDTH), tmp_path / "x.pth")


# ---------------------------------------------------------------- real weights


@pytest.mark.data
@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_real_features(name: str, real: Callable[[str], Path]) -> None:
    path = real(f"../weights/{name}_features_imagenet_fp16.safetensors")
    network = build_network("fcn32s", in_channels=3, classes=2, backbone=name, head_channels=2)
    report = load_pretrained(network, path)
    assert {key.split(".")[0] for key in report.fresh} == {"head", "score_fr"}
    own = network.state_dict()
    file = load_file(path)
    assert len(report.loaded) == len(file)
    assert all(torch.equal(own[f"encoder.features.{key}"], value.float()) for key, value in file.items())


@pytest.mark.data
def test_a_real_classifier_knows_a_cat(real: Callable[[str], Path]) -> None:
    data = pytest.importorskip("skimage.data")
    network = build_classifier("mobilenet_v2").eval()
    report = load_pretrained(network, real("../weights/mobilenet_v2_imagenet_fp16.safetensors"))
    assert (len(report.loaded), report.fresh) == (314, ())
    rule = PRETRAINED["mobilenet_v2"].normalization
    image = torch.tensor(data.chelsea()[:, 75:375]).permute(2, 0, 1)[None].float()
    image = (image - torch.tensor(rule.offset)[:, None, None]) / torch.tensor(rule.scale)[:, None, None]
    image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        chances = network(image).softmax(1)[0]
    # ImageNet's tabby, tiger cat and Egyptian cat.
    assert chances[[281, 282, 285]].sum() > 0.9
