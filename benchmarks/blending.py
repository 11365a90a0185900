"""Print what blended windows cost, and what mirrored copies do, beside exact tiles of the same model.

    python benchmarks/blending.py [--model nuclei] [--rounds 3] [--threads 1]

The embedded model of nuclei runs over an image of 1212 x 1536 pixels, made of the
coins that scikit-image brings, mirrored side by side: in exact tiles of 512, then in
blended windows of 256 and 512, then in exact tiles on mirrored and turned copies.
The ways take turns; medians of the processor times are printed as a multiple of the
exact tiles', with the largest difference of a score from theirs as a fraction of the
largest score, and the share of class labels that differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import coins

from napari_fcnseg import load_model
from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg._shared.protocols import Segmenter
from napari_fcnseg.engine.augmented import AugmentedSegmenter
from napari_fcnseg.engine.blending import window_plan
from napari_fcnseg.engine.heads import Head, class_head
from napari_fcnseg.engine.layout import Layout
from napari_fcnseg.engine.predictor import Predictor
from napari_fcnseg.engine.source import Source
from napari_fcnseg.models import Model
from napari_fcnseg.preprocess.normalization import decide_transform

TILE = 512
Way = tuple[Segmenter, int, str | None]


def mosaic() -> NDArray[np.uint8]:
    """Return the coins four times by four, mirrored, so that no seam shows."""
    image: NDArray[np.uint8] = coins()  # type: ignore[no-untyped-call]
    pair = np.concatenate([image, image[:, ::-1]], 1)
    return np.tile(np.concatenate([pair, pair[::-1]], 0), (2, 2))


def ways(model: Model) -> dict[str, Way]:
    """Return segmenter, tile or window, and weight by name; the first is what the others are held to."""
    plain = model.segmenter
    found: dict[str, Way] = {f"exact tiles of {TILE}": (plain, TILE, None)}
    for window in (256, TILE):
        for blend in ("constant", "gaussian"):
            found[f"windows of {window}, {blend}"] = (plain, window, blend)
    for kind in ("flips", "full"):
        found[f"exact tiles of {TILE}, tta={kind}"] = (AugmentedSegmenter(plain, kind), TILE, None)
    return found


def run_of(
    model: Model, image: NDArray[np.uint8], way: Way
) -> tuple[Callable[[], NDArray[np.float32]], float]:
    """Return what computes the scores of the image, and how many pixels it reads for each."""
    segmenter, edge, blend = way
    transform = decide_transform(image.reshape(1, -1), model.record.normalization, segmenter.in_channels)
    source = Source.whole(image, Layout((), (0, 1)))
    predictor = Predictor(segmenter, transform, (edge, edge), blend=blend)
    plan = predictor.plan(source) if blend is None else window_plan(segmenter, image.shape, (edge, edge))
    box = tuple((0, n) for n in image.shape)
    return lambda: predictor.region(source, (), box, Head()), plan.redundancy


def main() -> int:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_allocator()
    model, image = load_model(options.model), mosaic()[:1212, :1536]
    runs = {name: run_of(model, image, way) for name, way in ways(model).items()}
    scores, seconds = {name: run() for name, (run, _) in runs.items()}, {name: list[float]() for name in runs}
    for _ in range(options.rounds):
        for name, (run, _) in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    first = next(iter(runs))
    exact, head = scores[first], class_head(model.record, None)
    labels = {name: head(torch.from_numpy(found)[None])[0, 0] for name, found in scores.items()}
    print(f"{model.record.id}, {' x '.join(map(str, image.shape))}, {options.threads} threads, float32,")
    print(f"medians of {options.rounds} rounds, torch {torch.__version__}")
    print(f"{'':<34}{'reads':>8}{'time':>8}{'difference':>12}{'labels':>10}")
    for name, times in seconds.items():
        ratio = statistics.median(times) / statistics.median(seconds[first])
        off = float(np.abs(scores[name] - exact).max() / np.abs(exact).max())
        changed = float((labels[name] != labels[first]).double().mean())
        print(f"{name:<34}{runs[name][1]:>7.2f}x{ratio:>7.2f}x{off:>12.2g}{100 * changed:>8.3f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
