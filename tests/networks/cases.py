"""The option sets with which every network of the registry is tested.

`SMALL` is the default run; `MORE` joins it in ``tox -e contract``. All are at
reduced width. A network of the registry without an entry fails the contract.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from napari_fcnseg.networks import NETWORKS

Options = dict[str, Any]
Case = tuple[str, int, Options]

SMALL: dict[str, list[Options]] = {
    "deconvnet": [{"depth": 2, "width": 1 / 8, "head_channels": 16, "fc_size": 3}],
    "dilated": [{"width": 1 / 16, "head_channels": 16, "sigma": 0.3, "variant": 7}],
    "dilated_frontend": [{"width": 1 / 16, "head_channels": 16}],
    "fcn16s": [{"backbone": "alexnet", "form": "caffe", "width": 1 / 16, "head_channels": 16}],
    "fcn32s": [{"width": 1 / 16, "head_channels": 16}],
    "fcn8s": [{"width": 1 / 16, "head_channels": 16, "padding": "pad100", "upsampling": "learned"}],
    "fcn8s_at_once": [{"backbone": "googlenet", "width": 1 / 16}],
    "fcn_resnet": [{"backbone": "resnet18", "width": 1 / 16}],
    "pspnet": [
        {"backbone": "resnet18", "width": 1 / 16, "pyramid": "fixed", "grid": (4, 2, 2, 1)},
        {"backbone": "resnet18", "width": 1 / 16},
    ],
    "unet": [{"depth": 2, "base_channels": 2}],
    "unet_valid": [{"depth": 2, "base_channels": 2}],
}

MORE: dict[str, list[Options]] = {
    "deconvnet": [
        {"depth": 2, "width": 1 / 8, "unpooling": "segnet"},
        {"depth": 1, "width": 1 / 8, "head_channels": 8, "fc_size": 2, "norm": "none"},
        {"depth": 3, "width": 1 / 8, "head_channels": 16, "fc_size": 1},
    ],
    "dilated": [
        {"width": 1 / 16, "head_channels": 16, "sigma": 0.3, "padding": "zeros"},
        {"width": 1 / 16, "head_channels": 16, "context": "large", "context_padding": "input"},
        {"width": 1 / 16, "head_channels": 16, "sigma": 0.3, "variant": 10, "padding": "zeros"},
        {"width": 1 / 16, "head_channels": 16, "context": None},
    ],
    "dilated_frontend": [{"width": 1 / 16, "head_channels": 16, "padding": "zeros"}],
    "fcn16s": [
        {
            "backbone": "alexnet",
            "width": 1 / 16,
            "head_channels": 16,
            "upsampling": "channelwise",
            "streams": (1, 1),
        },
    ],
    "fcn32s": [
        {"backbone": "vgg16_bn", "width": 1 / 16, "head_channels": 16, "padding": "pad100"},
        {"backbone": "alexnet", "width": 1 / 16, "head_channels": 16, "padding": "pad100", "pool": "mean"},
        {"backbone": "googlenet", "form": "caffe", "width": 1 / 4, "upsampling": "learned"},
    ],
    "fcn8s": [
        {"width": 1 / 16, "head_channels": 16},
        {"width": 1 / 16, "head_channels": 16, "pool": "mean", "padding": "pad100", "dropout": 0.0},
        {"backbone": "alexnet", "width": 1 / 16, "head_channels": 16, "upsampling": "learned"},
        {"backbone": "googlenet", "form": "caffe", "width": 1 / 4},
    ],
    "fcn8s_at_once": [
        {"width": 1 / 16, "head_channels": 16, "padding": "pad100"},
        {"width": 1 / 16, "head_channels": 16, "upsampling": "last_fixed", "streams": (1, 1)},
    ],
    "fcn_resnet": [
        {"backbone": "resnet18", "width": 1 / 16, "output_stride": 16},
        {"backbone": "resnet34", "width": 1 / 32, "output_stride": 32},
        {"backbone": "resnet50", "width": 1 / 16, "head": "fcn"},
        {"backbone": "resnet101", "width": 1 / 32},
    ],
    "pspnet": [
        {"backbone": "resnet50", "width": 1 / 16, "pyramid": None, "stem": "plain"},
        {"backbone": "resnet50", "width": 1 / 16, "order": "caffe", "strided": "1x1"},
        {"backbone": "mobilenet_v2", "width": 1 / 4, "pyramid": None},
        {"backbone": "resnet34", "width": 1 / 16, "pyramid": "fixed", "grid": (3, 2, 1, 1), "order": "smp"},
        {"backbone": "resnet101", "width": 1 / 32, "pyramid": None},
    ],
    "unet": [
        {"depth": 1, "base_channels": 2, "up": "linear", "norm": "none"},
        {"depth": 3, "base_channels": 2, "up": "nearest", "dropout": 0.3},
        {"depth": 2, "base_channels": 2, "norm": "group"},
        {"depth": 2, "base_channels": 2, "norm": "instance"},
    ],
    "unet_valid": [{"depth": 1, "base_channels": 2}],
}

NDIMS: dict[str, tuple[int, ...]] = {
    "deconvnet": (1, 2, 3),
    "dilated": (1, 2, 3),
    "dilated_frontend": (1, 2, 3),
    "fcn16s": (1, 2, 3),
    "fcn32s": (1, 2, 3),
    "fcn8s": (1, 2, 3),
    "fcn8s_at_once": (1, 2, 3),
    "fcn_resnet": (1, 2, 3),
    "pspnet": (1, 2),
    "unet": (1, 2, 3),
    "unet_valid": (1, 2, 3),
}
"""Numbers of spatial axes that a network takes; the last is the dearest to test."""

DEFAULT_NDIMS: dict[str, tuple[int, ...]] = {
    "deconvnet": (2,),
    "fcn16s": (2,),
    "fcn32s": (2,),
    "fcn8s": (2,),
    "fcn8s_at_once": (2,),
    "fcn_resnet": (2,),
    "pspnet": (2,),
}
"""Fewer numbers of axes for the default run, where the tests of all would take long."""


def is_exact(case: Case) -> bool:
    """Tell whether a network is meant to be exact in tiles; the contract checks that it says so."""
    name, _, options = case
    if name == "pspnet" and options.get("pyramid", "paper") == "paper":
        return False
    return options.get("norm") not in ("group", "instance")


def is_progressive(case: Case) -> bool:
    """Tell whether a network is meant to compute only the box asked for."""
    # Switches of an unpooling name places in the whole map, not in a box of it.
    return is_exact(case) and case[0] != "deconvnet"


def is_affordable(case: Case) -> bool:
    """Tell whether a case can be tested: unpadded, 3D images are mirrored to 388 pixels along each axis."""
    name, ndim, options = case
    if ndim == 3 and options.get("padding") == "pad100":
        return False  # 100 zeros on each side make a volume of 264 voxels cubed of the smallest
    if ndim < 3 or not name.startswith("dilated"):
        return True
    return options.get("padding") == "zeros" and options.get("variant") != 10  # whose halo is 1,232 pixels


EVERYTHING = bool(os.environ.get("FCNSEG_CONTRACT_ALL"))
"""Whether this is the long run, ``tox -e contract``."""


def _cases() -> list[Case]:
    found = []
    for name in NETWORKS:
        options = SMALL[name] + (MORE.get(name, []) if EVERYTHING else [])
        ndims = NDIMS[name] if EVERYTHING else DEFAULT_NDIMS.get(name, NDIMS[name])
        found += [(name, ndim, chosen) for ndim, chosen in itertools.product(ndims, options)]
    return [case for case in found if is_affordable(case)]


CASES = _cases()
EXACT = [case for case in CASES if is_exact(case)]


def named(case: Case) -> str:
    """Return the name under which pytest shows a case."""
    options = "-".join(str(value) for value in case[2].values())
    return f"{case[0]}-{case[1]}d-{options}"
