"""Draw throughput and memory against image size, ours and two peers', for the documentation.

    python benchmarks/memory.py --peers --sizes 1024 2048 4096 8192 16384 --json FILE
    python benchmarks/chart.py

FILE is benchmarks/results/memory.json; docs/images/engine.png is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
MARKS = {"napari-fcnseg": ("#0072b2", "o"), "MONAI": ("#d55e00", "s"), "dask map_overlap": ("#009e73", "^")}


def draw(axis: Any, rows: list[dict[str, Any]], label: str, value: Any) -> None:
    """Draw one quantity for all ways."""
    for way, (colour, marker) in MARKS.items():
        chosen = [row for row in rows if row["way"] == way]
        axis.plot(
            [row["size"] for row in chosen],
            [value(row) for row in chosen],
            color=colour,
            marker=marker,
            label=way,
        )
    axis.set(xscale="log", yscale="log", xlabel="image, pixels square", ylabel=label)
    sizes = sorted({row["size"] for row in rows})
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def main() -> None:
    """Write the picture."""
    rows = json.loads((ROOT / "benchmarks/results/memory.json").read_text())
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    draw(left, rows, "throughput, Mpx/s", lambda row: row["size"] ** 2 / row["seconds"] / 1e6)
    draw(right, rows, "peak memory of the process, MB", lambda row: row["megabytes"])
    right.set_yticks([500, 1000, 2000, 4000], ["500", "1,000", "2,000", "4,000"])
    left.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    left.legend(frameon=False)
    figure.savefig(ROOT / "docs/images/engine.png", dpi=120)


if __name__ == "__main__":
    main()
