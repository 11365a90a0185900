"""Passes over zarr arrays in a folder, which can be killed at any moment and go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from napari_fcnseg._shared.errors import ResumeError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.engine.runners import Runner
from napari_fcnseg.refine.passes import Facts, Work
from napari_fcnseg.tiling.shards import SHARD

# What is read with a margin is decoded in parts of this edge, by number of spatial axes.
CHUNK = {1: 2**16, 2: 512, 3: 64}


class DurableStore(LocalStore):
    """A local store in which a file is whole, and on the disk when it is told to be written."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file, and wait until it is on the disk."""
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file, and return when it is on the disk."""
        self._check_writable()
        _write_durably(self.root / key, value.as_buffer_like())


def _write_durably(path: Path, content: Any) -> None:
    """Write a file that a killed process or a power cut leaves whole, old or new; not all of zarr's do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # there, folders cannot be opened
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        # Some network drives cannot; the pixels are on the disk.
        with suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)


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
        """Return the zarr array of that name, zeros when it is new.

        Raises
        ------
        ResumeError
            When one of another shape or type is there.
        """
        import zarr

        path = self.folder / name
        if (path / "zarr.json").exists():
            return _checked(zarr.open_array(self.store(path), mode="r+"), shape, dtype)
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
        with closing(self.runner(work, enumerate(boxes))) as done:
            found = {index: facts for index, facts in done if facts}
        return [found.get(index, {}) for index in range(len(boxes))]

    def drop(self, *names: str) -> None:
        """Delete arrays."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _checked(array: Any, shape: tuple[int, ...], dtype: str) -> Any:
    if (array.shape, array.dtype) != (tuple(shape), np.dtype(dtype)):
        raise ResumeError(
            f"{array.store.root} holds {array.dtype} of shape {array.shape}, and this run wants {dtype} of "
            f"shape {tuple(shape)}: another run has left it. Start anew with resume=False (--no-resume)."
        )
    return array


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
        todo = ((index, boxes[index]) for index in range(len(boxes)) if index not in done)
        # Closed when a note fails, too: no worker may go on writing then.
        with closing(self.runner(work, todo)) as finished:
            for index, facts in finished:
                self.journal.note(name, index, facts)
        kept = self.journal.with_facts(name)
        return [self.journal.facts(name, index) if index in kept else {} for index in range(len(boxes))]


def remove_torn(folder: Path) -> None:
    """Delete what a killed process left half-written in a zarr folder."""
    for path in folder.rglob("*.partial"):
        if path.is_file():
            path.unlink()
