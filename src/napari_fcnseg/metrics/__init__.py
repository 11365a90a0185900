"""How good is a segmentation: scores per pixel class and per object.

``confusion`` counts pixels, ``objects`` counts objects. Both keep counts
over a data set and divide at the end, so that parts add up to the whole.
"""

from __future__ import annotations

from .confusion import ConfusionMatrix
from .objects import ObjectScores, average_precision, match_objects, object_scores

__all__ = [
    "ConfusionMatrix",
    "ObjectScores",
    "average_precision",
    "match_objects",
    "object_scores",
]
