"""Measure the network alone: the ceiling of the engine.

    python benchmarks/forward.py [--size 1024] [--rounds 5]

Each way of running the same U-Net (16 base channels, 4 poolings) is timed in
turn, round after round, in processes of its own, because the allocator can
only be tuned once. Printed are the median megapixels for each second and the
ratio to the network as built.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch

from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg.networks import build_network
from napari_fcnseg.networks.folding import folded

WAYS = {
    "as built": (),
    "+ BatchNorm folded": ("fold",),
    "+ channels_last": ("fold", "layout"),
    "+ allocator tuned": ("fold", "layout", "allocator"),
    "+ bfloat16": ("fold", "layout", "allocator", "bfloat16"),
}


@torch.inference_mode()
def megapixels_per_second(size: int, steps: tuple[str, ...], repeats: int = 3) -> float:
    """Return the best of a few passes over one square image."""
    if "allocator" in steps:
        tune_allocator()
    torch.manual_seed(0)
    network = build_network("unet", in_channels=1, classes=2).eval()
    network = folded(network) if "fold" in steps else network
    image = torch.randn(1, 1, size, size)
    if "layout" in steps:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = image.contiguous(memory_format=torch.channels_last)
    if "bfloat16" in steps:
        network, image = network.bfloat16(), image.bfloat16()
    network(image)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - start)
    return size * size / min(times) / 1e6


def in_new_process(size: int, way: str) -> float:
    """Return the figure of one way, measured in a process of its own."""
    command = [sys.executable, __file__, "--size", str(size), "--one", way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="height and width, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(megapixels_per_second(args.size, WAYS[args.one]))
        return
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, values in found.items():
            values.append(in_new_process(args.size, way))
    base = found["as built"]
    threads = torch.get_num_threads()
    print(f"U-Net, 16 base channels, {args.size} px square, {threads} threads, torch {torch.__version__}")
    for way, values in found.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        print(f"{way:22}{statistics.median(values):8.2f} Mpx/s{ratio:8.2f}x")


if __name__ == "__main__":
    main()
