"""Measure how fast objects are joined across blocks, against dask-image.

    python benchmarks/merge.py [--size 8192] [--rounds 3] [--threads 2] [--folder FOLDER]

A random mask of round objects lies in a zarr of bool, in chunks of 1024 pixels. All label it
into a zarr: the passes of this package, which number objects in C order of their first pixel
too; dask-image's `label` on the chunks of the zarr, without rechunking; and the same on
blocks of the size that the passes use. They are run in turn; medians of wall and processor
time, the peak of memory above what the process held before, the counts and the ratios are
printed. dask-image comes with `pip install -r benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.runners import LocalRunner
from napari_fcnseg.engine.stored import StoredPasses
from napari_fcnseg.refine.components import label_components
from napari_fcnseg.refine.numbering import number_objects
from napari_fcnseg.refine.stitching import blocks, slices
from napari_fcnseg.tiling.shards import SHARD

BLOCK = (SHARD[2],) * 2
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask in a zarr, read box by box."""

    array: Any

    def __call__(self, box: Box) -> NDArray[np.bool_]:
        """Return one box."""
        return np.asarray(self.array[slices(box)])


def write_mask(path: Path, size: int) -> Any:
    """Write blobs about 25 pixels wide that cover a third of the image."""
    mask = zarr.create_array(path, shape=(size, size), chunks=(CHUNK, CHUNK), dtype="bool")
    random = np.random.default_rng(0)
    for box in blocks(mask.shape, BLOCK):
        noise = random.random([b - a for a, b in box], np.float32)
        smooth = ndimage.gaussian_filter(noise, 5, mode="wrap")
        mask[slices(box)] = smooth > np.quantile(smooth, 0.67)
    return mask


def ours(mask: Any, folder: Path, threads: int) -> int:
    """Label by passes; return how many components there are."""
    passes = StoredPasses(folder, 2, LocalRunner(threads))
    labels = label_components(passes, Mask(mask), mask.shape, block_shape=BLOCK)
    out = passes.array("out", mask.shape, "int32")
    count = number_objects(passes, labels, out, block_shape=BLOCK)
    passes.drop("components")
    return count


def dask_image(mask: Any, folder: Path, threads: int, edge: int = CHUNK) -> int:
    """Label by dask-image on blocks of an edge; return how many components there are."""
    import dask
    import dask.array as da
    from dask_image.ndmeasure import label

    with dask.config.set(scheduler="threads", num_workers=threads):
        labels, count = label(da.from_zarr(mask).rechunk(edge))
        _, found = dask.compute(labels.astype("int32").to_zarr(str(folder / "out"), compute=False), count)
    return int(found)


class Peak:
    """The most memory that the process held within a block of code, above that at its beginning."""

    def __enter__(self) -> Peak:
        self.process, self.stop, self.held = psutil.Process(), threading.Event(), 0
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.02):
            self.held = max(self.held, self.process.memory_info().rss - self.before)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


class Run(NamedTuple):
    """What one run took, and found."""

    wall: float
    processor: float
    megabytes: float
    count: int


def measured(label: Callable[[Any, Path, int], int], mask: Any, folder: Path, threads: int) -> Run:
    """Return what one run takes."""
    folder.mkdir()
    with Peak() as peak:
        start, before = time.perf_counter(), time.process_time()
        count = label(mask, folder, threads)
        taken = time.perf_counter() - start, time.process_time() - before
    shutil.rmtree(folder)
    return Run(*taken, peak.held / 1e6, count)


def report(runs: dict[str, list[Run]]) -> None:
    """Print medians, and the ratios to the passes."""
    medians = {name: Run(*map(statistics.median, zip(*found, strict=True))) for name, found in runs.items()}
    for name, run in medians.items():
        print(
            f"{name:16} wall {run.wall:7.2f} s   processor {run.processor:7.2f} s   "
            f"memory {run.megabytes:5.0f} MB   {run.count:,} components"
        )
    for name in list(medians)[1:]:
        wall, processor = (
            getattr(medians[name], key) / getattr(medians["passes"], key) for key in Run._fields[:2]
        )
        print(f"{name} / passes: wall {wall:.1f}, processor {processor:.1f}")
    print(
        "counts", "equal" if len({run.count for found in runs.values() for run in found}) == 1 else "differ"
    )


def main() -> None:
    """Run both in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where arrays are written; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        mask = write_mask(Path(place) / "mask", options.size)
        ways: dict[str, Callable[[Any, Path, int], int]] = {
            "passes": ours,
            "dask-image": dask_image,
            f"dask-image {BLOCK[0]}": partial(dask_image, edge=BLOCK[0]),
        }
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, label in ways.items():
                runs[name].append(measured(label, mask, Path(place) / "run", options.threads))
    print(f"{options.size} x {options.size}, zarr of bool -> zarr of int32, {options.threads} threads")
    report(runs)


if __name__ == "__main__":
    main()
