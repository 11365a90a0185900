"""How the entries of published checkpoint files are called in our networks.

Pure functions on state dicts. A plan says which entry of a network takes
which entry of a file; :func:`fitted` brings the tensor into shape.

Known layouts are those of torchvision's classifiers (and their feature parts
alone) and of published segmentation networks: torchvision's ``fcn_resnet``,
FCN on VGG16 under the layer names of its Caffe model, and PSPNet of the
authors' PyTorch code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.backbones.base import adapt_first_convolution
from napari_fcnseg.networks.upsampling import bilinear_kernel

State = Mapping[str, torch.Tensor]

_FIRST = ("features.0.weight", "features.0.0.weight", "conv1.weight", "conv1.conv.weight")
_FEATURE = re.compile(r"(?:^|\.)features\.(\d+)\.(\w+)$")
_LAYER3 = re.compile(r"(?:^|\.)layer3\.(\d+)\.(conv\d)\.weight$")
_RESNETS = {
    (2, "conv2"): "resnet18", (6, "conv2"): "resnet34", (6, "conv3"): "resnet50", (23, "conv3"): "resnet101",
}  # fmt: skip
_TRANSPLANTED = ("classifier.0.weight", "classifier.1.weight", "classifier.3.weight", "classifier.4.weight")
"""The first two fully connected layers: 0 and 3 of VGG16, 1 and 4 of AlexNet."""


# ---------------------------------------------------------------- what a file or a network is


def family(state: State) -> str | None:
    """Return the backbone that a state dict holds, under whatever prefix, or None.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
        Of a file, or of a network whose backbone has torchvision's names.

    Returns
    -------
    str or None
        Such as ``"resnet50"``. Widths do not matter, only names and kernels.
    """
    blocks = [match for match in map(_LAYER3.search, state) if match]
    if blocks:
        count = 1 + max(int(block[1]) for block in blocks)
        return _RESNETS.get((count, max(block[2] for block in blocks)))
    if any("inception3a." in name for name in state):
        return "googlenet"
    if any(re.search(r"(^|\.)features\.18\.0\.weight$", name) for name in state):
        return "mobilenet_v2"
    plain = plain_family(state[name].shape for name in feature_kernels(state))
    normed = any(_FEATURE.search(name) and name.endswith("running_mean") for name in state)
    return f"{plain}_bn" if plain and normed else plain


def plain_family(kernels: Iterable[Sequence[int]]) -> str | None:
    """Return which of the networks without branches has kernels of such shapes, in order."""
    widths = [shape[-1] for shape in kernels]
    if widths[:5] == [11, 5, 3, 3, 3]:
        return "alexnet"
    return "vgg16" if widths and set(widths[:13]) == {3} else None


def feature_kernels(state: State) -> list[str]:
    """Return the names of the convolutions of AlexNet's or VGG16's feature part, in the layers' order."""
    places = [(int(match[1]), name) for name, value in state.items()
              if (match := _FEATURE.search(name)) and match[2] == "weight" and value.ndim > 2]  # fmt: skip
    return [name for _, name in sorted(places)]


def with_prefixes(state: State) -> dict[str, torch.Tensor]:
    """Return a file's entries under the names that a whole network has.

    Takes off ``module.``, which training on several devices leaves, and puts
    ``features.`` before the names of a feature part that was stored alone.
    """
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    if all(re.match(r"\d+\.", name) for name in bare):
        return {f"features.{name}": value for name, value in bare.items()}
    return bare


def published_layout(state: State) -> str | None:
    """Return which published segmentation network a file is of, or None.

    Returns
    -------
    {"torchvision", "caffe", "semseg"} or None
        torchvision's ``fcn_resnet`` or ``deeplabv3``; FCN on VGG16 with
        Caffe's layer names; PSPNet of hszhao/semseg.
    """
    for layout, names in _TELLING.items():
        if all(name in state for name in names):
            return layout
    return None


_TELLING = {
    "torchvision": ("backbone.conv1.weight", "classifier.4.weight"),
    "caffe": ("conv1_1.weight", "fc6.weight", "score_fr.weight"),
    "semseg": ("layer0.0.weight", "cls.4.weight"),
}


# ---------------------------------------------------------------- which entry takes which


def plan_by_name(network: Collection[str], file: State) -> dict[str, str]:
    """Pair entries of equal name, whatever prefix the network has before all of them.

    Layers called ``fc6`` and ``fc7`` take the first two fully connected ones.

    Parameters
    ----------
    network : collection of str
        Names of the network's entries.
    file : mapping
        With torchvision's names.

    Returns
    -------
    dict of str to str
        Name in the file by name in the network. A network with several
        equal backbones takes the file in each.
    """
    by_prefix: dict[str, dict[str, str]] = {}
    for name in network:
        parts = name.split(".")
        for i in range(len(parts)):
            source = ".".join(parts[i:])
            if source in file:
                by_prefix.setdefault(".".join(parts[:i]), {})[name] = source
    most = max(map(len, by_prefix.values()), default=0)
    plan = {t: s for pairs in by_prefix.values() if len(pairs) == most for t, s in pairs.items()}
    return plan | _transplants(network, file)


def _transplants(network: Collection[str], file: State) -> dict[str, str]:
    heads = dict(zip("67", [name for name in _TRANSPLANTED if name in file], strict=False))
    found = [
        match for match in map(re.compile(r"(?:^|.*\.)fc([67])\.(weight|bias)").fullmatch, network) if match
    ]
    return {
        match[0]: heads[match[1]].removesuffix("weight") + match[2] for match in found if match[1] in heads
    }


def plan_by_order(
    convolutions: Sequence[str], dense: Sequence[str], norms: Mapping[str, str], file: State
) -> dict[str, str]:
    """Pair convolutions in the order of AlexNet's or VGG16's layers, whatever their names.

    Parameters
    ----------
    convolutions : sequence of str
        Names of the network's layers in the order of the feature part.
        Any more of them stand for the fully connected layers, in order.
    dense : sequence of str
        Those of them that are listed apart.
    norms : mapping of str to str
        Name of the batch normalisation behind a convolution, where there is one.
    file : mapping
        With torchvision's names.

    Returns
    -------
    dict of str to str
        Name in the file by name in the network. The fully connected layers
        are left out where the network has not all convolutions before them.
    """
    kernels = feature_kernels(file)
    pairs = list(zip(convolutions, kernels, strict=False))
    if len(convolutions) >= len(kernels):
        heads = [name for name in _TRANSPLANTED if name in file]
        pairs += zip([*convolutions[len(kernels) :], *dense], heads, strict=False)
    plan = {}
    for target, source in pairs:
        plan[f"{target}.weight"] = source
        plan[f"{target}.bias"] = source.removesuffix("weight") + "bias"
        if target in norms:
            plan |= _norm_pairs(norms[target], _layer_behind(source), file)
    return plan


def _layer_behind(name: str) -> str:
    """Return ``"features.1"`` for ``"features.0.weight"``."""
    layer, place, _ = name.rsplit(".", 2)
    return f"{layer}.{int(place) + 1}"


def _norm_pairs(target: str, source: str, file: State) -> dict[str, str]:
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{target}.{part}": f"{source}.{part}" for part in parts if f"{source}.running_mean" in file}


# ---------------------------------------------------------------- published segmentation networks

_SEMSEG_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
_CAFFE_VGG16 = (
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3",
    "conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3",
)  # fmt: skip
_VGG16_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

_OURS: dict[str, dict[str, str]] = {
    "torchvision": {"backbone.": "encoder.", "aux_classifier.": "auxiliary.", "classifier.": "head."},
    "semseg": {
        **{f"layer0.{place}.": f"encoder.{name}." for place, name in _SEMSEG_STEM.items()},
        "layer": "encoder.layer", "ppm.features.": "neck.features.", "cls.": "head.", "aux.": "auxiliary.",
    },
    "caffe": {
        **{
            f"{name}.": f"encoder.features.{place}."
            for name, place in zip(_CAFFE_VGG16, _VGG16_PLACES, strict=True)
        },
        "fc6.": "head.fc6.", "fc7.": "head.fc7.", "score_fr.": "score_fr.",
        "score_pool4.": "joins.0.score.", "score_pool3.": "joins.1.score.",
        "upscore2.": "joins.0.up.", "upscore_pool4.": "joins.1.up.",
        "upscore.": "out.up.", "upscore16.": "out.up.", "upscore8.": "out.up.",
    },
}  # fmt: skip
"""What the names in each layout begin with, and what they begin with in ours."""


def plan_published(layout: str, file: State) -> dict[str, str]:
    """Return which entry of our network takes which of a published segmentation network.

    Parameters
    ----------
    layout : {"torchvision", "caffe", "semseg"}
        As :func:`published_layout` gives it.
    file : mapping
        Without ``module.``.

    Returns
    -------
    dict of str to str
        Name in the file by name in the network that :func:`published_network` tells.
    """
    plan = {}
    for name in file:
        for before, after in _OURS[layout].items():
            if name.startswith(before):
                plan[after + name.removeprefix(before)] = name
                break
    return plan


def published_network(layout: str, file: State) -> tuple[str, int, dict[str, Any]]:
    """Return the network that a published file is of.

    Parameters
    ----------
    layout, file
        As for :func:`plan_published`.

    Returns
    -------
    name : str
    classes : int
        Number of maps.
    options : dict
        For :func:`~napari_fcnseg.networks.build_network`.

    Raises
    ------
    NetworkError
        If no network here has such parts.
    """
    name, score, stem, options = _OPTIONS[layout](file)
    if len(file[stem]) != 64:
        options["width"] = len(file[stem]) / 64
    return name, len(file[score]), options


def _torchvision_options(file: State) -> tuple[str, str, str, dict[str, Any]]:
    if "classifier.0.weight" not in file:
        raise NetworkError(
            "the file has DeepLab's head, which no network here has; its backbone can be had, by "
            "load_pretrained."
        )
    options = {"backbone": family(file), "head": "fcn", "aux": "aux_classifier.4.bias" in file}
    return "fcn_resnet", "classifier.4.bias", "backbone.conv1.weight", options


def _semseg_options(file: State) -> tuple[str, str, str, dict[str, Any]]:
    bins = [name for name in file if re.fullmatch(r"ppm\.features\.\d+\.1\.weight", name)]
    if len(bins) != 4:
        raise NetworkError(
            f"the file has {len(bins)} pooled branches; the PSPNet here has 4, of 1, 2, 3 and 6 bins."
        )
    options = {"backbone": family(file), "order": "semseg", "aux": "aux.4.bias" in file}
    return "pspnet", "cls.4.bias", "layer0.0.weight", options


def _caffe_options(file: State) -> tuple[str, str, str, dict[str, Any]]:
    options = {
        "backbone": "vgg16", "padding": "pad100", "head_channels": len(file["fc7.bias"]),
        "upsampling": "learned" if _learned_kernels(file) else "fixed",
    }  # fmt: skip
    skips = sum(f"score_pool{i}.bias" in file for i in (3, 4))
    return ("fcn32s", "fcn16s", "fcn8s")[skips], "score_fr.bias", "conv1_1.weight", options


_OPTIONS = {"torchvision": _torchvision_options, "semseg": _semseg_options, "caffe": _caffe_options}


def is_bilinear(kernel: torch.Tensor) -> bool:
    """Tell whether a transposed convolution, ``(C, C, k, k)``, interpolates linearly class by class."""
    expected = torch.zeros_like(kernel)
    classes = range(len(kernel))
    expected[classes, classes] = bilinear_kernel(kernel.shape[-1], 2).to(kernel)
    return torch.allclose(kernel, expected, atol=1e-5)


def _learned_kernels(file: State) -> bool:
    """Tell whether any of the kernels that upsample is no longer what it began as."""
    return not all(is_bilinear(value) for name, value in file.items() if name.startswith("upscore"))


def for_rgb(layout: str, file: State) -> dict[str, torch.Tensor]:
    """Return a published file whose first convolution takes red, green, blue.

    Caffe's takes blue, green, red. Kernels that our network has fixed are left out.
    """
    if layout != "caffe":
        return dict(file)
    learned = _learned_kernels(file)
    kept = {name: value for name, value in file.items() if learned or not name.startswith("upscore")}
    return kept | {"conv1_1.weight": file["conv1_1.weight"].flip(1)}


# ---------------------------------------------------------------- bringing tensors into shape


def fitted(value: torch.Tensor, shape: Sequence[int], *, first: bool = False) -> torch.Tensor | None:
    """Return a file's tensor in the shape that the network has, or None if it is of another layer.

    Parameters
    ----------
    value : torch.Tensor
        As in the file.
    shape : sequence of int
        As in the network.
    first : bool
        It is the first convolution, whose input channels are adapted.
    """
    shape = torch.Size(shape)
    if value.shape == shape:
        return value
    if value.ndim == 2 < len(shape) and value.shape[0] == shape[0] and value.numel() == shape.numel():
        # A fully connected layer sees its inputs as (channel, y, x), as a convolution over all of them.
        return value.reshape(shape)
    if first and value.ndim == len(shape) and value.shape[0] == shape[0] and value.shape[2:] == shape[2:]:
        return adapt_first_convolution(value, shape[1])
    return None


def is_first(name: str) -> bool:
    """Tell whether an entry of a backbone's file is the weight of its first convolution."""
    return name in _FIRST


def without_orphans(plan: Mapping[str, str], unfit: Iterable[str]) -> dict[str, str]:
    """Drop from a plan what does not fit, and each normalisation whose convolution does not.

    The statistics of a 7-wide stem mean nothing behind a 3-wide one, though they fit in shape.

    Parameters
    ----------
    plan : mapping of str to str
        Name in the file by name in the network.
    unfit : iterable of str
        Names in the network.
    """
    lost = {plan[name] for name in unfit}
    # Without its weight, the bias of a layer means nothing either.
    lost |= {name.removesuffix("weight") + "bias" for name in lost if name.endswith(".weight")}
    return {
        target: source
        for target, source in plan.items()
        if source not in lost and _convolution_of(source) not in lost
    }


def _convolution_of(name: str) -> str:
    """Return the convolution whose maps an entry of a ResNet or GoogLeNet normalises; else the entry."""
    name = re.sub(r"\.downsample\.1\.\w+$", ".downsample.0.weight", name)
    return re.sub(r"(^|\.)bn(\d*)\.\w+$", r"\1conv\2.weight", name)
