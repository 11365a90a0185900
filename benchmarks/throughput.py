"""Measure the engine against the network alone, bfloat16 against float32, and both against MONAI.

    python benchmarks/throughput.py [--rounds 3] [--size 4096] [--threads 2] [--only NAME ...]
    python benchmarks/throughput.py --first-tile

A U-Net (16 base channels, 4 poolings, random weights) segments a uint8 zarr into a zarr of class
labels, with ``memory="1GB"`` and the tile that this gives. The yardstick is the same network alone:
folded, channels_last, allocator tuned, one 2048-pixel image again and again. Every figure comes
from a process of its own, which has run the same once before, the rows take turns, and each ratio
is the median of the ratios of the rounds. MONAI is measured where it is installed (``pip install -r
benchmarks/requirements.txt``).

``--first-tile`` opens a virtual zarr of 100,000 pixels square and prints how long it takes until
the first tile is computed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from napari_fcnseg import as_model, segment_to_zarr
from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import Cancelled
from napari_fcnseg.models import Model
from napari_fcnseg.networks import NetworkSegmenter, build_network
from napari_fcnseg.networks.folding import folded

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALONE = 2048
NORMALISED = {"method": "fixed", "offset": (90.0,), "scale": (35.0,)}


def network() -> torch.nn.Module:
    """Return the U-Net of all rows."""
    torch.manual_seed(0)
    return build_network("unet", in_channels=1, classes=2).eval()


def model() -> Model:
    """Return it as a model of one class."""
    return as_model(network(), classes=["object"])


def image(size: int, folder: Path, chunk: int = 512) -> Path:
    """Return a zarr of blobs and noise, uint8; made once."""
    import zarr

    path = folder / f"image{size}.zarr"
    if path.exists():
        return path
    noise = np.random.default_rng(0).standard_normal((min(size, 2048),) * 2).astype(np.float32)
    blobs = gaussian_filter(noise, 6, mode="wrap")
    tile = np.clip(90 + 35 * blobs / blobs.std() + 4 * noise, 0, 255).astype(np.uint8)
    array: Any = zarr.create_array(path, shape=(size, size), chunks=(chunk, chunk), dtype="uint8")
    for row in range(0, size, len(tile)):
        for column in range(0, size, len(tile)):
            part = array[row : row + len(tile), column : column + len(tile)]
            array[row : row + len(tile), column : column + len(tile)] = tile[: part.shape[0], : part.shape[1]]
    return path


class Clock:
    """Seconds of the wall and of the CPU since it was made; the latter do not see other programs."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def speed(self, pixels: int) -> dict[str, float]:
        """Return the megapixels for each second of either."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"speed": pixels / wall / 1e6, "cpu": pixels / cpu / 1e6}


@torch.inference_mode()
def alone(precision: str, size: int = ALONE) -> dict[str, float]:
    """Return the speed of the network alone, over as many images as make up 4096 pixels square."""
    tune_allocator()
    made: Any = folded(network()).to(memory_format=torch.channels_last, dtype=DTYPES[precision])
    x = torch.randn(1, 1, size, size).to(DTYPES[precision]).contiguous(memory_format=torch.channels_last)
    made(x)
    clock = Clock()
    for _ in range(4):
        made(x)
    return clock.speed(4 * size**2)


def engine(precision: str, path: Path, out: Path, tile: tuple[int, int] | None = None) -> dict[str, float]:
    """Return the speed from zarr to zarr, and the tile."""
    import zarr

    array: Any = zarr.open_array(path, mode="r")
    made = model()
    options: dict[str, Any] = {
        "precision": precision, "device": "cpu", "overwrite": True, "resume": False, "memory": "1GB",
        "normalization": NORMALISED, "tile_shape": tile,
    }  # fmt: skip
    # The kernels of each shape of tile are compiled once in a process, as those of the yardstick are.
    segment_to_zarr(array, out / "labels.zarr", made, **options)
    clock = Clock()
    record = segment_to_zarr(array, out / "labels.zarr", made, **options)
    speed = clock.speed(array.size)
    rows, columns = record.settings.tile_shape or (0, 0)
    return {**speed, "rows": rows, "columns": columns}


@torch.inference_mode()
def monai(precision: str, path: Path, roi: int, *, tuned: bool) -> dict[str, float]:
    """Return the speed of `sliding_window_inference`, image and labels in memory."""
    import zarr
    from monai.inferers import sliding_window_inference  # type: ignore[import-not-found]

    made: Any = network()
    if tuned:
        tune_allocator()
        made = folded(made).to(memory_format=torch.channels_last)
    made = made.to(DTYPES[precision])
    array: Any = zarr.open_array(path, mode="r")

    def run() -> None:
        x = (torch.from_numpy(array[:])[None, None].float() - 90) / 35
        scores = sliding_window_inference(x.to(DTYPES[precision]), (roi, roi), 1, made, overlap=0.25)
        scores.argmax(1).to(torch.uint8).numpy()

    run()
    clock = Clock()
    run()
    return clock.speed(array.size)


def saved_work(tile: tuple[int, int]) -> str:
    """Return what progressive cropping saves of the work of an interior tile, from the layers' boxes."""
    from torch.utils.flop_counter import FlopCounterMode

    segmenter = NetworkSegmenter(network(), in_channels=1, out_channels=2, ndim=2)
    halo = segmenter.halo[0][0]
    keep = tuple((halo, halo + n) for n in tile)
    counts = []
    for box in (None, keep):
        x = torch.zeros(1, 1, *(n + 2 * halo for n in tile))
        with FlopCounterMode(display=False) as counter:
            segmenter.predict(x, box)
        counts.append(counter.get_total_flops())
    core = counts[0] * np.prod(tile) / np.prod([n + 2 * halo for n in tile])
    return (
        f"progressive cropping, interior tile of {tile[0]} x {tile[1]}: work {counts[1] / core:.2f} of the "
        f"core's, {counts[0] / core:.2f} without"
    )


def first_tile() -> float:
    """Return the seconds until the first tile of a virtual zarr of 100,000 pixels square is computed."""
    import zarr

    control = RunControl()
    array: Any = zarr.create_array(
        {}, shape=(100_000, 100_000), chunks=(512, 512), dtype="uint8", fill_value=90
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            segment_to_zarr(
                array, Path(folder) / "out.zarr", model(), normalization=NORMALISED, device="cpu",
                memory="1GB", precision="float32", control=control,
                progress=lambda done, total: control.cancel(),
            )  # fmt: skip
        except Cancelled:
            return time.perf_counter() - start
    raise RuntimeError("no tile was computed")


ROWS: dict[str, Callable[[Path, Path], Any]] = {
    "alone float32": lambda path, out: alone("float32"),
    "engine float32": lambda path, out: engine("float32", path, out),
    "alone bfloat16": lambda path, out: alone("bfloat16"),
    "engine bfloat16": lambda path, out: engine("bfloat16", path, out),
    "engine float32, tile 512": lambda path, out: engine("float32", path, out, (320, 320)),
    "MONAI as its users run it": lambda path, out: monai("float32", path, 512, tuned=False),
    "MONAI tuned, roi 512": lambda path, out: monai("float32", path, 512, tuned=True),
    "MONAI tuned, bfloat16": lambda path, out: monai("bfloat16", path, 512, tuned=True),
}
RATIOS = [
    ("engine float32", "alone float32", 0.85),
    ("engine bfloat16", "alone bfloat16", None),
    ("engine bfloat16", "engine float32", 1.6),
    ("engine float32", "MONAI as its users run it", 2.4),
    ("engine bfloat16", "MONAI as its users run it", 4.0),
    ("engine float32, tile 512", "MONAI tuned, roi 512", None),
    ("engine float32", "MONAI tuned, roi 512", None),
    ("engine bfloat16", "MONAI tuned, bfloat16", None),
]


def in_new_process(row: str, args: argparse.Namespace, path: Path, out: Path) -> dict[str, float]:
    """Return the figures of one row, measured in a process of its own."""
    command = [sys.executable, __file__, "--row", row, "--image", str(path), "--out", str(out)]
    command += ["--threads", str(args.threads)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    value: dict[str, float] = json.loads(found.splitlines()[-1])
    return value


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return the figures of all rows that can be measured here, round after round."""
    path = image(args.size, folder)
    rows = [row for row in ROWS if not args.only or row in args.only]
    if importlib.util.find_spec("monai") is None:
        rows = [row for row in rows if "MONAI" not in row]
        print("MONAI is not installed; its rows are left out")
    found: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for _ in range(args.rounds):
        for row, values in found.items():
            values.append(in_new_process(row, args, path, folder))
    return found


def ratio(found: dict[str, list[dict[str, float]]], one: str, other: str, clock: str) -> float:
    """Return the median of the ratios of the rounds."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(found[one], found[other], strict=True))


def report(found: dict[str, list[dict[str, float]]]) -> bool:
    """Print speeds and ratios; return whether every bar is reached by the wall clock."""
    reached = True
    for row, values in found.items():
        wall, cpu = (statistics.median(v[clock] for v in values) for clock in ("speed", "cpu"))
        tile = f"   tile {values[0]['rows']} x {values[0]['columns']}" if "rows" in values[0] else ""
        print(f"{row:28}{wall:8.2f} Mpx/s{cpu:8.2f} Mpx per CPU second{tile}")
    for one, other, bar in RATIOS:
        if one in found and other in found:
            wall, cpu = (ratio(found, one, other, clock) for clock in ("speed", "cpu"))
            reached &= bar is None or wall >= bar
            print(f"{one:26} / {other:26}{wall:6.2f}   CPU {cpu:5.2f}" + (f"   bar {bar}" if bar else ""))
    return reached


def main() -> int:
    """Print the table, or one row for the process that asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=4096, help="height and width of the image, pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help="rows to measure")
    parser.add_argument("--first-tile", action="store_true")
    for hidden in ("--row", "--image", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.row:
        print(json.dumps(ROWS[args.row](Path(args.image), Path(args.out))))
        return 0
    if args.first_tile:
        print(f"start to first tile, 100,000 x 100,000 virtual zarr: {first_tile():.1f} s")
        return 0
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.size} pixels square, {args.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print(saved_work((1024, 1024)))
    return 0 if report(found) else 1


if __name__ == "__main__":
    sys.exit(main())
