"""What is known of an image of a batch: what was asked for, and what of it is there.

A small JSON file for each image, in a hidden folder of the results. A rerun compares, and
does only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.io.atomic import written_whole
from napari_fcnseg.io.location import location_of

FOLDER = ".batch"

# They say how fast and where, not what comes of it.
_NOT_COMPARED = ("memory", "batch_size")


@dataclass(frozen=True)
class ImageState:
    """State of one image.

    Attributes
    ----------
    asked : dict
        Input, model and settings that the outputs are made of, see :func:`what_is_asked`.
    replaces : str
        Stamp of an older label store that is to be replaced; empty for none.
    outputs : dict of str to str
        Names of the finished files beside the labels, by what they are.
    objects : int or None
        Objects found; None for classes.
    seconds : float
        What it took.
    summary : dict
        A few numbers for the report.
    """

    asked: dict[str, Any]
    replaces: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    objects: int | None = None
    seconds: float = 0.0
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> ImageState | None:
        """Return the state in a file; None if there is none, or it is of another release."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write the state whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, overwrite=True) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def what_is_asked(
    source: str, settings: SegmentSettings, model_sha256: str, part_of_file: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that decides what comes of an image.

    Parameters
    ----------
    source : str
        Path or address of the image.
    settings : SegmentSettings
        As the user gave them.
    model_sha256 : str
        Of the model's weights, which can change under one path.
    part_of_file : mapping
        Level and series.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    compared = {k: v for k, v in settings.to_dict().items() if k not in _NOT_COMPARED}
    return {
        "input": _fingerprint(source), "model sha256": model_sha256, **part_of_file, "settings": compared
    }  # fmt: skip


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words what was asked for before and is now."""
    old, new = ({**asked, **asked["settings"], "settings": None} for asked in (before, now))
    names = [name for name in (*new, *(n for n in old if n not in new)) if old.get(name) != new.get(name)]
    told = [
        "the image has changed" if name == "input" else f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
        for name in names
    ]
    return "; ".join(told)


def stamp_of(store: Path) -> str:
    """Return what tells a label store from another at the same place; empty if there is none.

    Its metadata hold the record of the run, with its time.
    """
    if not os.path.lexists(store):
        return ""
    metadata = store / "zarr.json"
    return hashlib.sha256(metadata.read_bytes()).hexdigest() if metadata.is_file() else "foreign"


def _fingerprint(source: str) -> dict[str, int]:
    """Return size and time of a file, or of all files of a folder together."""
    path = location_of(source)
    if not isinstance(path, Path):
        return {}
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}. Check the spelling.")
    sizes = [path.stat()] if path.is_file() else list(_stats_below(path))
    return {
        "files": len(sizes),
        "bytes": sum(s.st_size for s in sizes),
        "changed": max((s.st_mtime_ns for s in sizes), default=0),
    }


def _stats_below(folder: Path) -> list[os.stat_result]:
    return [
        os.stat(os.path.join(where, name), follow_symlinks=False)
        for where, _, names in os.walk(folder)
        for name in names
    ]
