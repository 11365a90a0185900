"""Compare a dense MobileNetV2 with the classifier that it was made of, on every window.

    python benchmarks/dense_conversion.py [--weights FILE] [--image-size 448]

The weights are ImageNet's. The image is scikit-image's `chelsea`, mirrored to
the size asked for. Printed are the largest difference of scores, as a fraction
of the largest score, and where the best class differs:

- for every window of the feature map: what is promised, 1e-5;
- for every crop of the image, 224 pixels wide: what zeros at the border of
  each crop change, as the dense form sees the image go on;
- for every crop as large as the receptive field, nothing padded: 1e-5 again;

and how much longer the sliding window takes. The exit status is 1 if a promise
is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.data import chelsea

from napari_fcnseg.models.pretrained import load_pretrained
from napari_fcnseg.networks.backbones import build_classifier
from napari_fcnseg.networks.dense_conversion import classify_windows, convolutionize, unpadded
from napari_fcnseg.networks.field import Walk

PROMISE = 1e-5
BESIDE = Path(__file__).resolve().parents[2] / "shared/weights/mobilenet_v2_imagenet_fp16.safetensors"


def image_tensor(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Return the image as the network wants it, shape (1, 3, size, size)."""
    image = chelsea()
    rows, columns = (
        np.pad(np.arange(n), (0, max(0, size - n)), mode="reflect")[:size] for n in image.shape[:2]
    )
    pixels = torch.from_numpy(image[rows][:, columns]).float().movedim(-1, 0) / 255
    return ((pixels - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1))[None]


def timed(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Return a result and the seconds it took."""
    start = time.perf_counter()
    return compute(), time.perf_counter() - start


def compare(title: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    """Print and return the largest difference relative to the largest score."""
    difference = float((found - expected).abs().max() / expected.abs().max())
    other = int((found.argmax(1) != expected.argmax(1)).sum())
    cells = expected[0, 0].numel()
    print(f"{title:<58} {difference:9.1e}   {other:3d} of {cells}")
    return difference


def map_windows(classifier: Any, image: torch.Tensor) -> torch.Tensor:
    """Return what the head of a classifier answers to each window of the map."""
    return classify_windows(
        classifier.classify, classifier.feature_map(image), size=classifier.window, stride=1
    )


@torch.inference_mode()
def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=BESIDE if BESIDE.exists() else "mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=448)
    options = parser.parse_args()
    classifier: Any = build_classifier("mobilenet_v2").eval()
    record = load_pretrained(classifier, options.weights).record
    mean, std = (record.mean, record.std) if record else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image = image_tensor(options.image_size, mean, std)
    dense = convolutionize(classifier)

    whole, dense_seconds = timed(lambda: dense(image))
    crops, crop_seconds = timed(lambda: classify_windows(classifier, image))
    bare = unpadded(dense)
    walk = Walk(bare, 2)
    field = walk.demand(0, (0, 1))[walk.input][1]
    large = image_tensor(field + 2 * 32, mean, std)

    title = f"dense MobileNetV2, {options.image_size} pixels, against"
    print(f"{title:<58} {'largest':>9}   best class differs")
    kept = [compare("the head on every window of the map", whole, map_windows(classifier, image))]
    compare("the classifier on every crop of 224 pixels", whole, crops)
    own = image[..., :224, :224]
    kept.append(
        compare("the classifier on an image of 224 pixels", dense(own), classifier(own)[..., None, None])
    )
    alone = classify_windows(lambda crop: bare(crop)[..., 0, 0], large, size=field, batch=1)
    kept.append(compare(f"itself on every crop of {field} pixels, nothing padded", bare(large), alone))
    print(f"{crops[0, 0].numel()} crops take {crop_seconds:.2f} s, the dense form {dense_seconds:.2f} s: "
          f"{crop_seconds / dense_seconds:.0f} times as long")  # fmt: skip
    return int(max(kept) > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
