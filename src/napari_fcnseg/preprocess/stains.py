"""Turn colour pixels into the one intensity a network looks at.

References
----------
.. [1] A. C. Ruifrok, D. A. Johnston, "Quantification of histochemical staining
       by color deconvolution", Anal. Quant. Cytol. Histol. 23:291-299, 2001.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Optical densities of haematoxylin, eosin and DAB per colour channel [1]_.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_LUMINANCE = (0.2125, 0.7154, 0.0721)
# One grey level of an 8-bit image: darker than this is not told apart from black.
DARKEST = 1 / 255

Space = Literal["intensity", "optical_density"]


@dataclass(frozen=True)
class Rendering:
    """A frozen rule that makes one channel out of several, pixel by pixel.

    Parameters
    ----------
    name : str
        What the rule is called in messages and records.
    space : {"intensity", "optical_density"}
        Whether `weights` multiply the channels or minus the logarithm of the
        channels divided by `white`.
    weights : tuple of float
        One weight for each channel.
    white : float
        Value of an unstained pixel; only used in optical density.
    """

    name: str
    space: Space
    weights: tuple[float, ...]
    white: float = 1.0


def luminance(*, inverted: bool = False) -> Rendering:
    """Return the weights of perceived brightness (Rec. 709), negated if `inverted`."""
    sign = -1.0 if inverted else 1.0
    name = "inverted luminance" if inverted else "luminance"
    return Rendering(name, "intensity", tuple(sign * w for w in _LUMINANCE))


def haematoxylin(white: float) -> Rendering:
    """Return the rule that measures the amount of haematoxylin.

    Parameters
    ----------
    white : float
        Value of an unstained pixel, such as 255 for 8-bit images.

    Returns
    -------
    Rendering
        In optical density, zero where there is none.
    """
    unmix = np.linalg.inv(_STAINS)[:, 0]
    return Rendering("haematoxylin", "optical_density", tuple(float(w) for w in unmix), float(white))


def haematoxylin_dab(white: float) -> Rendering:
    """Return the rule that measures haematoxylin beside DAB, where there is no eosin.

    Two stains are told apart with less noise than three.

    Parameters
    ----------
    white : float
        Value of an unstained pixel.
    """
    unmix = np.linalg.pinv(_STAINS[[0, 2]])[:, 0]
    return Rendering("haematoxylin-dab", "optical_density", tuple(float(w) for w in unmix), float(white))


def nuclear_stain(white: float) -> Rendering:
    """Return the rule for sections without a brown stain: half haematoxylin, half luminance.

    Both in optical density, each with weights that add up to 1. Haematoxylin
    alone is noisy where stains are weak or unusual; luminance alone takes
    eosin for nuclei.

    Parameters
    ----------
    white : float
        Value of an unstained pixel.
    """
    stain = np.asarray(haematoxylin(white).weights)
    weights = (stain / stain.sum() + np.asarray(_LUMINANCE)) / 2
    return Rendering("nuclear stain", "optical_density", tuple(float(w) for w in weights), float(white))


def blue_share(channels: NDArray[Any], white: float) -> float:
    """Return how much of the optical density of red, green and blue together is blue's.

    Parameters
    ----------
    channels : ndarray, shape (3, ...)
        Pixels.
    white : float
        Value of an unstained pixel.

    Returns
    -------
    float
        0.18 for haematoxylin, 0.09 for eosin, 0.48 for DAB, 1/3 where nothing is stained.
    """
    negative = np.log(np.clip(channels.reshape(3, -1) / white, DARKEST, 1)).sum(axis=1)
    total = float(negative.sum())
    return float(negative[2]) / total if total < 0 else 1 / 3


def render(channels: NDArray[Any], rendering: Rendering) -> NDArray[np.float32]:
    """Apply a rendering to an array whose first axis are the channels.

    Parameters
    ----------
    channels : ndarray, shape (c, ...)
        Integer or float pixels.
    rendering : Rendering
        Rule with ``c`` weights.

    Returns
    -------
    ndarray of float32, shape (...)
        Stain amounts are not negative; luminance has the range of the image.
    """
    weights = np.asarray(rendering.weights, np.float32)
    values = channels.astype(np.float32)
    if rendering.space == "optical_density":
        values = -np.log(np.maximum(values / np.float32(rendering.white), np.float32(DARKEST)))
        return np.maximum(np.tensordot(weights, values, axes=1), np.float32(0))
    return np.tensordot(weights, values, axes=1).astype(np.float32)
