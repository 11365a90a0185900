"""Measure the dense CRF: how near the lattice is to every pair, parts to the whole, and how fast it is.

    python benchmarks/crf.py [--size 1024] [--classes 21] [--iterations 10] [--rounds 3] [--threads 1]
        [--device cpu] [--data ../shared/data]

Images are Voronoi cells of the classes with noise, and, if `--data` is there,
a mosaic of frames of its camvid validation set; the probabilities are the true
classes, blurred, with smooth noise. pydensecrf (``pip install pydensecrf2``) is
the yardstick of accuracy and time where it is installed. It runs on one
thread, so this does too unless told otherwise. Both are run in turn, and the
medians of wall and processor time are printed, with their ratios. Blocks are
refined with the default options.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.io import imread

from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg.refine.crf import crf_halo, dense_crf

Floats = NDArray[np.float32]

VALUES: dict[str, Any] = {"theta_alpha": 80, "theta_beta": 13, "bilateral_weight": 10}
"""Those of pydensecrf's own examples, with which both are compared."""


class Scene(NamedTuple):
    """Probabilities (classes, y, x), an image (y, x, 3) of uint8, and the true classes (y, x)."""

    probabilities: Floats
    image: NDArray[np.uint8]
    truth: NDArray[np.intp]


def voronoi(size: int, classes: int, *, cell: int = 100, seed: int = 0) -> Scene:
    """Return cells of about `cell` pixels, each of one class and colour, under noise."""
    rng = np.random.default_rng(seed)
    count = max((size // cell) ** 2, 6)
    places = np.stack(np.indices((size, size)), -1).reshape(-1, 2)
    nearest = cKDTree(rng.random((count, 2)) * size).query(places)[1].reshape(size, size)
    truth = rng.integers(0, classes, count)[nearest]
    colours = rng.integers(30, 225, (classes, 3))
    image = np.clip(colours[truth] + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
    return Scene(unsure(truth, classes, rng), image, truth)


def frames(folder: Path, count: int = 9) -> Scene:
    """Return a mosaic of frames, three in a row, with their labels."""
    chosen = sorted(path.name for path in (folder / "images").glob("*.png"))[:count]
    images, labels = ([imread(folder / kind / name) for name in chosen] for kind in ("images", "labels"))
    image, truth = (
        np.concatenate([np.concatenate(tiles[i : i + 3], 1) for i in range(0, count, 3)])
        for tiles in (images, labels)
    )
    truth = truth.astype(np.intp)
    return Scene(unsure(truth, int(truth.max()) + 1, np.random.default_rng(0)), image, truth)


def unsure(truth: NDArray[np.intp], classes: int, rng: np.random.Generator) -> Floats:
    """Return probabilities such as a network gives: blurred at edges, wrong in patches."""
    scores = np.empty((classes, *truth.shape), np.float32)
    for k in range(classes):
        noise = ndimage.gaussian_filter(rng.normal(0, 1, truth.shape), 4)
        scores[k] = 1.5 * noise / noise.std() + 5 * ndimage.gaussian_filter((truth == k).astype(float), 5)
    grown = np.exp(scores - scores.max(0))
    return np.asarray(grown / grown.sum(0), np.float32)


def yardstick() -> Callable[..., Floats] | None:
    """Return pydensecrf with the arguments of ours, or None."""
    try:
        module: Any = importlib.import_module("pydensecrf.densecrf")
    except ImportError:
        print("pydensecrf is not installed (pip install pydensecrf2): no comparison with it")
        return None

    def run(probabilities: Floats, image: NDArray[np.uint8], iterations: int) -> Floats:
        classes, height, width = probabilities.shape
        crf = module.DenseCRF2D(width, height, classes)
        energy = -np.log(np.clip(probabilities, 1e-5, 1)).reshape(classes, -1)
        crf.setUnaryEnergy(np.ascontiguousarray(energy))
        crf.addPairwiseGaussian(sxy=3, compat=3)
        crf.addPairwiseBilateral(
            sxy=VALUES["theta_alpha"], srgb=VALUES["theta_beta"], rgbim=np.ascontiguousarray(image),
            compat=VALUES["bilateral_weight"],
        )  # fmt: skip
        return np.array(crf.inference(iterations), np.float32).reshape(probabilities.shape)

    return run


def compare(title: str, found: Floats, expected: Floats, truth: NDArray[np.intp]) -> None:
    """Print one line of differences."""
    apart = np.abs(found - expected)
    same = (found.argmax(0) == expected.argmax(0)).mean()
    right = (found.argmax(0) == truth).mean()
    print(
        f"{title:34} |ΔQ| mean {apart.mean():.5f}  max {apart.max():.4f}   "
        f"same label {same:8.3%}   right {right:.2%}"
    )


def approximation(name: str, scene: Scene, iterations: int, other: Callable[..., Floats] | None) -> None:
    """Print how far the lattice, and pydensecrf, are from the exact kernel."""
    probabilities, image, truth = scene
    print(f"\n## Against every pair: {name}, {truth.shape[0]} x {truth.shape[1]}, {iterations} iterations")
    exact, lattice = (
        dense_crf(probabilities, image, channel_axis=-1, iterations=iterations, method=method, **VALUES)
        for method in ("exact", "lattice")
    )
    compare("before", probabilities, exact, truth)
    compare("exact", exact, exact, truth)
    compare("lattice", lattice, exact, truth)
    if other is not None:
        compare("pydensecrf", other(probabilities, image, iterations), exact, truth)


def tiled(scene: Scene, block: int, halo: int, iterations: int) -> Floats:
    """Return the refinement of blocks, each cut out with a halo."""
    out = np.empty_like(scene.probabilities)
    height, width = scene.truth.shape
    for y, x in itertools.product(range(0, height, block), range(0, width, block)):
        top, left = max(y - halo, 0), max(x - halo, 0)
        window = (slice(top, y + block + halo), slice(left, x + block + halo))
        part = dense_crf(
            scene.probabilities[:, *window],
            scene.image[window],
            channel_axis=-1,
            iterations=iterations,
            origin=(top, left),
            method="lattice",
        )
        core = part[:, y - top : y - top + block, x - left : x - left + block]
        out[:, y : y + block, x : x + block] = core
    return out


def parts(name: str, scene: Scene, block: int, iterations: int) -> None:
    """Print how far blocks with several halos are from the whole image."""
    shape = scene.truth.shape
    print(
        f"\n## Blocks of {block} against the whole: {name}, {shape[0]} x {shape[1]}, {iterations} iterations"
    )
    whole = dense_crf(
        scene.probabilities, scene.image, channel_axis=-1, iterations=iterations, method="lattice"
    )
    compare("before", scene.probabilities, whole, scene.truth)
    for halo in (0, 20, crf_halo(), crf_halo(tolerance=0.001)):
        compare(f"halo {halo}", tiled(scene, block, halo, iterations), whole, scene.truth)


def speed(scene: Scene, arguments: argparse.Namespace, other: Callable[..., Floats] | None) -> None:
    """Print the medians of wall and processor time of the two, run in turn."""
    probabilities, image, _ = scene
    size, classes = image.shape[0], len(probabilities)
    print(
        f"\n## Time: {size} x {size}, {classes} classes, {arguments.iterations} iterations, "
        f"{arguments.threads} threads, {arguments.device}"
    )
    options = {
        **VALUES, "iterations": arguments.iterations, "method": "lattice", "device": arguments.device,
    }  # fmt: skip
    runs: dict[str, Callable[[], Any]] = {
        "dense_crf": lambda: dense_crf(probabilities, image, channel_axis=-1, **options)
    }
    if other is not None:
        runs["pydensecrf"] = lambda: other(probabilities, image, arguments.iterations)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(arguments.rounds), runs.items()):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {
        name: [statistics.median(t) for t in zip(*times, strict=True)] for name, times in taken.items()
    }
    for name, (wall, processor) in medians.items():
        print(f"{name:34} wall {wall:6.2f} s   processor {processor:6.2f} s")
    if other is not None:
        ratios = [b / a for a, b in zip(medians["dense_crf"], medians["pydensecrf"], strict=True)]
        print(f"{'pydensecrf / dense_crf':34} wall {ratios[0]:6.2f}     processor {ratios[1]:6.2f}")


def busiest(scene: Scene, size: int) -> Scene:
    """Return the square part that has the most classes."""
    height, width = scene.truth.shape
    corners = itertools.product(range(0, height - size + 1, size), range(0, width - size + 1, size))
    windows = [(slice(y, y + size), slice(x, x + size)) for y, x in corners]
    window = max(windows, key=lambda w: len(np.unique(scene.truth[w])))
    return Scene(scene.probabilities[:, *window], scene.image[window], scene.truth[window])


def main() -> None:
    """Read the options and print the sections."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_allocator()  # as the engine does on a processor
    other = yardstick()
    speed(voronoi(arguments.size, arguments.classes), arguments, other)
    approximation("small cells", voronoi(72, 6, cell=9), arguments.iterations, other)
    scenes = {"cells": voronoi(1536, 6)}
    if (arguments.data / "camvid" / "val").is_dir():
        scenes["camvid frames"] = frames(arguments.data / "camvid" / "val")
    else:
        print(f"\nno camvid frames in {arguments.data}: only the cells")
    for name, scene in scenes.items():
        approximation(f"part of {name}", busiest(scene, 72), arguments.iterations, other)
        parts(name, scene, 512, arguments.iterations)


if __name__ == "__main__":
    main()
