"""Whole segmentation networks that others trained, as models of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from napari_fcnseg._shared.errors import ModelError
from napari_fcnseg.models.files import file_sha256
from napari_fcnseg.models.model import Model, make_model
from napari_fcnseg.models.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRETRAINED,
    PretrainedRecord,
    transfer,
    weights_file,
)
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.models.weight_files import read_state
from napari_fcnseg.networks import build_network, keymaps, network_config
from napari_fcnseg.preprocess.normalization import Normalization

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of PASCAL VOC besides the background, 1 to 20."""

CAFFE_MEAN = (122.67892, 116.66877, 104.00699)
"""Mean of red, green and blue that the FCN authors subtracted."""


@dataclass(frozen=True)
class Layout:
    """What a card says of all files of one layout.

    Attributes
    ----------
    title : str
        Of the network.
    mean, std : tuple of float
        Subtracted and divided by; red, green, blue, 0 to 255.
    published_input : str
        What the file expected.
    citation : str
        BibTeX.
    """

    title: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    published_input: str
    citation: str


_MEAN, _STD = (tuple(round(255 * value, 6) for value in numbers) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
_FCN = (
    "@inproceedings{long2015fcn, author={Long, Jonathan and Shelhamer, Evan and Darrell, Trevor}, "
    "title={Fully Convolutional Networks for Semantic Segmentation}, booktitle={CVPR}, year={2015}}"
)
_PSP = (
    "@inproceedings{zhao2017pspnet, author={Zhao, Hengshuang and Shi, Jianping and Qi, Xiaojuan and Wang, "
    "Xiaogang and Jia, Jiaya}, title={Pyramid Scene Parsing Network}, booktitle={CVPR}, year={2017}}"
)
LAYOUTS = {
    "torchvision": Layout(
        "FCN on a dilated ResNet, from torchvision", _MEAN, _STD,
        f"RGB, 0 to 1, minus {IMAGENET_MEAN}, over {IMAGENET_STD}", _FCN,
    ),
    "caffe": Layout(
        "FCN on VGG16, from the authors' Caffe model", CAFFE_MEAN, (1.0, 1.0, 1.0),
        f"BGR, 0 to 255, minus {CAFFE_MEAN[::-1]}; the first convolution was turned round to take RGB", _FCN,
    ),
    "semseg": Layout(
        "PSPNet, from the authors' PyTorch code", _MEAN, _STD,
        f"RGB, 0 to 255, minus {_MEAN}, over {_STD}", _PSP,
    ),
}  # fmt: skip


def import_model(
    weights: str | Path,
    *,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    at_once: bool = False,
    offline: bool | None = None,
    base_url: str | None = None,
) -> Model:
    """Make a model of a published segmentation network.

    The layout is told by the names in the file: torchvision's ``fcn_resnet50``
    and ``fcn_resnet101``; FCN-32s, 16s and 8s on VGG16 with Caffe's layer names
    (as wkentaro/pytorch-fcn stores them); PSPNet of hszhao/semseg. Every
    entry of the file must find its place.

    Parameters
    ----------
    weights : str or Path
        ``"fcn_resnet50_coco"``, ``"fcn_resnet101_coco"``, or the path of a file.
    classes : sequence of str, optional
        Names of the classes besides the background, which is map 0. PASCAL
        VOC's by default where there are 20, else numbers.
    name : str, optional
        What records call the model; the file's name by default.
    at_once : bool
        The file is an FCN-8s trained at once, whose pooled maps are scaled
        before they are scored; its names do not tell.
    offline, base_url
        See :func:`~napari_fcnseg.models.weight_files.get_file`.

    Returns
    -------
    Model
        For RGB images with values from 0 to 255; its card has the mean and
        deviation to normalise by. Keep it with ``save_model``.

    Raises
    ------
    ModelError
        If the file is of no known layout or has entries without a place, or
        cannot be had.
    ModelFileError, UnknownModelError
        As :func:`~napari_fcnseg.models.pretrained.load_pretrained`.

    Notes
    -----
    A network for blue, green, red is turned to red, green, blue by its first
    convolution, so that images are given as always. The results are the same.
    """
    _check_name(weights)
    path, published = weights_file(weights, offline=offline, base_url=base_url)
    file = keymaps.with_prefixes(read_state(path))
    layout = keymaps.published_layout(file)
    if layout is None:
        raise ModelError(_unknown(path))
    network = _filled(layout, keymaps.for_rgb(layout, file), path, at_once=at_once)
    config = network_config(network)
    record = ModelRecord(
        **_names(name or path.stem, LAYOUTS[layout], published),
        network=config,
        inputs=("red", "green", "blue"),
        **_outputs(_class_names(classes, config["classes"], path)),
        normalization=Normalization("fixed", offset=LAYOUTS[layout].mean, scale=LAYOUTS[layout].std),
        tile_shape=_window(layout, config["classes"]),
        training={
            "imported_from": path.name,
            "sha256_of_file": file_sha256(path),
            "published_input": LAYOUTS[layout].published_input,
        },
    )
    return make_model(record, network, copyable=False)


def _check_name(weights: str | Path) -> None:
    """Refuse a published backbone before it is downloaded."""
    record = PRETRAINED.get(weights) if isinstance(weights, str) else None
    if record is not None and record.layout != "fcn":
        whole = ", ".join(repr(name) for name, known in PRETRAINED.items() if known.layout == "fcn")
        raise ModelError(
            f"{record.name!r} is no whole network that can be imported, as {whole} are; its backbone goes "
            "into a network by load_pretrained."
        )


def _unknown(path: Path) -> str:
    return (
        f"{path.name} is of no known layout: known are torchvision's fcn_resnet (backbone.conv1...), FCN on "
        "VGG16 with Caffe's names (conv1_1, fc6, score_fr...) and semseg's PSPNet (layer0.0, cls.4...). A "
        "backbone alone goes into a network by load_pretrained."
    )


def _filled(layout: str, file: keymaps.State, path: Path, *, at_once: bool) -> nn.Module:
    """Return the network that a file is of, with its weights."""
    network_name, count, options = keymaps.published_network(layout, file)
    if at_once and network_name != "fcn8s":
        raise ModelError(
            f"at_once=True is for an FCN-8s, but {path.name} is of {network_name}; leave it out."
        )
    network = build_network(network_name + "_at_once" * at_once, in_channels=3, classes=count, **options)
    report = transfer(network, file, keymaps.plan_published(layout, file), path=path)
    if report.fresh or report.unused:
        raise ModelError(f"{path.name} does not fit {network_name} entry by entry. {report}")
    return network.eval()


def _names(name: str, layout: Layout, published: PretrainedRecord | None) -> dict[str, Any]:
    licences = {"licence": "not stated by the file; see its publisher"}
    if published is not None:
        licences = {"licence": published.licence, "data_licence": published.data_licence}
    return {
        "name": re.sub(r"[^A-Za-z0-9_.-]", "-", name),
        "version": 1,
        "title": layout.title,
        "description": "Published weights, imported. For colour images with values from 0 to 255.",
        "weaknesses": ("images of another range than 0 to 255 must be brought to it first",),
        "citation": layout.citation,
        **licences,
    }


def _class_names(classes: Sequence[str] | None, maps: int, path: Path) -> list[str]:
    if classes is None:
        known = maps == 1 + len(VOC_CLASSES)
        return list(VOC_CLASSES) if known else [f"class {i}" for i in range(1, maps)]
    if isinstance(classes, str) or len(classes) != maps - 1:
        raise ModelError(
            f"{path.name} has {maps} maps, so {maps - 1} classes besides the background, but "
            f"classes={classes!r}."
        )
    return list(classes)


def _outputs(names: Sequence[str]) -> dict[str, Any]:
    listed = tuple(ModelClass(i, name, voc_colour(i)) for i, name in enumerate(names, start=1))
    return {
        "classes": listed,
        "outputs": (OutputMap("background", value=0), *(OutputMap(c.name, value=c.value) for c in listed)),
    }


def voc_colour(value: int) -> str:
    """Return PASCAL VOC's colour of a label value.

    The bits of the value are dealt out in turn to red, green and blue, from
    their highest bit down.

    Examples
    --------
    >>> voc_colour(1), voc_colour(15)
    ('#800000', '#c08080')
    """
    shades = [0, 0, 0]
    for i in range(24):
        shades[i % 3] |= (value >> i & 1) << (7 - i // 3)
    return "#{:02x}{:02x}{:02x}".format(*shades)


def _window(layout: str, maps: int) -> tuple[int, int] | None:
    """Return the size that a PSPNet was trained on: 713 for Cityscapes, 473 for the others."""
    if layout != "semseg":
        return None
    return (713, 713) if maps == 19 else (473, 473)
