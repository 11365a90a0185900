"""Work for the workers of a cluster: what it does shows in files."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.passes import Facts


@dataclass(frozen=True)
class Slow:
    """Takes a while for a block, in which a file stands for it."""

    folder: Path
    seconds: float

    def __call__(self, box: Box) -> Facts | None:
        """Return who did it."""
        begun = self.folder / f"{box[0][0]}.begun"
        begun.touch()
        time.sleep(self.seconds)
        (self.folder / f"{box[0][0]}.written").touch()
        begun.unlink()
        return {"pid": np.asarray(os.getpid())}


@dataclass(frozen=True)
class Gathering:
    """Waits, after the first three blocks, until so many workers are at it."""

    folder: Path
    workers: int

    def __call__(self, box: Box) -> Facts | None:
        """Return who did it."""
        (self.folder / str(os.getpid())).touch()
        end = time.monotonic() + 30
        while box[0][0] >= 3 and len(list(self.folder.iterdir())) < self.workers and time.monotonic() < end:
            time.sleep(0.05)
        return {"pid": np.asarray(os.getpid())}


@dataclass(frozen=True)
class Deadly:
    """Kills its worker at one block, as the system does when memory is short."""

    block: int

    def __call__(self, box: Box) -> Facts | None:
        """Return nothing."""
        if box[0][0] == self.block:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


@dataclass(frozen=True)
class Threads:
    """Learns with how many threads a block is computed, and weighs as much as a model."""

    weights: bytes

    def __call__(self, _box: Box) -> Facts | None:
        """Return how many there were, and set two."""
        found = torch.get_num_threads()
        torch.set_num_threads(2)
        return {"threads": np.asarray(found)}
