"""Compare two worker processes of one thread with one process of two threads.

    python benchmarks/workers.py [--size 8192] [--rounds 3]

The same zarr is segmented into classes by the same U-Net (16 base channels, 4 poolings), in turn by this
process and by a `dask.distributed` cluster of two workers. Printed are the median times, the ratio of
the throughputs, and whether the labels are the same to the byte. Without the time to start the workers
and load the model.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import zarr
from distributed import Client, LocalCluster
from memory import make_image

from napari_fcnseg import as_model, build_network, segment_to_zarr


def timed(image: Any, store: Path, model: Any, **options: Any) -> float:
    """Return the seconds of one run."""
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    segment_to_zarr(image, store, model, kind="classes", device="cpu", memory="1GB", **options)
    return time.perf_counter() - start


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = as_model(build_network("unet", in_channels=1, classes=2), classes=["bright"])
    with (
        tempfile.TemporaryDirectory() as name,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        folder = Path(name)
        image = make_image(folder / "image.zarr", args.size)
        small = make_image(folder / "small.zarr", 4096)
        timed(small, folder / "warm.zarr", model, client=client, precision=args.precision)
        times: dict[str, list[float]] = {"one process": [], "two workers": []}
        for _ in range(args.rounds):
            alone = timed(image, folder / "one.zarr", model, precision=args.precision)
            both = timed(image, folder / "two.zarr", model, client=client, precision=args.precision)
            times["one process"].append(alone)
            times["two workers"].append(both)
        same = bool(
            (zarr.open_array(folder / "one.zarr/0")[:] == zarr.open_array(folder / "two.zarr/0")[:]).all()  # type: ignore[union-attr, operator]
        )
    return report(times, args.size, same)


def report(times: dict[str, list[float]], size: int, same: bool) -> int:
    """Print the figures; return 1 if a bar is missed."""
    for way, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{way:14}{middle:8.1f} s{size * size / middle / 1e6:8.2f} Mpx/s")
    pairs = zip(times["one process"], times["two workers"], strict=True)
    ratio = statistics.median(one / two for one, two in pairs)
    print(f"two workers reach {ratio:.2f} of the throughput of one process; labels identical: {same}")
    return int(ratio < 0.9 or not same)


if __name__ == "__main__":
    sys.exit(main())
