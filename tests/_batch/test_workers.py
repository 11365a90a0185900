"""Several processes: one that dies takes its image with it, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import tifffile

from napari_fcnseg._batch.inputs import Entry
from napari_fcnseg._batch.one_image import Task
from napari_fcnseg._batch.workers import in_processes
from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import Cancelled
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.cli.synthetic import fluorescence_field


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    """Return what is to be done with three images."""
    settings = SegmentSettings(device="cpu")
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", fluorescence_field(64, 4, seed=1)[0])
    return [
        Task(Entry(str(tmp_path / f"{name}.tif"), name), tmp_path, settings, "", ("csv",)) for name in "abc"
    ]


def _kill_the_first() -> None:
    while not (children := multiprocessing.active_children()):
        time.sleep(0.01)
    assert children[0].pid is not None
    os.kill(children[0].pid, signal.SIGKILL)


def test_a_process_that_dies_fails_its_image_alone(tasks: list[Task]) -> None:
    killer = threading.Thread(target=_kill_the_first)
    killer.start()
    rows = {row.name: row for row in in_processes(tasks, 1, threads=1)}
    killer.join()
    assert {name: row.status for name, row in rows.items()} == {"a": "failed", "b": "done", "c": "done"}
    assert rows["a"].reason.startswith("its process was ended by SIGKILL. Memory may have run out")
    assert not multiprocessing.active_children()


def test_cancelling_ends_all(tasks: list[Task]) -> None:
    control = RunControl()
    rows = in_processes(tasks, 2, threads=1, control=control)
    assert next(rows).status == "done"
    control.cancel()
    with pytest.raises(Cancelled):
        list(rows)
    assert not multiprocessing.active_children()
