"""Backbones trained on ImageNet, brought into our networks.

Each published file is one frozen record: where it lies, what its hash begins
with, what it expects of pixels, and on which terms.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from napari_fcnseg._shared.errors import ModelError, UnknownModelError, nearest_name
from napari_fcnseg.models.weight_files import file_url, get_file, hash_prefix, read_state
from napari_fcnseg.networks import keymaps
from napari_fcnseg.networks.geometry import BATCH_NORMS
from napari_fcnseg.preprocess.normalization import Normalization

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET = "ImageNet (ILSVRC 2012): terms of access allow non-commercial research and education"
_COCO = "COCO 2017 (annotations CC BY 4.0; each image on its own terms), the 20 classes of PASCAL VOC"


@dataclass(frozen=True)
class PretrainedRecord:
    """What is known of one published file of weights.

    Attributes
    ----------
    name : str
        As given to :func:`load_pretrained`.
    filename : str
        With the leading digits of its SHA-256.
    layout : str
        Whose names its entries have: a backbone such as ``"resnet50"``, or
        ``"fcn"`` or ``"deeplabv3"`` for a whole segmentation network.
    parameters : int
        How many numbers of it were learned.
    score : str
        As published, of the whole network.
    mean, std : tuple of float
        Subtracted from and divided by, for red, green and blue in 0 to 1.
    features_only : bool
        The classifier of the file is not meant to be used.
    licence, data_licence : str
        Of the file, as far as stated, and of what it was trained on.
    source : str
        Who published it.
    note : str
        What else to know.
    """

    name: str
    filename: str
    layout: str
    parameters: int
    score: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    features_only: bool = False
    licence: str = "none stated for the weights; published with code under BSD-3-Clause"
    data_licence: str = _IMAGENET
    source: str = "torchvision"
    note: str = ""

    @property
    def sha256_prefix(self) -> str:
        """Leading digits of the file's SHA-256."""
        return hash_prefix(self.filename)

    @property
    def url(self) -> str:
        """Where the file is downloaded from; ``FCNSEG_WEIGHTS_URL`` names a mirror."""
        return file_url(self.filename)

    @property
    def normalization(self) -> Normalization:
        """The rule for images whose values go from 0 to 255, channels red, green, blue."""
        return Normalization(
            method="fixed",
            offset=tuple(round(255 * value, 6) for value in self.mean),
            scale=tuple(round(255 * value, 6) for value in self.std),
        )


_RECORDS = (
    PretrainedRecord("alexnet", "alexnet-owt-7be5be79.pth", "alexnet", 61_100_840, "top-1 56.522 %"),
    PretrainedRecord("vgg16", "vgg16-397923af.pth", "vgg16", 138_357_544, "top-1 71.592 %"),
    PretrainedRecord("vgg16_bn", "vgg16_bn-6c64b313.pth", "vgg16_bn", 138_365_992, "top-1 73.360 %"),
    PretrainedRecord(
        "vgg16_features", "vgg16_features-amdegroot-88682ab5.pth", "vgg16", 138_357_544, "none",
        mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3, features_only=True,
        source="torchvision, from the VGG authors' Caffe model by way of amdegroot",
        note="Values from 0 to 255 with the mean subtracted; the classifier holds no numbers of use.",
    ),
    PretrainedRecord(
        "googlenet", "googlenet-1378be20.pth", "googlenet", 13_004_888, "top-1 69.778 %",
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), source="torchvision, from TensorFlow's model",
        note="torchvision takes ImageNet's mean and transforms it to this one within the network "
        "(transform_input). Auxiliary classifiers included.",
    ),
    PretrainedRecord("resnet18", "resnet18-f37072fd.pth", "resnet18", 11_689_512, "top-1 69.758 %"),
    PretrainedRecord("resnet34", "resnet34-b627a593.pth", "resnet34", 21_797_672, "top-1 73.314 %"),
    PretrainedRecord("resnet50", "resnet50-0676ba61.pth", "resnet50", 25_557_032, "top-1 76.130 %"),
    PretrainedRecord("resnet50_v2", "resnet50-11ad3fa6.pth", "resnet50", 25_557_032, "top-1 80.858 %"),
    PretrainedRecord("resnet101", "resnet101-63fe2227.pth", "resnet101", 44_549_160, "top-1 77.374 %"),
    PretrainedRecord("resnet101_v2", "resnet101-cd907fc2.pth", "resnet101", 44_549_160, "top-1 81.886 %"),
    PretrainedRecord(
        "mobilenet_v2", "mobilenet_v2-b0353104.pth", "mobilenet_v2", 3_504_872, "top-1 71.878 %"
    ),
    PretrainedRecord(
        "mobilenet_v2_v2", "mobilenet_v2-7ebf99e0.pth", "mobilenet_v2", 3_504_872, "top-1 72.154 %"
    ),
    PretrainedRecord(
        "fcn_resnet50_coco", "fcn_resnet50_coco-1167a1af.pth", "fcn", 35_322_218,
        "mean IoU 60.5 % (COCO 2017 val, VOC classes)", data_licence=_COCO,
    ),
    PretrainedRecord(
        "fcn_resnet101_coco", "fcn_resnet101_coco-7ecb50ca.pth", "fcn", 54_314_346,
        "mean IoU 63.7 % (COCO 2017 val, VOC classes)", data_licence=_COCO,
    ),
    PretrainedRecord(
        "deeplabv3_resnet50_coco", "deeplabv3_resnet50_coco-cd0a2569.pth", "deeplabv3", 42_004_074,
        "mean IoU 66.4 % (COCO 2017 val, VOC classes)", data_licence=_COCO, note="Only its backbone fits.",
    ),
    PretrainedRecord(
        "deeplabv3_resnet101_coco", "deeplabv3_resnet101_coco-586e9e4e.pth", "deeplabv3", 60_996_202,
        "mean IoU 67.4 % (COCO 2017 val, VOC classes)", data_licence=_COCO, note="Only its backbone fits.",
    ),
)  # fmt: skip

PRETRAINED: dict[str, PretrainedRecord] = {record.name: record for record in _RECORDS}
"""Every known file of published weights by name."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's entries and of a network's.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    record : PretrainedRecord or None
        What is known of it; None for a file that is not registered, whose
        preprocessing nobody states.
    loaded : tuple of str
        Entries of the network that hold the file's numbers now.
    adapted : tuple of str
        Those of them whose input channels were made to fit.
    fresh : tuple of str
        Entries of the network that are as they were.
    unused : tuple of str
        Entries of the file that went nowhere.
    """

    path: Path
    record: PretrainedRecord | None
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{len(self.loaded)} entries loaded from {self.path.name}, {len(self.fresh)} left as they were"
        ]
        for what, names in (
            ("adapted to the image's channels", self.adapted),
            ("left as they were", self.fresh),
            ("not used of the file", self.unused),
        ):
            if names:
                lines.append(f"  {what}: {_listed(_layers(names))}")
        return "\n".join(lines)


def pretrained_record(name: str) -> PretrainedRecord:
    """Return what is known of a published file.

    Raises
    ------
    UnknownModelError
        With the known names and the nearest.
    """
    if name not in PRETRAINED:
        raise UnknownModelError(
            f"no published weights are called {name!r}; known are {', '.join(sorted(PRETRAINED))}."
            f"{nearest_name(name, PRETRAINED)} A file of your own is given by its path, with a slash: "
            f"{'./' + name!r}."
        )
    return PRETRAINED[name]


def weights_file(
    weights: str | Path, *, offline: bool | None = None, base_url: str | None = None
) -> tuple[Path, PretrainedRecord | None]:
    """Return the file that is meant, fetched if need be, and its record.

    Parameters
    ----------
    weights : str or Path
        A name of :data:`PRETRAINED`, or a path: a Path, or a text with a
        slash or the ending ``.pth``, ``.pt`` or ``.safetensors``.
    offline, base_url
        See :func:`~napari_fcnseg.models.weight_files.get_file`.

    Raises
    ------
    UnknownModelError, ModelError, ModelFileError
    """
    if not _is_path(weights):
        record = pretrained_record(str(weights))
        return get_file(record.filename, offline=offline, base_url=base_url), record
    path = Path(weights).expanduser()
    return path, next((r for r in _RECORDS if Path(r.filename).stem == path.stem), None)


def _is_path(weights: str | Path) -> bool:
    return isinstance(weights, Path) or any(c in weights for c in "/\\") or Path(weights).suffix in _SUFFIXES


_SUFFIXES = (".pth", ".pt", ".safetensors")


def load_pretrained(
    network: nn.Module,
    weights: str | Path = "imagenet",
    *,
    offline: bool | None = None,
    base_url: str | None = None,
) -> LoadReport:
    """Give a network the weights of a backbone that was trained on many images.

    The backbone takes what fits. In networks on VGG16 and AlexNet the first
    two fully connected layers become fc6 and fc7. The first convolution is
    adapted to any number of channels. Heads keep their fresh weights. A
    classifier takes everything.

    Parameters
    ----------
    network : torch.nn.Module
        With one of the backbones of this package; changed in place.
    weights : str or Path
        ``"imagenet"`` for what torchvision published for this backbone (first
        version); a name of :data:`PRETRAINED`; or the path of a ``.pth`` or
        ``.safetensors`` file with torchvision's names, of the whole
        classifier or of its feature part alone.
    offline : bool, optional
        Refuse to download. ``FCNSEG_OFFLINE`` by default.
    base_url : str, optional
        Where files are downloaded from. ``FCNSEG_WEIGHTS_URL`` by default, or
        else PyTorch's server.

    Returns
    -------
    LoadReport
        What was loaded and what was not. Its ``record.normalization`` is what
        the weights expect of 8-bit RGB images: train and run with it.

    Raises
    ------
    ModelError
        If the network has no known backbone, nothing of the file fits, or
        the file cannot be had.
    ModelFileError
        If the file is damaged or holds more than tensors.
    UnknownModelError
        If no weights have that name.

    See Also
    --------
    napari_fcnseg.models.published.import_model : A whole published segmentation network.
    """
    own = _family(network)
    path, record = weights_file(own if weights == "imagenet" else weights, offline=offline, base_url=base_url)
    file = _backbone_part(read_state(path), record)
    _check_family(network, own, file, path)
    return transfer(network, file, _plan(network, file), path=path, record=record)


def _backbone_part(
    state: dict[str, torch.Tensor], record: PretrainedRecord | None
) -> dict[str, torch.Tensor]:
    """Return the entries of a file that stand for a backbone or classifier."""
    file = keymaps.with_prefixes(state)
    if keymaps.published_layout(file) == "torchvision":
        return {name.removeprefix("backbone."): v for name, v in file.items() if name.startswith("backbone.")}
    if record is not None and record.features_only:
        return {name: value for name, value in file.items() if not name.startswith("classifier.")}
    return file


def _ordered(network: nn.Module, method: str) -> list[str]:
    """Return the names of the layers that a network lists in its backbone's order."""
    names = {layer: name for name, layer in network.named_modules()}
    listed = getattr(network, method, None)
    return [names[layer] for layer in listed()] if listed else []


def _norms(network: nn.Module) -> dict[str, str]:
    """Return the name of the batch normalisation right behind a layer, by the layer's name."""
    leaves = [(name, layer) for name, layer in network.named_modules() if not list(layer.children())]
    return {
        before: name
        for (before, _), (name, layer) in itertools.pairwise(leaves)
        if isinstance(layer, BATCH_NORMS)
    }


def _family(network: nn.Module) -> str:
    state = network.state_dict()
    listed = [state[f"{name}.weight"].shape for name in _ordered(network, "encoder_convolutions")]
    found = keymaps.plain_family(listed) if listed else keymaps.family(state)
    if found is None:
        raise ModelError(
            f"{type(network).__name__} has no backbone for which weights are published; those with one are "
            "built on AlexNet, VGG16, GoogLeNet, ResNet-18, 34, 50, 101 and MobileNetV2."
        )
    return found


def _check_family(network: nn.Module, own: str, file: keymaps.State, path: Path) -> None:
    theirs = keymaps.family(file)
    normed = bool(_norms(network)) and bool(_ordered(network, "encoder_convolutions"))
    if theirs == own or (normed and theirs == f"{own}_bn"):
        return
    if theirs is None:
        raise ModelError(
            f"{path.name} holds no backbone with torchvision's names for {type(network).__name__} to take. "
            f"{_nearest(network, file)}"
        )
    raise ModelError(
        f"{path.name} holds {theirs}, but {type(network).__name__} is built on {own}; take weights={own!r}, "
        f"or build the network on {theirs}."
    )


def _plan(network: nn.Module, file: keymaps.State) -> dict[str, str]:
    convolutions = _ordered(network, "encoder_convolutions")
    if convolutions:
        dense = _ordered(network, "dense_convolutions")
        return keymaps.plan_by_order(convolutions, dense, _norms(network), file)
    return keymaps.plan_by_name(network.state_dict(), file)


@torch.no_grad()
def transfer(
    network: nn.Module,
    file: keymaps.State,
    plan: dict[str, str],
    *,
    path: Path,
    record: PretrainedRecord | None = None,
) -> LoadReport:
    """Copy what fits, and say what did not.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place.
    file : mapping of str to torch.Tensor
        What to copy from.
    plan : dict of str to str
        Name in the file by name in the network.
    path, record
        For the report.

    Raises
    ------
    ModelError
        If nothing fits; the network is as it was.
    """
    own = network.state_dict()
    plan = {target: source for target, source in plan.items() if target in own and source in file}
    values = {
        target: keymaps.fitted(file[source], own[target].shape, first=keymaps.is_first(source))
        for target, source in plan.items()
    }
    plan = keymaps.without_orphans(plan, [target for target, value in values.items() if value is None])
    if not any(own[target].ndim > 1 for target in plan):
        raise ModelError(
            f"no weight of {path.name} fits {type(network).__name__}. {_nearest(network, file)} The shapes "
            "of a narrower network (width=, head_channels=) or one in 1D or 3D are not those of the file."
        )
    for target in plan:
        own[target].copy_(values[target])
    return LoadReport(
        path=path,
        record=record,
        loaded=tuple(plan),
        adapted=tuple(t for t, s in plan.items() if own[t].shape != file[s].shape and keymaps.is_first(s)),
        fresh=tuple(name for name in own if name not in plan),
        unused=tuple(name for name in file if name not in set(plan.values())),
    )


def _nearest(network: nn.Module, file: keymaps.State) -> str:
    """Describe the first weights of a file beside the nearest names of the network."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    pairs = []
    for name in [name for name in file if name.endswith("weight")][:3]:
        near = nearest_name(name, own).removeprefix(" Did you mean ").rstrip("?")
        own_name = near.strip("'")
        beside = f"nearest is {own_name} {own[own_name]}" if near else "nothing is called like it"
        pairs.append(f"{name} {tuple(file[name].shape)}: {beside}")
    return f"Of the file: {'; '.join(pairs)}." if pairs else "The file has no weights."


def _layers(names: Iterable[str]) -> list[str]:
    """Return the layers that entries are of."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _listed(names: list[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
