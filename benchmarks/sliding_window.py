"""Compare a classifier at every pixel with the dense networks that give the same scores.

    python benchmarks/sliding_window.py [--size 96] [--rounds 3] [--threads 2]

One classifier of patches of 50 pixels, which pads nothing and pools twice
(stride 4), in the four ways that the package has:

- the sliding window: each of the patches by itself;
- its dense conversion: one pass, scores at every fourth pixel;
- shift-and-stitch: sixteen such passes, scores at every pixel;
- the a-trous form: one pass without strides, scores at every pixel.

The methods take turns, and medians are printed, with the largest difference
from the sliding window's scores as a fraction of the largest score. The exit
status is 1 if one differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from napari_fcnseg.classical.sliding_window import SlidingWindow
from napari_fcnseg.networks.backbones.base import Classifier, Stack
from napari_fcnseg.networks.dense_conversion import as_convolution, convolutionize
from napari_fcnseg.networks.striding import atrous, shift_and_stitch

PATCH, STRIDE, CLASSES, PROMISE = 50, 4, 3, 1e-5


class PatchClassifier(Classifier, Stack):
    """Sees 50 by 50 pixels as 11 by 11 cells, which its linear layer takes all."""

    window = bins = 11

    def __init__(self) -> None:
        layers = [
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        ]  # fmt: skip
        super().__init__(layers, taps=[5], channels=[32])
        self.classifier = nn.Linear(32 * self.bins**2, CLASSES)


def ways(classifier: PatchClassifier) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the methods by name; the first is what the others are compared with."""
    window = SlidingWindow(classifier, (PATCH, PATCH), in_channels=1, classes=CLASSES, batch_size=256)
    dense = convolutionize(classifier)
    head = as_convolution(classifier.classifier, classifier.bins, 2)
    spread = atrous(nn.Sequential(classifier.features, head))
    return {
        "sliding window": window.predict,
        "dense conversion, stride 4": dense,
        "shift-and-stitch": lambda x: shift_and_stitch(dense, x, STRIDE),
        "a-trous": spread,
    }


def difference(scores: torch.Tensor, every: torch.Tensor) -> float:
    """Return how far scores at some or all pixels are from those at every pixel."""
    step = 1 if scores.shape == every.shape else STRIDE
    return float((scores - every[..., ::step, ::step]).abs().max() / every.abs().max())


@torch.inference_mode()
def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=96, help="scores along each axis")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    methods = ways(PatchClassifier().eval())
    image = torch.randn(1, 1, *(options.size + PATCH - 1,) * 2)
    scores, seconds = {}, {name: list[float]() for name in methods}
    for _ in range(options.rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            scores[name] = method(image)
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(methods))
    slowest = statistics.median(seconds[first])
    print(
        f"{options.size} x {options.size} scores of patches of {PATCH} x {PATCH}, {options.threads} threads,"
    )
    print(f"medians of {options.rounds} rounds, torch {torch.__version__}")
    print(f"{'':<28}{'scores':>8}{'time':>12}{'faster':>9}{'difference':>12}")
    for name, times in seconds.items():
        median, off = statistics.median(times), difference(scores[name], scores[first])
        count = scores[name][0, 0].numel()
        print(f"{name:<28}{count:>8}{1e3 * median:>9.1f} ms{slowest / median:>8.0f}x{off:>12.1e}")
    return int(max(difference(found, scores[first]) for found in scores.values()) > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
