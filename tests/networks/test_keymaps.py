"""Key maps: files of the exact published layout find their places, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import pytest
import torch
from tests.networks import layouts
from tests.networks.layouts import Entry

from napari_fcnseg.networks import build_network, keymaps
from napari_fcnseg.networks.backbones import build_classifier


def shapes(entries: Iterable[Entry]) -> dict[str, torch.Tensor]:
    """Return a state dict of full size that takes no memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in entries}


CLASSIFIERS = {
    "alexnet": layouts.alexnet(),
    "vgg16": layouts.vgg16(),
    "vgg16_bn": layouts.vgg16(batch_norm=True),
    "googlenet": layouts.googlenet(),
    "resnet18": layouts.resnet(18),
    "resnet34": layouts.resnet(34),
    "resnet50": layouts.resnet(50),
    "resnet101": layouts.resnet(101),
    "mobilenet_v2": layouts.mobilenet_v2(),
}
FILES = {name: shapes(entries) for name, entries in CLASSIFIERS.items()}
# Tensors and parameters of the published files.
FACTS = {
    "alexnet": (16, 61_100_840),
    "vgg16": (32, 138_357_544),
    "vgg16_bn": (97, 138_365_992),
    "googlenet": (364, 13_004_888),
    "resnet18": (122, 11_689_512),
    "resnet34": (218, 21_797_672),
    "resnet50": (320, 25_557_032),
    "resnet101": (626, 44_549_160),
    "mobilenet_v2": (314, 3_504_872),
}
SEGMENTATION = {
    "fcn_resnet50": (layouts.torchvision_fcn_resnet(50), 35_322_218),
    "fcn_resnet101": (layouts.torchvision_fcn_resnet(101), 54_314_346),
    "fcn32s": (layouts.caffe_fcn("fcn32s"), 136_152_917),
    "fcn16s": (layouts.caffe_fcn("fcn16s"), 134_815_994),
    "fcn8s": (layouts.caffe_fcn("fcn8s"), 134_489_759),
    "pspnet50": (layouts.semseg_pspnet(50), 49_081_578),
    "pspnet101": (layouts.semseg_pspnet(101), 68_073_706),
}
PUBLISHED = {name: shapes(entries) for name, (entries, _) in SEGMENTATION.items()}


def learned(state: dict[str, torch.Tensor]) -> int:
    skipped = ("running_mean", "running_var", "num_batches_tracked")
    return sum(prod(value.shape) for name, value in state.items() if not name.endswith(skipped))


@pytest.mark.parametrize("name", FACTS)
def test_the_tables_of_these_tests_are_the_published_files(name: str) -> None:
    assert (len(FILES[name]), learned(FILES[name])) == FACTS[name]


@pytest.mark.parametrize("name", SEGMENTATION)
def test_the_tables_of_published_networks_too(name: str) -> None:
    assert learned(PUBLISHED[name]) == SEGMENTATION[name][1]


# ---------------------------------------------------------------- telling them apart


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
def test_family(name: str, prefix: str) -> None:
    assert keymaps.family({prefix + key: value for key, value in FILES[name].items()}) == name


def test_feature_parts_alone() -> None:
    for name in ("alexnet", "vgg16", "vgg16_bn"):
        alone = {
            key.removeprefix("features."): value
            for key, value in FILES[name].items()
            if key.startswith("features.")
        }
        # Sorted as text, as safetensors files are: 0, 10, 12, ..., 2, 21.
        whole = keymaps.with_prefixes({key: alone[key] for key in sorted(alone)})
        assert keymaps.family(whole) == name
        assert keymaps.feature_kernels(whole) == [
            k for k in FILES[name] if "features" in k and FILES[name][k].ndim == 4
        ]


@pytest.mark.parametrize(
    "names",
    [[], ["head.weight"], ["layer3.0.conv1.weight"], ["features.0.weight"], ["layer3.7.conv3.weight"]],
)
def test_no_family(names: list[str]) -> None:
    assert keymaps.family({name: torch.zeros(4, 3, 5, 5) for name in names}) is None


def test_layouts() -> None:
    expected = {"fcn_resnet50": "torchvision", "fcn8s": "caffe", "fcn32s": "caffe", "pspnet50": "semseg"}
    for name, layout in expected.items():
        assert keymaps.published_layout(keymaps.with_prefixes(PUBLISHED[name])) == layout
    assert not any(keymaps.published_layout(state) for state in FILES.values())


# ---------------------------------------------------------------- pairing


def test_equal_names_behind_any_prefix() -> None:
    own = [
        *(f"net.encoder.{name}" for name in FILES["resnet50"] if not name.startswith("fc.")),
        "head.weight",
    ]
    plan = keymaps.plan_by_name(own, FILES["resnet50"])
    assert plan == {f"net.encoder.{n}": n for n in FILES["resnet50"] if not n.startswith("fc.")}


def test_two_backbones_take_the_file_both() -> None:
    own = [f"{side}.{name}" for side in ("colour", "depth") for name in FILES["alexnet"]]
    plan = keymaps.plan_by_name(own, FILES["alexnet"])
    assert len(plan) == 32
    assert {plan["colour.features.0.weight"], plan["depth.features.0.weight"]} == {"features.0.weight"}


def test_names_within_blocks_are_not_taken_for_the_stem() -> None:
    plan = keymaps.plan_by_name(FILES["resnet18"], FILES["resnet18"])
    assert plan == {name: name for name in FILES["resnet18"]}


CONVOLUTIONS = [f"conv{i}" for i in range(13)]


def test_order_pairs_convolutions_and_then_the_dense_layers() -> None:
    plan = keymaps.plan_by_order([*CONVOLUTIONS, "fc6", "fc7"], [], {}, FILES["vgg16"])
    assert plan == keymaps.plan_by_order(CONVOLUTIONS, ["fc6", "fc7"], {}, FILES["vgg16"])
    sources = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    expected = {f"conv{i}": f"features.{place}" for i, place in enumerate(sources)}
    expected |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    assert plan == {f"{k}.{part}": f"{v}.{part}" for k, v in expected.items() for part in ("weight", "bias")}


def test_order_of_alexnet() -> None:
    plan = keymaps.plan_by_order([f"c{i}" for i in range(5)], ["fc6", "fc7"], {}, FILES["alexnet"])
    weights = [source for source in plan.values() if source.endswith("weight")]
    places = [
        "features.0",
        "features.3",
        "features.6",
        "features.8",
        "features.10",
        "classifier.1",
        "classifier.4",
    ]
    assert weights == [f"{place}.weight" for place in places]


def test_a_shallower_encoder_takes_no_dense_layers() -> None:
    plan = keymaps.plan_by_order(CONVOLUTIONS[:10], ["fc6", "fc7"], {}, FILES["vgg16"])
    assert len(plan) == 20
    assert not any("classifier" in source for source in plan.values())


def test_normalisation_goes_with_its_convolution() -> None:
    norms = {f"conv{i}": f"bn{i}" for i in range(13)}
    plan = keymaps.plan_by_order(CONVOLUTIONS, [], norms, FILES["vgg16_bn"])
    assert (plan["conv2.weight"], plan["bn2.running_var"]) == ("features.7.weight", "features.8.running_var")
    assert len(plan) == 13 * 7
    # From a file without normalisation the network keeps its own.
    assert not any(
        name.startswith("bn") for name in keymaps.plan_by_order(CONVOLUTIONS, [], norms, FILES["vgg16"])
    )


def test_what_does_not_fit_takes_its_normalisation_along() -> None:
    own = {name: name for name in FILES["resnet50"]}
    kept = keymaps.without_orphans(
        own, ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight"]
    )
    lost = {name.rpartition(".")[0] for name in own if name not in kept}
    assert lost == {
        "conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.downsample.0", "layer1.0.downsample.1",
    }  # fmt: skip
    own = {f"e.{name}": name for name in FILES["googlenet"]}
    kept = keymaps.without_orphans(own, ["e.inception3a.branch2.0.conv.weight", "e.fc.weight"])
    assert {name.rpartition(".")[0] for name in own if name not in kept} == {
        "e.inception3a.branch2.0.conv", "e.inception3a.branch2.0.bn", "e.fc",
    }  # fmt: skip


# ---------------------------------------------------------------- whole networks


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("aux", [True, False])
def test_every_entry_of_a_published_network_has_its_place(name: str, aux: bool) -> None:
    # Whether kernels interpolate linearly cannot be seen without their numbers.
    left_out = ("upscore",) if aux else ("upscore", "aux")
    file = keymaps.with_prefixes(PUBLISHED[name])
    file = {key: value for key, value in file.items() if not key.startswith(left_out)}
    layout = keymaps.published_layout(file)
    assert layout is not None
    network_name, classes, options = keymaps.published_network(layout, file)
    with torch.device("meta"):
        own = build_network(network_name, in_channels=3, classes=classes, **options).state_dict()
    plan = keymaps.plan_published(layout, file)
    assert set(plan) == set(own)
    assert set(plan.values()) == set(file)
    assert all(own[target].shape == file[source].shape for target, source in plan.items())


@pytest.mark.parametrize(
    ("name", "options", "file", "fc6"),
    [
        ("fcn8s", {}, "vgg16", (4096, 512, 7, 7)),
        ("fcn32s", {"backbone": "alexnet"}, "alexnet", (4096, 256, 6, 6)),
        ("fcn32s", {"padding": "pad100"}, "vgg16", (4096, 512, 7, 7)),
    ],
)
def test_transplants_of_full_size(
    name: str, options: dict[str, Any], file: str, fc6: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        own = build_network(name, in_channels=3, classes=21, **options).state_dict()
    plan = keymaps.plan_by_name(own, FILES[file])
    shapes = {t: keymaps.fitted(FILES[file][s], own[t].shape) for t, s in plan.items()}
    assert all(value is not None and value.shape == own[target].shape for target, value in shapes.items())
    assert own["head.fc6.weight"].shape == fc6
    assert {target.split(".")[0] for target in own if target not in plan} <= {"score_fr", "joins"}


@pytest.mark.parametrize("name", FACTS)
def test_every_entry_of_a_classifier_has_its_place(name: str) -> None:
    with torch.device("meta"):
        own = build_classifier(name, **({"aux_logits": True} if name == "googlenet" else {})).state_dict()
    assert {key: value.shape for key, value in own.items()} == {k: v.shape for k, v in FILES[name].items()}


# ---------------------------------------------------------------- shapes


def test_a_fully_connected_layer_is_a_convolution_over_all_its_inputs() -> None:
    dense, inputs = torch.nn.Linear(5 * 49, 8), torch.randn(2, 5, 7, 7)
    weight = keymaps.fitted(dense.weight.detach(), (8, 5, 7, 7))
    assert weight is not None
    result = torch.nn.functional.conv2d(inputs, weight, dense.bias)
    assert torch.allclose(result.flatten(1), dense(inputs.flatten(1)), atol=1e-6)


def test_shapes_that_are_of_other_layers() -> None:
    assert keymaps.fitted(torch.zeros(4096, 25088), (4096, 256, 6, 6)) is None
    assert keymaps.fitted(torch.zeros(64, 3, 7, 7), (64, 3, 3, 3), first=True) is None
    assert keymaps.fitted(torch.zeros(64, 3, 3, 3), (64, 4, 3, 3)) is None
    assert keymaps.fitted(torch.zeros(64, 3, 3, 3), (64, 3, 3, 3, 3), first=True) is None


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_grey_images_of_any_channel_count_give_what_grey_rgb_gave(channels: int) -> None:
    weight, grey = torch.randn(8, 3, 3, 3), torch.randn(1, 1, 9, 9)
    adapted = keymaps.fitted(weight, (8, channels, 3, 3), first=True)
    assert adapted is not None
    expected = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    result = torch.nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
    assert torch.allclose(result, expected, atol=1e-5)


def test_first_convolutions() -> None:
    first = {
        "alexnet": "features.0.weight", "vgg16": "features.0.weight", "googlenet": "conv1.conv.weight",
        "resnet18": "conv1.weight", "mobilenet_v2": "features.0.0.weight",
    }  # fmt: skip
    for name, expected in first.items():
        assert [key for key in FILES[name] if keymaps.is_first(key)] == [expected]
        assert [key for key in FILES[name] if FILES[name][key].shape[1:2] == (3,)] == [expected]
