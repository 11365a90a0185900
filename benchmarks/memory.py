"""Measure how the peak of memory grows with the image.

    python benchmarks/memory.py [--sizes 2048 8192 16384] [--memory 1GB] [--peers]

A square zarr of uint8 is segmented into classes, zarr to zarr, by a small U-Net, each size in a process
of its own, of which the largest resident size is printed, and by how many bytes it grew for each pixel
more than the smallest image has. The exit status is 1 beyond 0.1 byte. With --peers the sliding window
of MONAI, and dask's map_overlap, run the same network (`pip install -r benchmarks/requirements.txt`);
dask stores its result block by block as we do.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import nn

from napari_fcnseg import as_model, build_network, segment_to_zarr

PROMISE = 0.1
WINDOW, HALO = 512, 32


def network() -> nn.Module:
    """Return a network so small that large images take minutes."""
    torch.manual_seed(0)
    return build_network("unet", in_channels=1, classes=2, base_channels=4, depth=2).eval()


def make_image(path: Path, size: int) -> Any:
    """Write noise in chunks of 1024 pixels."""
    array = zarr.create_array(path, shape=(size, size), chunks=(1024, 1024), dtype="uint8")
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024), np.uint8)
    for row in range(0, size, 1024):
        for column in range(0, size, 1024):
            part = array[row : row + 1024, column : column + 1024].shape
            array[row : row + 1024, column : column + 1024] = noise[: part[0], : part[1]]
    return array


def ours(image: Any, out: Path, memory: str) -> None:
    """Segment with this package."""
    model = as_model(network(), classes=["bright"])
    segment_to_zarr(image, out, model, kind="classes", device="cpu", memory=memory)


@torch.inference_mode()
def monai(image: Any, out: Path, _memory: str) -> None:
    """Segment with MONAI's sliding window, which holds image and scores."""
    from monai.inferers import sliding_window_inference

    pixels = torch.from_numpy(np.asarray(image[:], np.float32))[None, None] / 255
    scores = sliding_window_inference(pixels, (WINDOW, WINDOW), 1, network(), overlap=0.25)
    labels = scores.argmax(1)[0].numpy().astype(np.uint8)  # type: ignore[union-attr]
    zarr.create_array(out, data=labels, chunks=(1024, 1024))


@torch.inference_mode()
def map_overlap(image: Any, out: Path, _memory: str) -> None:
    """Segment with dask's blocks that overlap."""
    import dask.array as da

    model = network()

    @torch.inference_mode()
    def block(pixels: Any) -> Any:
        scores = model(torch.from_numpy(np.asarray(pixels, np.float32))[None, None] / 255)
        return scores.argmax(1)[0].numpy().astype(np.uint8)

    pixels = da.from_zarr(image)  # type: ignore[no-untyped-call]
    labels = pixels.map_overlap(
        block, depth=HALO, boundary="none", dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
    )
    labels.to_zarr(out)


WAYS = {"napari-fcnseg": ours, "MONAI": monai, "dask map_overlap": map_overlap}


def run_one(way: str, size: int, memory: str) -> None:
    """Print the peak of one run in bytes, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        image = make_image(Path(folder) / "image.zarr", size)
        start = time.perf_counter()
        WAYS[way](image, Path(folder) / "labels.zarr", memory)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"way": way, "size": size, "megabytes": peak / 1e6, "seconds": seconds}))


def measured(way: str, size: int, memory: str) -> dict[str, Any]:
    """Return what one run in a process of its own prints."""
    command = [sys.executable, __file__, "--one", way, str(size), "--memory", memory]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    print(
        f"{way:16}{size:7} px square{found['megabytes']:8,.0f} MB"
        f"{size * size / found['seconds'] / 1e6:8.2f} Mpx/s", flush=True,
    )  # fmt: skip
    return found


def main() -> int:
    """Print a line for each run, and the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 8192, 16384])
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], int(args.one[1]), args.memory)
        return 0
    ways = list(WAYS) if args.peers else list(WAYS)[:1]
    found = [measured(way, size, args.memory) for size in args.sizes for way in ways]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return report(found, ways)


def report(found: list[dict[str, Any]], ways: list[str]) -> int:
    """Print by how much each way grows; return 1 if ours grows by more than promised."""
    grown = {}
    for way in ways:
        first, *_, last = (row for row in found if row["way"] == way)
        pixels = last["size"] ** 2 - first["size"] ** 2
        grown[way] = (last["megabytes"] - first["megabytes"]) * 1e6 / pixels
        print(f"{way:16} grows by {grown[way]:.3f} byte per pixel")
    return int(grown["napari-fcnseg"] > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
