"""Score class probabilities before and after each refinement, on real images.

    python benchmarks/refine.py [DATA] [--all] [--only STEP ...] [--sets NAME ...]

DATA has the folders ``camvid``, ``voc_samples`` and ``membranes_em``; those
that are missing are skipped. All refinements of probabilities that have a name
are run on whole images: with their defaults; with options chosen by mean IU
from a small grid, on other images of the set; and the dense CRF of voc_samples,
where there are no others, with the options of DeconvNet's authors. Printed are
the mean IU over the classes, its change in points, seconds for each image and,
for the dense CRF, how far the lattice is from the exact kernel on the middle
64 x 64 pixels.

No trained network of these classes comes with the package. The probabilities
are made, from a fixed seed, such as a coarse network gives them:

voc_samples : A published prediction, averaged over cells of 32 pixels as
    FCN-32s has them, brought back bilinearly, and nine parts of it mixed with
    one of ignorance. Only the classes of the three images are taken.
camvid : The truth (every fifth frame unless --all), smoothed by 8 pixels,
    averaged over cells of 16, noise of standard deviation 1 added to the
    log-probabilities of each cell, brought back bilinearly. What is gained
    here is gained against this damage, not against that of a real network.
membranes_em : A logistic regression on smoothed intensities, fitted on the
    even slices, run on the odd ones (three of them unless --all).
"""

from __future__ import annotations

import argparse
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.io import imread
from skimage.measure import block_reduce

from napari_fcnseg.metrics import ConfusionMatrix
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.refine.chain import PROBABILITIES, REFINEMENTS, make_chain

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
VOID = 255
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """An image (channels first, 0 to 1), the class of each pixel, and its probabilities before."""

    image: Maps
    truth: NDArray[np.uint8]
    probabilities: Maps


@dataclass(frozen=True)
class Set:
    """Images that are scored, and others of their kind, if any, to choose options on."""

    classes: int
    samples: list[Sample]
    others: list[Sample]


def channels_first(image: NDArray[Any]) -> Maps:
    """Return pixels of 8 bits as 0 to 1."""
    maps = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    return np.asarray(maps, np.float32) / np.float32(255)


def one_hot(labels: NDArray[Any], classes: int) -> Maps:
    """Return 1 for the class of each pixel; void is all classes alike."""
    hot: Maps = (np.arange(classes)[:, None, None] == labels).astype(np.float32)
    hot[:, labels == VOID] = 1 / classes
    return hot


def in_cells(maps: Maps, cell: int) -> Maps:
    """Return the means of square cells, those at the border of what lies inside."""
    sums, counts = (
        block_reduce(values, (1, cell, cell), np.sum)  # type: ignore[no-untyped-call]
        for values in (maps, np.ones_like(maps))
    )
    return np.asarray(sums / counts, np.float32)


def enlarged(maps: Maps, shape: tuple[int, ...]) -> Maps:
    """Return maps interpolated linearly to a shape."""
    return Resampling(maps.shape[1:], shape).apply(maps, tuple((0, n) for n in shape))


def softmax(scores: Maps) -> Maps:
    """Return probabilities of scores over the first axis."""
    powers = np.exp(scores - scores.max(0))
    return np.asarray(powers / powers.sum(0), np.float32)


def voc_colours() -> NDArray[np.uint8]:
    """Return the palette of PASCAL VOC, 256 colours: the bits of a class, dealt to red, green and blue."""
    table = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            table[:, channel] |= (((np.arange(256) >> (3 * bit + channel)) & 1) << (7 - bit) & 255).astype(
                np.uint8
            )
    return table


def voc(folder: Path, _every: bool) -> Set:
    """Return the VOC images."""
    palette = {tuple(colour): i for i, colour in enumerate(voc_colours().tolist())}
    names = sorted(path.name.removesuffix("_image.png") for path in folder.glob("*_image.png"))

    def indices(path: Path) -> NDArray[np.int64]:
        pixels = imread(path)[..., :3]
        colours, where = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        return np.array([palette[tuple(c)] for c in colours.tolist()])[where.reshape(pixels.shape[:2])]

    pairs = [(indices(folder / f"{n}_target.png"), indices(folder / f"{n}_pred.png")) for n in names]
    known = sorted({int(v) for pair in pairs for labels in pair for v in np.unique(labels)} - {VOID})
    table = np.full(256, VOID, np.uint8)
    table[known] = np.arange(len(known))

    samples = []
    for name, (truth, given) in zip(names, pairs, strict=True):
        coarse = enlarged(in_cells(one_hot(table[given], len(known)), 32), given.shape)
        image = channels_first(imread(folder / f"{name}_image.png"))
        samples.append(Sample(image, table[truth], np.float32(0.9) * coarse + np.float32(0.1 / len(known))))
    return Set(len(known), samples, [])


def damaged(folder: Path, name: str, classes: int) -> Sample:
    """Return one frame of CamVid, its truth damaged as by a coarse network."""
    truth = imread(folder / "labels" / name).astype(np.uint8)
    truth[truth == classes] = VOID
    smooth = ndimage.gaussian_filter(one_hot(truth, classes), (0, 8, 8))
    scores = np.log(in_cells(smooth, 16) + 1e-3)
    scores += np.random.default_rng(zlib.crc32(name.encode())).normal(size=scores.shape).astype(np.float32)
    image = channels_first(imread(folder / "images" / name))
    return Sample(image, truth, softmax(enlarged(scores, truth.shape)))


def camvid(folder: Path, every: bool) -> Set:
    """Return CamVid's validation frames, and three of training to choose options on."""
    names, others = (
        sorted(path.name for path in (folder / part / "labels").glob("*.png")) for part in ("val", "train")
    )
    tested = names if every else names[::5]
    samples = [damaged(folder / "val", name, 11) for name in tested]
    return Set(11, samples, [damaged(folder / "train", name, 11) for name in others[::25]])


def features(image: NDArray[Any]) -> Maps:
    """Return what the regression sees of each pixel, shape (features, y, x)."""
    pixels = image.astype(np.float32) / 255
    sigmas = (1, 2, 4, 8)
    maps = [pixels, *(ndimage.gaussian_filter(pixels, s) for s in sigmas)]
    maps += [s * ndimage.gaussian_gradient_magnitude(pixels, s) for s in sigmas]
    maps += [s**2 * ndimage.gaussian_laplace(pixels, s) for s in sigmas]
    return np.stack(maps)


def fit_logistic(rows: torch.Tensor, truth: torch.Tensor) -> Callable[[Maps], Maps]:
    """Return what gives the probabilities of two classes for features."""
    mean, std = rows.mean(0), rows.std(0)
    line = torch.nn.Linear(rows.shape[1], 1)
    for parameter in line.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(line.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(
            line((rows - mean) / std)[:, 0], truth.float()
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def probabilities(maps: Maps) -> Maps:
        scores = line((torch.from_numpy(np.moveaxis(maps, 0, -1)) - mean) / std)[..., 0]
        inside = torch.sigmoid(scores).numpy()
        return np.stack([1 - inside, inside])

    return probabilities


def membranes(folder: Path, every: bool) -> Set:
    """Return the EM slices, and three of those that the regression was fitted on."""
    paths = sorted((folder / "images").glob("*.png"))

    def labels(path: Path) -> NDArray[np.uint8]:
        return np.asarray(imread(folder / "labels" / path.name) > 0, np.uint8)

    rng = np.random.default_rng(0)
    rows, truth = [], []
    for path in paths[::2]:
        at = rng.choice(imread(path).size, 4000, replace=False)
        rows.append(features(imread(path)).reshape(13, -1)[:, at].T)
        truth.append(labels(path).reshape(-1)[at])
    classify = fit_logistic(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(truth)))

    def sample(path: Path) -> Sample:
        image = imread(path)
        return Sample(channels_first(image), labels(path), classify(features(image)))

    tested = paths[1::2] if every else paths[1::8]
    return Set(2, [sample(path) for path in tested], [sample(path) for path in paths[::8]])


SETS: dict[str, Callable[[Path, bool], Set]] = {
    "voc_samples": voc, "camvid": camvid, "membranes_em": membranes,
}  # fmt: skip
STEPS = [name for name, step in REFINEMENTS.items() if step.acts_on == PROBABILITIES]


GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "crf": {
        "theta_alpha": (5, 20),
        "theta_beta": (3, 8),
        "bilateral_weight": (1, 5),
        "smoothness_weight": (0.3, 3),
    },
    "graph_cut": {"smoothness": (0.25, 1, 4), "contrast": (0.05, 0.2)},
    "superpixels": {"size": (16, 64, 256)},
    "superpixel_crf": {"size": (16, 64), "smoothness": (0.5, 2, 8), "contrast": (0.05,)},
    "superpixel_cut": {"size": (16, 64), "smoothness": (0.5, 2, 8), "contrast": (0.05,)},
    "smooth": {"sigma": (0.5, 2, 8)},
}
"""What is tried of each step; one without has its defaults only."""

# Reference: HyeonwooNoh/DeconvNet, inference code; sigma of positions and colours, and weights.
DECONVNET = {
    "theta_alpha": 20, "theta_beta": 3, "bilateral_weight": 5, "theta_gamma": 3, "smoothness_weight": 3,
}  # fmt: skip


def choices(step: str) -> list[dict[str, Any]]:
    """Return every combination of the options to try."""
    grid = GRIDS.get(step, {})
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def score(classes: int, samples: list[Sample], step: Any) -> tuple[float, float]:
    """Return the mean IU of all samples, and the median of the seconds that a step took."""
    chain, confusion, seconds = make_chain(step), ConfusionMatrix(classes, void=VOID), []
    for sample in samples:
        start = time.perf_counter()
        refined = chain.refine(sample.probabilities, sample.image)
        seconds.append(time.perf_counter() - start)
        confusion.update(sample.truth, refined.argmax(0))
    return 100 * confusion.mean_iou(), statistics.median(seconds)


def variants(step: str, found: Set) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the options that a step is scored with, each with what it is called."""
    yield step, {}
    if found.others and step in GRIDS:
        best = max(choices(step), key=lambda o: score(found.classes, found.others, {"name": step, **o})[0])
        yield "  " + ", ".join(f"{name}={value:g}" for name, value in best.items()), best
    elif step == "crf":
        yield "  as DeconvNet's authors", DECONVNET


def lattice_error(sample: Sample, edge: int = 64) -> tuple[float, float, float]:
    """Return how far the CRF's lattice is from the exact kernel: at most, mean, share of other classes."""
    starts = [(n - edge) // 2 for n in sample.truth.shape]
    at = (slice(None), *(slice(a, a + edge) for a in starts))
    exact, lattice = (
        make_chain({"name": "crf", "method": method}).refine(sample.probabilities[at], sample.image[at])
        for method in ("exact", "lattice")
    )
    apart = np.abs(exact - lattice)
    return float(apart.max()), float(apart.mean()), float((exact.argmax(0) != lattice.argmax(0)).mean())


def report(name: str, found: Set, steps: list[str]) -> None:
    """Print the table of one set."""
    shape = " x ".join(map(str, found.samples[0].truth.shape))
    before, _ = score(found.classes, found.samples, None)
    print(f"\n{name}: {len(found.samples)} images of {shape}, {found.classes} classes; "
          f"{len(found.others)} others to choose options on")  # fmt: skip
    print(f"{'':<80}{'mean IU':>9}{'change':>9}{'s/image':>10}")
    print(f"{'before':<80}{before:>9.2f}", flush=True)
    for step in steps:
        for title, options in variants(step, found):
            after, seconds = score(found.classes, found.samples, {"name": step, **options})
            print(f"{title:<80}{after:>9.2f}{after - before:>+9.2f}{seconds:>10.2f}", flush=True)
    if "crf" in steps:
        most, mean, other = np.transpose([lattice_error(sample) for sample in found.samples])
        print(f"crf, lattice against exact: mean {mean.mean():.4f}, at most {most.max():.3f}; "
              f"another class at {100 * other.mean():.2f} % of the pixels")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--all", action="store_true", help="all images, not a part of them")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    print((__doc__ or "").partition("No trained")[2].join(("No trained", "")).strip())
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in options.sets:
        folder = options.data / name
        if folder.is_dir():
            report(name, SETS[name](folder, options.all), options.only)
        else:
            print(f"\n{name}: skipped, there is no {folder.name} in {options.data.name}")


if __name__ == "__main__":
    main()
