"""Networks by name, and the plain data from which each can be rebuilt."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.checks import check_options, named_builder
from napari_fcnseg.networks.deconvnet import build_deconvnet
from napari_fcnseg.networks.dilated import build_dilated, build_dilated_frontend
from napari_fcnseg.networks.fcn import build_fcn8s, build_fcn8s_at_once, build_fcn16s, build_fcn32s
from napari_fcnseg.networks.fcn_resnet import build_fcn_resnet
from napari_fcnseg.networks.pspnet import build_pspnet
from napari_fcnseg.networks.unet import build_unet, build_unet_valid

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "deconvnet": build_deconvnet,
    "dilated": build_dilated,
    "dilated_frontend": build_dilated_frontend,
    "fcn16s": build_fcn16s,
    "fcn32s": build_fcn32s,
    "fcn8s": build_fcn8s,
    "fcn8s_at_once": build_fcn8s_at_once,
    "fcn_resnet": build_fcn_resnet,
    "pspnet": build_pspnet,
    "unet": build_unet,
    "unet_valid": build_unet_valid,
}
"""Builder of every network by name."""


def list_networks() -> list[str]:
    """Return the names of all networks that :func:`build_network` takes.

    Returns
    -------
    list of str
        In alphabetical order.

    Examples
    --------
    >>> "unet" in list_networks()
    True
    """
    return sorted(NETWORKS)


def build_network(name: str, *, in_channels: int, classes: int, ndim: int = 2, **options: Any) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    name : str
        One of :func:`list_networks`, such as ``"unet"``.
    in_channels : int
        Channels of the image.
    classes : int
        Maps of the output.
    ndim : int
        Number of spatial axes: 1, 2 or 3.
    **options
        What the builder of that network takes, such as ``depth=3``.

    Returns
    -------
    torch.nn.Module
        Its ``config`` attribute is plain data for :func:`network_from_config`.

    Raises
    ------
    NetworkError
        If the name or an option is not known, or a value is not possible.

    Examples
    --------
    >>> network = build_network("unet", in_channels=1, classes=3, base_channels=8)
    >>> network.config["options"]
    {'base_channels': 8}
    """
    builder = named_builder("network", name, NETWORKS)
    check_options(name, builder, options)
    network = builder(in_channels, classes, ndim=ndim, **options)
    network.config = {  # type: ignore[assignment]
        "network": name, "in_channels": in_channels, "classes": classes, "ndim": ndim,
        "options": copy.deepcopy(options),
    }  # fmt: skip
    return network


def network_config(network: nn.Module) -> dict[str, Any]:
    """Return the plain data that rebuilds a network made by :func:`build_network`.

    Raises
    ------
    NetworkError
        If the network was made in another way.
    """
    config = getattr(network, "config", None)
    if not isinstance(config, dict):
        raise NetworkError(
            f"{type(network).__name__} was not made by build_network, so nothing says how to rebuild it; "
            "use as_model for a bare module."
        )
    return copy.deepcopy(config)


def network_from_config(config: dict[str, Any]) -> nn.Module:
    """Rebuild a network, with fresh weights, from :func:`network_config`'s data.

    Raises
    ------
    NetworkError
        If something is missing, unknown or impossible.
    """
    wanted = {"network", "in_channels", "classes", "ndim", "options"}
    if set(config) != wanted:
        raise NetworkError(
            f"a network's config has the keys {sorted(wanted)}, but this one has {sorted(config)}."
        )
    # Before they are spread: a file may hold anything.
    check_options(config["network"], named_builder("network", config["network"], NETWORKS), config["options"])
    sizes = {name: config[name] for name in ("in_channels", "classes", "ndim")}
    return build_network(config["network"], **sizes, **config["options"])
