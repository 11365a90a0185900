"""Tabulate every network: size, reach, work and speed, beside what its paper states.

    python benchmarks/networks.py [--size 512] [--rounds 3] [--only NAME] [--markdown]

Parameters and halo are those of 3 channels and 21 classes. MFLOP/px counts
the multiplications and additions of one image of 2048 pixels square, padding
included. Mpx/s is what the segmenter gives on this machine in float32, folded
and in the faster memory layout, on one image of `--size`; the rounds go
through all networks in turn, and the medians stand beside that of the default
U-Net in the same rounds. The exit status is 1 if a count differs from the
paper's, where it gives one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg.networks import NetworkSegmenter, build_network, derive_field
from napari_fcnseg.networks.anysize import AnySize

CHANNELS, CLASSES, LARGE = 3, 21, 2048
YARDSTICK = "unet"


@dataclass(frozen=True)
class Row:
    """A network as built with some options, and the number of parameters that is published for it."""

    title: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    classes: int = CLASSES
    channels: int = CHANNELS

    def build(self, device: str) -> nn.Module:
        """Return it with fresh weights."""
        torch.manual_seed(0)
        with torch.device(device):
            return build_network(
                self.name, in_channels=self.channels, classes=self.classes, **self.options
            ).eval()


ROWS = [
    Row("unet", "unet"),
    Row("unet, 64 channels", "unet", {"base_channels": 64}),
    Row("unet_valid, 1 to 2", "unet_valid", published="31,030,658", classes=2, channels=1),
    *(Row(name, name, published="134 M") for name in ("fcn32s", "fcn16s", "fcn8s", "fcn8s_at_once")),
    Row("fcn32s, padded by 100", "fcn32s", {"padding": "pad100"}, "134 M"),
    Row("fcn32s, alexnet", "fcn32s", {"backbone": "alexnet"}, "57 M"),
    Row("fcn32s, googlenet", "fcn32s", {"backbone": "googlenet"}, "6 M"),
    Row("fcn8s, alexnet", "fcn8s", {"backbone": "alexnet"}),
    Row("fcn8s, googlenet", "fcn8s", {"backbone": "googlenet"}),
    *(Row(f"fcn_resnet, {b}", "fcn_resnet", {"backbone": b}) for b in ("resnet18", "resnet50", "resnet101")),
    Row("deconvnet", "deconvnet", published="252 M"),
    Row("dilated_frontend", "dilated_frontend", published="134 M"),
    Row("dilated, basic", "dilated"),
    Row("dilated, large", "dilated", {"context": "large"}),
    Row("pspnet, resnet50", "pspnet"),
    Row("pspnet, resnet101", "pspnet", {"backbone": "resnet101"}),
    Row("pspnet, mobilenet_v2", "pspnet", {"backbone": "mobilenet_v2"}),
    Row("pspnet, fixed grid", "pspnet", {"pyramid": "fixed"}),
    Row("pspnet, no pyramid", "pspnet", {"pyramid": None}),
]


def parameters(network: nn.Module) -> int:
    """Return how many numbers training may change."""
    return sum(weights.numel() for weights in network.parameters())


def agrees(count: int, published: str) -> bool:
    """Tell whether a count rounds to what a paper prints, such as "134 M"."""
    number, _, unit = published.partition(" ")
    return round(count / 1e6) == int(number) if unit == "M" else count == int(number.replace(",", ""))


def fitting(network: nn.Module, size: int) -> tuple[int, int]:
    """Return the next length of the image that fits, with and without the lost border."""
    assert isinstance(network, AnySize)
    length = network.fitting(size)
    return length + sum(network.margin), length


def megaflops_per_pixel(row: Row) -> float:
    """Return the work for each pixel of a large image, of which only the shapes are computed."""
    network = row.build("meta")
    given, kept = fitting(network, LARGE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.scores(torch.empty(1, row.channels, given, given, device="meta"))  # type: ignore[operator]
    return counter.get_total_flops() / kept**2 / 1e6


class Timed:
    """A network with the times of its passes."""

    def __init__(self, row: Row, size: int) -> None:
        network = row.build("cpu")
        self.given, self.kept = fitting(network, size)
        self.segmenter = NetworkSegmenter(network, in_channels=row.channels, out_channels=row.classes, ndim=2)
        self.image = torch.randn(1, row.channels, self.given, self.given)
        self.rates: list[float] = []
        self.segmenter.predict(self.image)

    def run(self) -> None:
        """Time one pass."""
        start = time.perf_counter()
        self.segmenter.predict(self.image)
        self.rates.append(self.kept**2 / (time.perf_counter() - start) / 1e6)

    @property
    def rate(self) -> float:
        """Median megapixels for each second."""
        return statistics.median(self.rates)


def timed(rows: list[Row], size: int, rounds: int) -> Iterator[tuple[Row, float, float]]:
    """Iterate over the networks with their rate and its ratio to that of the yardstick beside it."""
    yardstick = Timed(Row(YARDSTICK, YARDSTICK), size)
    for row in rows:
        network = Timed(row, size)  # one large network in memory at a time
        yardstick.rates.clear()
        for _ in range(rounds):
            yardstick.run()
            network.run()
        yield row, network.rate, network.rate / yardstick.rate


def cells(row: Row, rate: float, ratio: float) -> tuple[list[str], bool]:
    """Return a line of the table, and whether its count is the published one."""
    network = row.build("meta")
    found, count = derive_field(network, 2), parameters(network)
    right = not row.published or agrees(count, row.published)
    stride, halo = (str(found.stride[0]), str(max(found.halo[0]))) if found.exact else ("-", "-")
    line = [
        row.title, f"{count:,}", row.published or "-", stride, halo,
        f"{megaflops_per_pixel(row):.3g}", f"{rate:.3g}", f"{ratio:.2g}", "yes" if found.exact else "no",
    ]  # fmt: skip
    return line, right


HEAD = ["network", "parameters", "paper", "stride", "halo", "MFLOP/px", "Mpx/s", "of unet", "exact"]
WIDTHS = [24, 13, 12, 8, 6, 10, 9, 9, 7]


def show(line: list[str], markdown: bool) -> None:
    """Print one line of the table."""
    if markdown:
        print("| " + " | ".join(line) + " |", flush=True)
        return
    first, *rest = line
    print(
        f"{first:24}" + "".join(f"{cell:>{w}}" for cell, w in zip(rest, WIDTHS[1:], strict=True)), flush=True
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="networks whose title holds this text")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    tune_allocator()
    rows = [row for row in ROWS if not args.only or args.only in row.title]
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, {args.size} pixels square\n"
    )
    show(HEAD, args.markdown)
    if args.markdown:
        show(["---"] * len(HEAD), True)
    wrong = []
    for row, rate, ratio in timed(rows, args.size, args.rounds):
        line, right = cells(row, rate, ratio)
        show(line, args.markdown)
        wrong += [] if right else [row.title]
    if wrong:
        print(f"\nother counts than published: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
