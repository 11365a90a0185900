"""The networks, from checked parts; torch only, no input or output."""

from napari_fcnseg.networks.building import (
    NETWORKS,
    build_network,
    list_networks,
    network_config,
    network_from_config,
)
from napari_fcnseg.networks.field import Field, derive_field
from napari_fcnseg.networks.segmenter import NetworkSegmenter

__all__ = [
    "NETWORKS",
    "Field",
    "NetworkSegmenter",
    "build_network",
    "derive_field",
    "list_networks",
    "network_config",
    "network_from_config",
]
