"""What a run did: its resolved settings, what it ran on, and what came of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from napari_fcnseg._shared.errors import InputError, OutputExistsError, nearest_name
from napari_fcnseg._shared.settings import SegmentSettings

FORMAT = "napari-fcnseg run record"
FORMAT_VERSION = 1
SUFFIX = ".fcnseg.json"
_IMAGE_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr")
_DICTS = ("image", "model", "transform", "plan", "versions")


@dataclass(frozen=True)
class RunRecord:
    """A run as it was made, enough to repeat and to cite it.

    Tuples in the dictionaries become lists and NumPy numbers become Python's,
    so that a record equals itself after a round trip through its file.

    Attributes
    ----------
    settings : SegmentSettings
        As resolved: nothing is ``"auto"``.
    image : dict
        ``name``, ``path``, ``shape``, ``dtype``, ``axes``, ``scale``, ``units``.
    model : dict
        ``name``, ``version``, ``sha256`` and more of the model's card.
    transform : dict
        The normalisation that was decided for the whole image.
    plan : dict
        The tiles.
    device : str
        Where the network ran.
    threads : int
        Threads that torch used.
    versions : dict of str to str
        Version of each package that had a part in it.
    started : str
        ISO 8601 with the offset from UTC.
    seconds : float
        Wall time; of a run that was resumed, that of its last session.
    objects : int or None
        Objects found; None when the labels are classes.
    notes : tuple of str
        What was decided or noticed on the way.

    See Also
    --------
    napari_fcnseg._shared.settings.SegmentSettings : Options alone.
    """

    settings: SegmentSettings
    image: dict[str, Any]
    model: dict[str, Any]
    transform: dict[str, Any]
    plan: dict[str, Any]
    device: str
    threads: int
    versions: dict[str, str]
    started: str
    seconds: float
    objects: int | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.settings, SegmentSettings):
            raise InputError(f"settings is {self.settings!r}; it must be a SegmentSettings.")
        if self.settings.precision == "auto":
            raise InputError(
                "A record states what was resolved, but its precision is 'auto'. Resolve it first."
            )
        for name in _DICTS:
            object.__setattr__(self, name, plain(_checked(name, getattr(self, name), Mapping)))
        object.__setattr__(self, "device", _checked("device", self.device, str))
        object.__setattr__(self, "threads", int(_number("threads", self.threads)))
        object.__setattr__(self, "seconds", float(_number("seconds", self.seconds)))
        if self.objects is not None:
            object.__setattr__(self, "objects", int(_number("objects", self.objects)))
        notes = _checked("notes", self.notes, list | tuple)
        object.__setattr__(self, "notes", tuple(str(note) for note in notes))
        _check_time(self.started)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types, its format and version first."""
        data: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
        data.update({f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "settings"})
        return {**data, "settings": self.settings.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> RunRecord:
        """Restore a record.

        Raises
        ------
        InputError
            When it is something else, of a later format, or incomplete.
        """
        _check_format(data)
        content = {k: v for k, v in data.items() if k not in ("format", "format_version")}
        known = [f.name for f in fields(cls)]
        missing = [name for name in known if name not in content]
        unknown = [name for name in content if name not in known]
        if missing:
            raise InputError(f"The run record lacks {', '.join(missing)}: it is damaged. Take another copy.")
        if unknown:
            raise InputError(f"A run record has no {unknown[0]!r}.{nearest_name(unknown[0], known)}")
        settings = SegmentSettings.from_dict(_checked("settings", content.pop("settings"), Mapping))
        return cls(settings=settings, **content)

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> Path:
        """Write the record whole or not at all, and return its path.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.fcnseg.json``.
        overwrite : bool, optional
            Replace what is there. Default: refuse.

        Raises
        ------
        OutputExistsError
            `path` exists and `overwrite` is false.
        InputError
            Another ending.
        """
        path = Path(path)
        if not path.name.endswith(SUFFIX):
            raise InputError(
                f"{path.name!r} is no name for a run record; it must end in {SUFFIX!r}. Rename it."
            )
        _refuse_existing(path, overwrite)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            _refuse_existing(path, overwrite)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: str | PathLike[str]) -> RunRecord:
        """Read a record.

        Raises
        ------
        FileNotFoundError
            When there is nothing at `path`.
        InputError
            When the file is damaged or is no run record; the message says which.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"There is no run record {path}. Check the spelling.")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as exc:
            raise InputError(
                f"{path} is not JSON ({exc}): it is damaged or something else. Pass a file *{SUFFIX}."
            ) from exc
        except InputError as exc:
            raise InputError(f"{path}: {exc}") from exc


def record_path(output: str | PathLike[str]) -> Path:
    """Return where the record of an output belongs: beside it, under its stem.

    Examples
    --------
    >>> record_path("cells_labels.ome.tif").name
    'cells_labels.fcnseg.json'
    """
    output = Path(output)
    return output.with_name(image_stem(output) + SUFFIX)


def image_stem(path: str | PathLike[str]) -> str:
    """Return the name of an image file without its ending, double endings included."""
    path = Path(path)
    double = next((s for s in _IMAGE_SUFFIXES if path.name.lower().endswith(s)), None)
    return path.name[: -len(double)] if double else path.stem


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(
            f"{path} exists already. Choose another name, or pass overwrite=True to replace it."
        )


def _check_format(data: Any) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f'This is no run record: it has no "format": {FORMAT!r}. Pass a file *{SUFFIX}.')
    version = data.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"The run record has the format version {version!r}; this napari-fcnseg reads 1 to "
            f"{FORMAT_VERSION}. Update napari-fcnseg."
        )


def _check_time(started: object) -> None:
    try:
        aware = datetime.fromisoformat(str(started)).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise InputError(
            f"started is {started!r}; it must be a time of ISO 8601 with its offset, such as "
            "'2026-01-31T12:00:00+00:00'."
        )


def _checked(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{name} is {value!r} in the run record, which cannot be. The record is damaged.")
    return value


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, str) or not 0 <= number < math.inf:
        raise InputError(f"{name} is {value!r} in the run record; it must be a number, 0 or more.")
    return number


def plain(value: Any) -> Any:
    """Return JSON types only; what is not finite becomes None, as JSON has no word for it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy numbers and arrays, without importing it
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
