"""Annotated images, prepared once: normalised renderings, labels, distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.preprocess.stains import haematoxylin, luminance, render


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    Attributes
    ----------
    name : str
        File name without its ending.
    kind : {"fluorescence", "histology", "brightfield"}
        What the image shows.
    renderings : tuple of torch.Tensor, shape (y, x)
        Normalised one-channel views of the image, float32; one is drawn each time.
    labels : torch.Tensor, shape (y, x)
        Object numbers as float32 (exact below 2**24), 0 background.
    distance : torch.Tensor, shape (y, x)
        Distance to the object's border, 1 at its deepest point, float32.
    """

    name: str
    kind: str
    renderings: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    distance: torch.Tensor

    @property
    def n_objects(self) -> int:
        """Number of annotated objects."""
        return int(torch.bincount(self.labels.flatten().long())[1:].count_nonzero())


def image_kind(image: NDArray[Any]) -> str:
    """Tell histology, brightfield and fluorescence apart, shape (y, x) or (y, x, 3)."""
    if image.ndim == 3:
        return "histology"
    return "brightfield" if np.median(image) > 110 else "fluorescence"


def normalised(values: NDArray[Any], low: float = 1.0, high: float = 99.8) -> NDArray[np.float32]:
    """Scale so that the percentiles `low` and `high` become 0 and 1."""
    bottom, top = np.percentile(values, (low, high))
    scaled: NDArray[Any] = (values - bottom) / max(top - bottom, 1e-6)
    return scaled.astype(np.float32)


def renderings(image: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Return every one-channel view of an 8-bit image that the network should know.

    A colour image is shown both by its haematoxylin and by its inverted
    luminance, so that either works when stains are unusual.
    """
    if image.ndim == 2:
        return [normalised(image)]
    channels = np.moveaxis(image[..., :3], -1, 0)
    rules = haematoxylin(255.0), luminance(inverted=True)
    return [normalised(render(channels, rule)) for rule in rules]


def object_distance(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the distance to each object's own border, divided by its greatest.

    The border of the image is not one: a cut object goes on beyond it.
    """
    out = np.zeros(labels.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        rim = [
            (int(part.start > 0), int(part.stop < length))
            for part, length in zip(box, labels.shape, strict=True)
        ]
        inside = np.pad(labels[box] == number, rim)
        # An object that fills the whole image has no border to be far from.
        depth = np.ones(inside.shape) if inside.all() else ndimage.distance_transform_edt(inside)
        inner = tuple(slice(before, depth.shape[i] - after) for i, (before, after) in enumerate(rim))
        out[box] += (depth / depth.max())[inner].astype(np.float32)
    return out


def load_sample(image_path: Path, label_path: Path) -> Sample:
    """Read one image and its object mask; raise if their sizes differ."""
    from skimage.io import imread

    image, labels = imread(image_path), imread(label_path).astype(np.int32)
    if image.shape[:2] != labels.shape:
        raise InputError(
            f"{image_path.name} is {image.shape[:2]} but its mask {label_path.name} is {labels.shape}; "
            "they must have the same height and width."
        )
    views = tuple(torch.from_numpy(view) for view in renderings(image))
    return Sample(
        name=image_path.stem,
        kind=image_kind(image),
        renderings=views,
        labels=torch.from_numpy(labels.astype(np.float32)),
        distance=torch.from_numpy(object_distance(labels)),
    )


def load_folder(folder: Path) -> list[Sample]:
    """Read ``folder/images`` with the masks of the same names in ``folder/labels``."""
    images = sorted((folder / "images").glob("*.png"))
    if not images:
        raise InputError(f"no PNG files in {folder / 'images'}; expected folders 'images' and 'labels'.")
    missing = [path.name for path in images if not (folder / "labels" / path.name).exists()]
    if missing:
        raise InputError(f"{len(missing)} images have no mask of the same name: {', '.join(missing[:5])}.")
    return [load_sample(path, folder / "labels" / path.name) for path in images]


def sampling_weights(samples: Sequence[Sample], kind_weights: dict[str, float]) -> torch.Tensor:
    """Return how often to draw each sample: by the root of its size, times its kind's weight."""
    weights = [s.labels.numel() ** 0.5 * kind_weights.get(s.kind, 1.0) for s in samples]
    shares: torch.Tensor = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return shares
