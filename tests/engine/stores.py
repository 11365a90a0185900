"""Stores of labels, compared file by file, and runs that are stopped at chosen moments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine.small import texture

from napari_fcnseg.engine import stored
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.tiling.shards import SHARD

TIMES = ("started", "seconds")


class Killed(BaseException):
    """The process is gone; nothing catches it."""


def small_shards(monkeypatch: pytest.MonkeyPatch, edge: int = 48) -> None:
    """Make shards so small that a test image has several."""
    for axes in SHARD:
        monkeypatch.setitem(SHARD, axes, edge)
        monkeypatch.setitem(stored.CHUNK, axes, edge // 2)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, note: int, *, before: bool) -> Iterator[None]:
    """Kill the run when it makes its n-th note: before it is written, or after."""
    made, real = 0, Journal.note

    def noting(self: Journal, *args: Any) -> None:
        nonlocal made
        made += 1
        if made == note and before:
            raise Killed
        real(self, *args)
        if made == note:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note", noting)
        with pytest.raises(Killed):
            yield


def contents(store: Path) -> dict[str, bytes]:
    """Return every file of a store by its path, without the times of the record."""
    found = {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}
    for name in ("zarr.json", ".zattrs"):
        if name in found:
            found[name] = json.dumps(_without_times(json.loads(found[name]))).encode()
    return found


def _without_times(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {k: _without_times(v) for k, v in data.items() if k not in TIMES}


def image() -> Any:
    """Return an image of six shards."""
    return texture(90, 130, seed=3)
