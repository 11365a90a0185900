"""What a run has finished, on disk, so that it can go on after anything.

A file of JSON lines, only ever appended to: the header of the run first, then
a line for each finished block of each pass. A line is written when the pixels
of its block are on the disk, and is on the disk itself before the run goes on.
What a pass learned of a block lies beside it, in a file of its own.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from napari_fcnseg._shared.errors import ResumeError
from napari_fcnseg.refine.passes import Facts


class Journal:
    """The journal of one run; one writer at a time.

    Parameters
    ----------
    folder : Path
        Where it lies; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.header: dict[str, Any] | None = None
        self._done: dict[str, set[int]] = defaultdict(set)
        self._lock = threading.Lock()
        self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            # The process died in the middle of a line: what it was about is done again.
            os.truncate(self.path, whole)
        for number, line in enumerate(text[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                self._take(entry)
            except (ValueError, KeyError, TypeError) as exc:
                raise ResumeError(
                    f"line {number} of the journal {self.path} is damaged ({exc}); start anew with "
                    "resume=False."
                ) from exc

    def _take(self, entry: dict[str, Any]) -> None:
        if "header" in entry:
            self.header = entry["header"]
        else:
            self._done[entry["pass"]].add(int(entry["block"]))

    def begin(self, header: dict[str, Any]) -> None:
        """Write the header of a new run."""
        self._append({"header": header})
        self.header = header

    def done(self, name: str) -> set[int]:
        """Return which blocks of a pass are finished."""
        return set(self._done[name])

    def note(self, name: str, block: int, facts: Facts | None) -> None:
        """Note a block whose pixels are on the disk, with what was learned of it."""
        if facts:
            self._keep(self._facts_path(name, block), facts)
        self._append({"pass": name, "block": block})
        self._done[name].add(block)

    def facts(self, name: str, block: int) -> Facts:
        """Return what was learned of a finished block."""
        path = self._facts_path(name, block)
        if not path.exists():
            return {}
        with np.load(path) as found:
            return dict(found)

    def with_facts(self, name: str) -> set[int]:
        """Return of which blocks of a pass anything was learned."""
        folder = self.folder / "facts" / name
        if not folder.is_dir():
            return set()
        return {int(path.stem) for path in folder.glob("*.npz")}

    def _facts_path(self, name: str, block: int) -> Path:
        return self.folder / "facts" / name / f"{block}.npz"

    def _keep(self, path: Path, facts: Facts) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **facts)  # type: ignore[arg-type]
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"
        with self._lock, self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                file.write(line.encode())
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)  # a full disk takes half a line; another thread may still append
                raise
