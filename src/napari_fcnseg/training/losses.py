"""What the network is asked for, and how far it is from it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

BACKGROUND, INSIDE, BOUNDARY = 0, 1, 2


def object_classes(labels: torch.Tensor) -> torch.Tensor:
    """Return background, inside or boundary for each pixel.

    Parameters
    ----------
    labels : torch.Tensor, shape (n, y, x)
        Object numbers, float32, 0 background.

    Returns
    -------
    torch.Tensor of int64, shape (n, y, x)
        Boundary is an object's pixel with another object or background among
        its eight neighbours. Beyond the image counts as more of the same.
    """
    padded = F.pad(labels[:, None], (1, 1, 1, 1), mode="replicate")
    highest = F.max_pool2d(padded, 3, stride=1)[:, 0]
    lowest = -F.max_pool2d(-padded, 3, stride=1)[:, 0]
    classes = torch.where(highest == lowest, INSIDE, BOUNDARY)
    return torch.where(labels > 0, classes, BACKGROUND)


def object_loss(
    scores: torch.Tensor,
    labels: torch.Tensor,
    distance: torch.Tensor,
    *,
    class_weights: torch.Tensor,
    distance_weight: float,
) -> torch.Tensor:
    """Return cross-entropy of the three classes plus that of the distance.

    Parameters
    ----------
    scores : torch.Tensor, shape (n, 4, y, x)
        Logits of background, inside, boundary, and of the distance.
    labels, distance : torch.Tensor, shape (n, y, x)
        Object numbers and normalised distance in [0, 1].
    class_weights : torch.Tensor, shape (3,)
        Weight of each class in the cross-entropy.
    distance_weight : float
        Weight of the distance term.

    Returns
    -------
    torch.Tensor, shape ()
        Mean over pixels.
    """
    classes = F.cross_entropy(scores[:, :3], object_classes(labels), weight=class_weights)
    # Binary cross-entropy with a soft target keeps its gradient where the sigmoid is flat.
    depth = F.binary_cross_entropy_with_logits(scores[:, 3], distance.clamp(0, 1))
    return classes + distance_weight * depth
