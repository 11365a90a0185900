"""Compare tiled with whole-image scores, for every network, size, tile and precision.

    python benchmarks/exactness.py [--quick]

The whole image is one plain forward pass of the network over the mirrored
image; the tiles go through the same code as `segment`. Printed are the largest
difference as a fraction of the largest absolute logit, and how many labels
differ where the two best scores are farther apart than twice the promise.
The promise is 1e-5 in float32, with one label in a million, and 2^-6 in
bfloat16; the exit status is 1 if any line breaks it. At the end stands what
blending costs networks that cannot be exact.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.source import Source
from napari_fcnseg.models import load_model
from napari_fcnseg.networks import NetworkSegmenter, build_network
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.tiling.padding import read_mirrored

PROMISE = {"float32": 1e-5, "bfloat16": 2.0**-6}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES_2D: list[tuple[str, dict[str, Any]]] = [
    *(("unet", {"depth": depth}) for depth in (1, 2, 3, 4)),
    ("unet", {"up": "nearest"}),
    ("unet", {"up": "linear"}),
    ("unet", {"norm": "none"}),
    ("unet_valid", {"base_channels": 16}),
    ("unet_valid", {"depth": 2, "base_channels": 16}),
    *((name, {"width": 1 / 8}) for name in ("fcn32s", "fcn16s", "fcn8s", "fcn8s_at_once")),
    ("fcn8s", {"width": 1 / 8, "padding": "pad100"}),
    ("fcn8s", {"width": 1 / 4, "backbone": "alexnet"}),
    ("fcn8s", {"width": 1 / 4, "backbone": "googlenet"}),
    ("fcn_resnet", {"width": 1 / 8}),
    ("fcn_resnet", {"width": 1 / 8, "backbone": "resnet50", "output_stride": 16}),
    ("deconvnet", {"width": 1 / 8}),
    ("dilated_frontend", {"width": 1 / 8}),
    ("dilated", {"width": 1 / 8}),
    ("dilated", {"width": 1 / 8, "variant": 10}),
    ("pspnet", {"width": 1 / 8, "pyramid": "fixed", "grid": (6, 3, 2, 1)}),
    ("pspnet", {"width": 1 / 8, "pyramid": None}),
]
CASES_3D: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"depth": 2, "base_channels": 8}),
    ("unet", {"depth": 3, "base_channels": 8, "up": "linear"}),
    ("unet_valid", {"depth": 1, "base_channels": 8}),
    ("fcn32s", {"width": 1 / 32}),
    ("dilated_frontend", {"width": 1 / 32, "padding": "zeros"}),
]
INEXACT: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"norm": "group"}),
    ("unet", {"norm": "instance"}),
    ("pspnet", {"width": 1 / 8}),
]

INEXACT_SHAPE, INEXACT_WINDOW = (1000, 1017), (512, 512)


@dataclass(frozen=True)
class Case:
    """A network with an image and a tile."""

    title: str
    segmenter: NetworkSegmenter
    shape: tuple[int, ...]
    tile: tuple[int, ...]


def random_network(name: str, ndim: int, options: dict[str, Any]) -> NetworkSegmenter:
    """Return a network with random weights, also where it starts from zero, and random running statistics."""
    torch.manual_seed(0)
    network = build_network(name, in_channels=1, classes=3, ndim=ndim, **options).eval()
    for weights in network.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return NetworkSegmenter(network, in_channels=1, out_channels=3, ndim=ndim)


def cases(quick: bool) -> Iterator[Case]:
    """Iterate over what is compared."""
    sizes_2d = [((301, 275), (64, 64)), ((301, 275), (112, 96)), ((37, 500), (16, 128)), ((5, 3), (16, 16))]
    sizes_3d = [((41, 50, 37), (16, 24, 16)), ((6, 33, 64), (8, 16, 32))]
    for name, options in CASES_2D:
        segmenter = random_network(name, 2, options)
        for shape, tile in sizes_2d[: 2 if quick else None]:
            yield Case(f"{name} {options}", segmenter, shape, tile)
    for name, options in CASES_3D:
        segmenter = random_network(name, 3, options)
        # bfloat16 in 3D is slow on a CPU, and these networks see far.
        sizes = sizes_3d if name.startswith("unet") else sizes_3d[1:]
        for shape, tile in sizes[: 1 if quick else None]:
            yield Case(f"{name} 3D {options}", segmenter, shape, tile)
    nuclei = load_model("nuclei").segmenter
    assert isinstance(nuclei, NetworkSegmenter)
    for shape, tile in [((1000, 1017), (256, 256)), ((1000, 1017), (512, 512))][: 1 if quick else None]:
        yield Case("nuclei@1", nuclei, shape, tile)


def texture(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a smooth random image with noise."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    smooth = gaussian_filter(noise, 3, mode="wrap")
    return (smooth / max(float(smooth.std()), 1e-6) + 0.3 * noise).astype(np.float32)


def compare(case: Case, precision: str) -> tuple[float, int, int]:
    """Return the relative difference, clear flips, and flips in all."""
    head = Head()
    segmenter = case.segmenter.on("cpu", DTYPES[precision])
    image = texture(case.shape)
    ndim = len(case.shape)
    source = Source.whole(image, Layout((), tuple(range(ndim))))
    predictor = Predictor(segmenter, PixelTransform(None, (0.0,), (1.0,)), tile_shape=case.tile)
    box = tuple((0, n) for n in case.shape)
    tiled = torch.from_numpy(predictor.region(source, (), box, head))
    padded = read_mirrored(lambda b: source.read((), b), predictor.plan(source).padded, case.shape)
    whole = segmenter.predict(torch.from_numpy(padded[None]))[0]
    whole = whole[(slice(None), *(slice(0, n) for n in case.shape))]
    largest = float(whole.abs().max())
    difference = float((tiled - whole).abs().max()) / largest
    best = whole.topk(2, dim=0).values
    clear = (best[0] - best[1]) > 2 * PROMISE[precision] * largest
    flips = tiled.argmax(0) != whole.argmax(0)
    return difference, int((flips & clear).sum()), int(flips.sum())


def inexact(name: str, options: dict[str, Any]) -> str:
    """Return how far blended windows are from the whole image, for a network that looks at all of it."""
    segmenter = random_network(name, 2, options)
    difference, _, flips = compare(Case(name, segmenter, INEXACT_SHAPE, INEXACT_WINDOW), "float32")
    share = 100 * flips / math.prod(INEXACT_SHAPE)
    return f"difference {difference:.2g} of the largest logit, {share:.1f} % of labels differ"


def main() -> int:
    """Print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    quick = parser.parse_args().quick
    worst = dict.fromkeys(PROMISE, 0.0)
    broken = 0
    print(
        f"{'network':52}{'image':>16}{'tile':>14}  {'precision':10}{'difference':>12}{'flips':>8}{'clear':>7}"
    )
    for case in cases(quick):
        for precision, promise in PROMISE.items():
            difference, clear, flips = compare(case, precision)
            worst[precision] = max(worst[precision], difference)
            allowed = math.prod(case.shape) / 1e6 if precision == "float32" else math.inf
            broken += difference > promise or clear > 0 or flips > max(allowed, 1)
            shape, tile = "x".join(map(str, case.shape)), "x".join(map(str, case.tile))
            print(f"{case.title:52}{shape:>16}{tile:>14}  {precision:10}{difference:12.2e}{flips:8}{clear:7}")
    for precision, promise in PROMISE.items():
        print(f"largest difference in {precision}: {worst[precision]:.2e} (promise {promise:.2e})")
    print()
    for name, options in INEXACT:
        print(f"not exact, blended windows: {name} {options}: {inexact(name, options)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
