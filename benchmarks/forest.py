"""Compare the forests with scikit-image's TrainableSegmenter, from 1 % scribbles.

    python benchmarks/forest.py [--images 4] [--side 2048] [--seed 0]

For each image of `../shared/data/sandstone_uct` (four classes) and
`../shared/data/cells_phase` (cell or not) strokes are drawn from the truth until
1 % of its pixels are marked; each method learns from these alone, and is
judged on all other pixels of the image that have a truth. The methods are
timed one after the other on the same image, in seconds that pass and in
seconds of all processors together (which a busy machine changes less); then
once more on a square image of `side` pixels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from skimage.future import TrainableSegmenter

from napari_fcnseg import segment
from napari_fcnseg.training.forests import train_forest, train_texton_forest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STROKE = 60
SHARE = 0.01
Labels = NDArray[Any]


def sandstone(limit: int) -> Iterator[tuple[Labels, Labels]]:
    """Yield images and their four classes, 1 to 4."""
    colours = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 0))
    for path in sorted((DATA / "sandstone_uct" / "images").glob("*.tif"))[:limit]:
        painted = tifffile.imread(DATA / "sandstone_uct" / "labels" / path.name)
        truth = sum((painted == colour).all(-1) * np.uint8(i) for i, colour in enumerate(colours, 1))
        yield tifffile.imread(path), np.asarray(truth)


def cells(limit: int) -> Iterator[tuple[Labels, Labels]]:
    """Yield images, and where there is background (1) or a cell (2)."""
    for path in sorted((DATA / "cells_phase" / "images").glob("*.tif"))[:limit]:
        masks = tifffile.imread(DATA / "cells_phase" / "labels" / path.name)
        yield tifffile.imread(path), 1 + (masks > 0).astype(np.uint8)


def scribbles(truth: Labels, rng: np.random.Generator) -> Labels:
    """Return strokes of one class each that mark 1 % of the pixels, as many of each class."""
    marked = np.zeros_like(truth)
    places = [np.argwhere(truth == value) for value in range(1, int(truth.max()) + 1)]
    places = [found for found in places if len(found)]
    while (marked > 0).sum() < SHARE * truth.size:
        for found in places:
            _draw(marked, truth, found[rng.integers(len(found))], rng)
    return marked


def _draw(marked: Labels, truth: Labels, start: Labels, rng: np.random.Generator) -> None:
    """Draw one stroke, which bends a little at each step and ends where the class ends."""
    place, angle = start.astype(float), rng.uniform(0, 2 * np.pi)
    value = truth[tuple(start)]
    for _ in range(STROKE):
        y, x = np.round(place).astype(int)
        if not (0 <= y < truth.shape[0] and 0 <= x < truth.shape[1]) or truth[y, x] != value:
            return
        marked[y, x] = value
        angle += rng.normal(0, 0.15)
        place += np.sin(angle), np.cos(angle)


Trained = Callable[[Labels], Labels]


def skimage_default(image: Labels, marks: Labels) -> Trained:
    """Return TrainableSegmenter as it comes: 24 features, 100 trees."""
    segmenter = TrainableSegmenter()
    segmenter.fit(image, marks)
    predict: Trained = segmenter.predict
    return predict


def random_forest(image: Labels, marks: Labels) -> Trained:
    """Return this package's random forest."""
    model = train_forest(image, marks)
    return lambda pixels: np.asarray(segment(pixels, model))


def texton_forest(image: Labels, marks: Labels) -> Trained:
    """Return this package's texton forest."""
    model = train_texton_forest(image, marks)
    return lambda pixels: np.asarray(segment(pixels, model))


METHODS = {
    "TrainableSegmenter": skimage_default,
    "random forest": random_forest,
    "texton forest": texton_forest,
}


def scores(found: Labels, truth: Labels, marks: Labels) -> tuple[float, float]:
    """Return accuracy and mean IU over the pixels that have a truth and were not marked."""
    counted = (truth > 0) & (marks == 0)
    found, truth = found[counted], truth[counted]
    values = np.unique(truth)
    overlaps = [((found == v) & (truth == v)).sum() / ((found == v) | (truth == v)).sum() for v in values]
    return float((found == truth).mean()), float(np.mean(overlaps))


def timed(function: Callable[..., Any], *given: Any) -> tuple[Any, float, float]:
    """Return what a function gives, the seconds that passed, and those of the processors."""
    start, worked = time.perf_counter(), time.process_time()
    return function(*given), time.perf_counter() - start, time.process_time() - worked


def measure(name: str, pairs: Iterator[tuple[Labels, Labels]], seed: int) -> None:
    """Print the table of one data set."""
    rows: dict[str, list[tuple[float, ...]]] = {method: [] for method in METHODS}
    for image, truth in pairs:
        marks = scribbles(truth, np.random.default_rng(seed))
        for method, train in METHODS.items():
            trained, *fit = timed(train, image, marks)
            found, *run = timed(trained, image)
            rows[method].append((*scores(found, truth, marks), *fit, *run))
    count = len(rows["TrainableSegmenter"])
    print(f"\n{name}, {count} images, medians of time")
    print(f"{'':22}{'accuracy':>9}{'mean IU':>9}{'training':>12}{'':10}{'prediction':>12}")
    print(f"{'':40}{'passed':>10}{'worked':>10}{'passed':>12}{'worked':>10}")
    for method, values in rows.items():
        accuracy, overlap, *times = zip(*values, strict=True)
        fit, fit_work, run, run_work = (statistics.median(found) for found in times)
        print(
            f"{method:22}{statistics.mean(accuracy):9.4f}{statistics.mean(overlap):9.4f}"
            f"{fit:8.2f} s{fit_work:8.2f} s{run:10.2f} s{run_work:8.2f} s"
        )


def measure_large(pairs: Iterator[tuple[Labels, Labels]], side: int, seed: int) -> None:
    """Print times on a large image, made of a small one by mirroring."""
    image, truth = next(pairs)
    marks = scribbles(truth, np.random.default_rng(seed))
    large = np.pad(image, [(0, side - length) for length in image.shape], mode="symmetric")
    base: list[float] = []
    for method, train in METHODS.items():
        trained = train(image, marks)
        runs = [timed(trained, large)[1:] for _ in range(3)]
        found = [min(times) for times in zip(*runs, strict=True)]
        base = base or found
        passed, worked = (
            f"{seconds:8.2f} s{first / seconds:7.2f}x" for seconds, first in zip(found, base, strict=True)
        )
        print(f"{method:22}passed {passed}   worked {worked}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="of each data set")
    parser.add_argument("--side", type=int, default=2048, help="of the large image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, seed {args.seed}")
    sets = {"sandstone_uct": sandstone, "cells_phase": cells}
    for name, pairs in sets.items():
        measure(name, pairs(args.images), args.seed)
    for name, pairs in sets.items():
        print(f"\nprediction of {args.side} x {args.side} pixels of {name}, the best of three runs")
        measure_large(pairs(1), args.side, args.seed)


if __name__ == "__main__":
    main()
