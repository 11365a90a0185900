"""Random views of a sample: geometry shared by image and labels, then intensity.

Every draw comes from one ``torch.Generator``, so a seed fixes the views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from napari_fcnseg.training.samples import Sample


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes.

    Attributes
    ----------
    scale : (float, float)
        Magnification, drawn uniformly in its logarithm.
    elastic_sigma : float
        Standard deviation in pixels of the displacements on a coarse grid,
        interpolated bicubically (U-Net, section 3.1).
    elastic_grid : int
        Points of that grid along each axis.
    gamma, contrast : (float, float)
        Exponent and factor, uniform in the logarithm.
    brightness : float
        Largest offset, as a fraction of the normalised range.
    noise, blur : float
        Largest standard deviations: of the noise in normalised units, of the
        Gaussian blur in pixels.
    invert : float
        Probability of exchanging dark and bright.
    """

    scale: tuple[float, float] = (0.6, 1.7)
    elastic_sigma: float = 6.0
    elastic_grid: int = 4
    gamma: tuple[float, float] = (0.6, 1.6)
    contrast: tuple[float, float] = (0.6, 1.5)
    brightness: float = 0.15
    noise: float = 0.12
    blur: float = 1.5
    invert: float = 0.15


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw one number between `low` and `high`."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw one number between `low` and `high`, uniform in its logarithm."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def chance(generator: torch.Generator, probability: float) -> bool:
    """Return True with the given probability."""
    return float(torch.rand((), generator=generator)) < probability


def displacement(generator: torch.Generator, size: int, sigma: float, grid: int) -> torch.Tensor:
    """Return a smooth random displacement in pixels, shape (size, size, 2)."""
    coarse = torch.randn((1, 2, grid, grid), generator=generator) * sigma
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)


def sampling_points(
    shape: tuple[int, int], size: int, generator: torch.Generator, options: Augmentation
) -> torch.Tensor:
    """Return where a random view of `size` pixels looks in an image, shape (size, size, 2), (x, y) pixels."""
    scale = log_uniform(generator, *options.scale)
    angle = uniform(generator, 0, 2 * math.pi)
    axis = (torch.arange(size) - (size - 1) / 2) / scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if chance(generator, 0.5):
        x = -x
    cos, sin = math.cos(angle), math.sin(angle)
    points = torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
    if chance(generator, 0.5):
        points = points + displacement(generator, size, options.elastic_sigma, options.elastic_grid)
    # Keep the view inside where the image is larger than it, else centre it.
    for i, length in enumerate(shape[::-1]):
        slack = max(length - size / scale, 0) / 2
        points[..., i] += (length - 1) / 2 + uniform(generator, -slack, slack)
    return points


def look(maps: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Sample maps (c, y, x) at pixel positions, mirroring beyond the border."""
    height, width = maps.shape[-2:]
    scale = torch.tensor([2 / max(width, 1), 2 / max(height, 1)])
    grid = (points + 0.5) * scale - 1
    out = F.grid_sample(maps[None], grid[None], mode=mode, padding_mode="reflection", align_corners=False)
    return out[0]


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return a Gaussian blur of an image (y, x)."""
    radius = max(1, math.ceil(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(image[None, None], (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])[0, 0]


def intensity(image: torch.Tensor, generator: torch.Generator, options: Augmentation) -> torch.Tensor:
    """Change gamma, contrast, brightness, shading, blur, noise and polarity of an image (y, x)."""
    if chance(generator, 0.5):
        gamma = log_uniform(generator, *options.gamma)
        image = image.sign() * image.abs().clamp_min(1e-6) ** gamma
    if chance(generator, 0.2):
        shade = displacement(generator, image.shape[-1], 0.25, 3)[..., 0]
        image = image * (1 + shade.clamp(-0.6, 0.6))
    if chance(generator, 0.5):
        image = image * log_uniform(generator, *options.contrast)
        image = image + uniform(generator, -options.brightness, options.brightness)
    if chance(generator, 0.2):
        image = blurred(image, uniform(generator, 0.3, options.blur))
    if chance(generator, 0.4):
        noise = torch.randn(image.shape, generator=generator)
        image = image + noise * uniform(generator, 0, options.noise)
    return 1 - image if chance(generator, options.invert) else image


def random_view(
    sample: Sample, size: int, generator: torch.Generator, options: Augmentation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return image, labels and distance of one random view.

    Parameters
    ----------
    sample : Sample
        The annotated image.
    size : int
        Height and width of the view in pixels.
    generator : torch.Generator
        Source of every random choice.
    options : Augmentation
        Ranges of the changes.

    Returns
    -------
    image, labels, distance : torch.Tensor, shape (size, size), float32
        All three looked up at the same points; labels by nearest neighbour.
    """
    choice = int(torch.randint(len(sample.renderings), (), generator=generator))
    points = sampling_points(tuple(sample.labels.shape), size, generator, options)  # type: ignore[arg-type]
    smooth = look(torch.stack([sample.renderings[choice], sample.distance]), points, "bilinear")
    labels = look(sample.labels[None], points, "nearest")[0]
    return intensity(smooth[0], generator, options), labels, smooth[1]


def random_batch(
    samples: list[Sample],
    weights: torch.Tensor,
    *,
    batch_size: int,
    size: int,
    generator: torch.Generator,
    options: Augmentation,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a batch of views: images (n, 1, y, x), labels and distances (n, y, x)."""
    chosen = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
    views = [random_view(samples[int(i)], size, generator, options) for i in chosen]
    images, labels, distances = (torch.stack(part) for part in zip(*views, strict=True))
    return images[:, None], labels, distances
