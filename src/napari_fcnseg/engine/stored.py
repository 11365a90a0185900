"""Passes over zarr arrays in a folder, which can be killed at any moment and go on."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.engine.runners import Runner
from napari_fcnseg.refine.passes import Facts, Work
from napari_fcnseg.tiling.shards import SHARD

# What is read with a margin is decoded in parts of this edge, by number of spatial axes.
CHUNK = {1: 2**16, 2: 512, 3: 64}


class DurableStore(LocalStore):
    """A local store in which whatever was written is on the disk."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file, and wait until it is on the disk."""
        await super().set(key, value)
        await asyncio.to_thread(_sync, self.root / key)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class StoredPasses:
    """Passes whose arrays lie in a folder.

    Parameters
    ----------
    folder : Path
        Of the arrays that lie between image and labels.
    space : int
        Number of spatial axes, the last ones of every array.
    runner : callable
        Does the blocks.
    """

    store: type[LocalStore] = LocalStore

    def __init__(self, folder: Path, space: int, runner: Runner) -> None:
        self.folder, self.space, self.runner = folder, space, runner

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Return the zarr array of that name, zeros when it is new."""
        import zarr

        path = self.folder / name
        if (path / "zarr.json").exists():
            return zarr.open_array(self.store(path), mode="r+")
        chunks, shards = (self._sides(shape, table[self.space]) for table in (CHUNK, SHARD))
        return zarr.create_array(
            self.store(path), shape=shape, dtype=dtype, chunks=chunks,
            shards=tuple(-(-s // c) * c for s, c in zip(shards, chunks, strict=True)), fill_value=0,
            # Scratch is written and read once: speed counts, not size.
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"), overwrite=True,
        )  # fmt: skip

    def _sides(self, shape: tuple[int, ...], edge: int) -> tuple[int, ...]:
        space = shape[len(shape) - self.space :]
        return (1,) * (len(shape) - self.space) + tuple(min(edge, n) for n in space)

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        """Do the work for every block."""
        found = dict(self.runner(work, list(enumerate(boxes))))
        return [found[index] or {} for index in range(len(boxes))]

    def drop(self, *names: str) -> None:
        """Delete arrays."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


class JournalledPasses(StoredPasses):
    """Passes that can be killed at any moment: what is finished stands in a journal.

    Parameters
    ----------
    folder, space, runner
        As for :class:`StoredPasses`.
    journal : Journal
        Of the run.
    """

    store = DurableStore

    def __init__(self, folder: Path, space: int, runner: Runner, journal: Journal) -> None:
        super().__init__(folder, space, runner)
        self.journal = journal

    def each(self, name: str, boxes: Sequence[Box], work: Work) -> list[Facts]:
        """Do the work for every block that is not finished; note each when it is on the disk."""
        done = self.journal.done(name)
        todo = [(index, boxes[index]) for index in range(len(boxes)) if index not in done]
        for index, facts in self.runner(work, todo):
            self.journal.note(name, index, facts)
        return [self.journal.facts(name, index) for index in range(len(boxes))]


def remove_torn(folder: Path) -> None:
    """Delete what a killed process left half-written in a zarr folder."""
    for path in folder.rglob("*.partial"):
        if path.is_file():
            path.unlink()
