"""Fit the embedded nuclei model.

    python scripts/train_nuclei.py ../shared/data/nuclei_dsb2018/train runs/nuclei

Run again after a kill: it continues from ``checkpoint.pt``. The log is
``log.csv``. ``scripts/pack_nuclei.py`` turns the result into a model folder.
"""

from __future__ import annotations

import argparse
import csv
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch

from napari_fcnseg._shared.allocator import tune_allocator
from napari_fcnseg.networks.unet import build_unet
from napari_fcnseg.training.augmentation import Augmentation, random_batch
from napari_fcnseg.training.loop import FitOptions, run_fit, start_fit
from napari_fcnseg.training.losses import object_loss
from napari_fcnseg.training.samples import load_folder, sampling_weights

# Brightfield is rare in the set (2 %) and would hardly be seen.
KIND_WEIGHTS = {"fluorescence": 1.0, "histology": 1.5, "brightfield": 3.0}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("out", type=Path, help="folder for checkpoint.pt and log.csv")
    parser.add_argument("--iterations", type=int, default=11_000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="height and width of a training view, pixels")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Fit, writing the log as it goes."""
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tune_allocator()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    options = FitOptions(args.iterations, seed=args.seed, bfloat16=True)
    samples = load_folder(args.data)
    logging.info("%d images, %d objects", len(samples), sum(s.n_objects for s in samples))
    network = build_unet(1, 4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = partial(object_loss, class_weights=torch.tensor([1.0, 1.0, 1.0]), distance_weight=1.0)
    weights = sampling_weights(samples, KIND_WEIGHTS)

    def batches(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return random_batch(
            samples, weights, batch_size=args.batch_size, size=args.size,
            generator=generator, options=Augmentation(),
        )  # fmt: skip

    def report(row: dict[str, Any]) -> None:
        logging.info(" ".join(f"{k}={v:.5g}" for k, v in row.items()))
        log = args.out / "log.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    run_fit(start_fit(network, options), batches, loss, options, args.out / "checkpoint.pt", report=report)


if __name__ == "__main__":
    main()
