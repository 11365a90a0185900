"""Write beside the target, rename at the end: what has the right name is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from napari_fcnseg._shared.errors import ImageFileError, OutputExistsError


@contextlib.contextmanager
def written_whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary path, and move what was written there to `path` on success.

    Parameters
    ----------
    path : pathlib.Path
        Where the finished file or folder shall be.
    overwrite : bool
        Whether something may be there already.

    Yields
    ------
    pathlib.Path
        ``.<name>.<random>.partial`` in the same folder. After an error it is
        removed; after a killed process it stays, and its name says what it is.

    Raises
    ------
    OutputExistsError
        When `path` exists and `overwrite` is false.
    ImageFileError
        When the folder is missing, or a folder that is not Zarr would be replaced.
    """
    check_target(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        # Again: a long run leaves time for another program to write there.
        check_target(path, overwrite=overwrite)
        move_into_place(partial, path)
    except BaseException:
        _remove(partial)
        raise


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot or may not be written."""
    if not path.parent.is_dir():
        raise ImageFileError(
            f"The folder {path.parent} does not exist, so {path.name} cannot be written. Create it first."
        )
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{path} exists already. Choose another name, or pass overwrite=True to replace it."
        )
    if path.is_dir() and not _replaceable(path):
        raise ImageFileError(
            f"{path} is a folder that is not Zarr, and such a one is never replaced. Choose another name."
        )


def _replaceable(folder: Path) -> bool:
    from napari_fcnseg.io.zarr_store import is_zarr

    return is_zarr(folder) or not any(folder.iterdir())


def move_into_place(partial: Path, path: Path) -> None:
    """Give a finished file or folder its name, in place of what has it."""
    if not path.is_dir():
        os.replace(partial, path)
        return
    # A folder cannot be replaced in one step: put the old one aside, and back if need be.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    os.replace(path, aside)
    try:
        os.replace(partial, path)
    except BaseException:
        os.replace(aside, path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
