"""Passes in a folder: files that are whole, arrays that fit, and facts of the blocks that have any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.engine.stores import small_shards

from napari_fcnseg._shared.errors import ResumeError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.engine.runners import Finished, LocalRunner
from napari_fcnseg.engine.stored import DurableStore, JournalledPasses, StoredPasses, remove_torn
from napari_fcnseg.refine.passes import Facts, Work

BOXES: list[Box] = [((i, i + 1),) for i in range(6)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


def odd(box: Box) -> Facts | None:
    """Learn something of every other block."""
    number = box[0][0]
    return {"number": np.asarray(number)} if number % 2 else None


def numbers(found: list[Facts]) -> list[int | None]:
    return [int(facts["number"]) if facts else None for facts in found]


def passes(folder: Path, runner: Any = None) -> JournalledPasses:
    return JournalledPasses(folder / "scratch", 1, runner or LocalRunner(), Journal(folder))


@pytest.mark.parametrize("kind", [StoredPasses, JournalledPasses])
def test_facts_come_in_the_order_of_blocks(tmp_path: Path, kind: type[StoredPasses]) -> None:
    made = passes(tmp_path) if kind is JournalledPasses else StoredPasses(tmp_path, 1, LocalRunner())
    assert numbers(made.each("name", BOXES, odd)) == [None, 1, None, 3, None, 5]
    assert made.each("none", BOXES, lambda _: None) == [{}] * 6


def test_facts_of_an_earlier_session_are_kept_and_its_blocks_not_repeated(tmp_path: Path) -> None:
    def fails(box: Box) -> Facts | None:
        if box == BOXES[4]:
            raise OSError("no room")
        return odd(box)

    with pytest.raises(OSError, match="no room"):
        passes(tmp_path).each("name", BOXES, fails)
    seen: list[Box] = []

    def later(box: Box) -> Facts | None:
        seen.append(box)
        return odd(box)

    assert numbers(passes(tmp_path).each("name", BOXES, later)) == [None, 1, None, 3, None, 5]
    assert seen[-2:] == BOXES[4:]
    assert BOXES[0] not in seen


def test_a_note_that_fails_ends_the_runner_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def runner(_work: Work, blocks: Iterable[tuple[int, Box]]) -> Finished:
        try:
            for index, _ in blocks:
                yield index, None
        finally:
            ended.append(True)

    made = passes(tmp_path, runner)
    monkeypatch.setattr(made.journal, "path", tmp_path)  # a folder cannot be appended to
    with pytest.raises(OSError) as failure:
        made.each("name", BOXES, odd)
    assert ended
    del failure


@pytest.mark.parametrize("other", [((90, 131), "uint8"), ((90, 130), "uint16")])
def test_an_array_of_another_run_is_refused(tmp_path: Path, other: tuple[tuple[int, ...], str]) -> None:
    made = StoredPasses(tmp_path, 2, LocalRunner())
    made.array("seeds", (90, 130), "uint8")[0] = 1
    assert made.array("seeds", (90, 130), "uint8")[0, 0] == 1
    with pytest.raises(ResumeError, match=r"seeds holds uint8 of shape \(90, 130\), and .* resume=False"):
        made.array("seeds", *other)


@pytest.mark.skipif(os.name == "nt", reason="nobody is killed like that there")
def test_a_killed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """The process is killed when the new bytes of a shard are half on their way."""
    array = zarr.create_array(
        DurableStore(tmp_path / "a"), shape=(64,), chunks=(8,), shards=(64,), dtype="u2"
    )
    array[:] = np.arange(64)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(array[:], np.arange(64))
    assert list((tmp_path / "a").rglob("*.partial"))
    remove_torn(tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").rglob("*") if p.is_file()) == ["0", "zarr.json"]


# Whatever is synchronised is only half on the disk, and the process dies of it.
KILLED = """
import os, signal, sys
import zarr
from napari_fcnseg.engine import stored

def die(file):
    os.ftruncate(file, os.fstat(file).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)

array = zarr.open_array(stored.DurableStore(sys.argv[1]), mode="r+")
os.fsync = die
array[3:9] = 7
"""
