"""Where the labels of a run go: one writer, a name when complete, and nothing lost on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_fcnseg._shared.errors import ImageFileError, OutputExistsError, ResumeError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.io.atomic import check_target, move_into_place
from napari_fcnseg.io.label_store import label_version, labels_folder, register_label
from napari_fcnseg.io.writing import refuse_own_source

# In the store while the run lasts: the journal, and what lies between image and labels.
FOLDER = ".fcnseg"
# In that folder when only the last steps are missing.
COMPLETE = "complete"
# What systems say when a disk, a quota or a file is full.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Target:
    """Where the labels of a run go.

    Attributes
    ----------
    path : Path
        The finished store.
    version : str
        Of OME-Zarr.
    image : Path or None
        The OME-Zarr image that the labels join.
    """

    path: Path
    version: str
    image: Path | None = None

    @classmethod
    def choose(cls, store: str | os.PathLike[str], name: str | None, version: str) -> Target:
        """Return the target of a store, or of a name among the labels of an image."""
        path = Path(store).absolute()
        if name is None:
            return cls(path, version)
        return cls(labels_folder(path, name), label_version(path), path)

    @property
    def partial(self) -> Path:
        """The store while the run lasts."""
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def folder(self) -> Path:
        """Where the journal lies while the run lasts."""
        return self.partial / FOLDER

    @property
    def complete(self) -> bool:
        """Whether the store has its name, but a run was killed before its last steps."""
        return (self.path / FOLDER / COMPLETE).exists()

    @property
    def name(self) -> str:
        """Name of the label image."""
        return self.path.name.removesuffix(".zarr").removesuffix(".ome")

    def check(self, like: Any) -> None:
        """Refuse a target that no run could end in, whatever is allowed to be overwritten.

        Parameters
        ----------
        like : array
            The image, which must not be replaced by its labels.
        """
        if self.image is not None:
            self.path.parent.mkdir(exist_ok=True)
        else:
            refuse_own_source(self.path, like)
        check_target(self.path, overwrite=True)
        if self.path.exists() and not self.path.is_dir():
            raise OutputExistsError(f"{self.path} is a file, and a store is a folder; choose another name.")
        if self.partial.is_dir() and any(self.partial.iterdir()) and not self.folder.is_dir():
            raise OutputExistsError(
                f"{self.partial} is there, but was not left by a run of this package; move it away."
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from writing here; freed by the system when this one dies.

        The lock file stays: to delete it would let two processes lock two files of one name.
        It lies beside the image, as readers of Zarr wonder about files inside.
        """
        outer = self.image or self.path
        lock = FileLock(outer.with_name(f".{'.'.join(dict.fromkeys((outer.name, self.path.name)))}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise ResumeError(
                f"another process is writing {self.path}; wait until it has ended, or choose another name."
            ) from exc
        except OSError as exc:
            raise ImageFileError(
                f"{self.path.parent} cannot be written to ({exc.strerror}); make it writable, or choose "
                "another folder."
            ) from exc
        with lock, self._room():
            lock.release()  # `with` has taken it once more
            yield

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Say of a full disk which it is, and that nothing is lost."""
        try:
            yield
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            raise OSError(
                exc.errno,
                f"no room is left for {self.partial} ({exc.strerror}); make some and repeat the call, which "
                "goes on where it was",
            ) from exc

    def clear(self) -> None:
        """Throw away what a stopped run has left."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def finish(self, record: RunRecord, *, overwrite: bool) -> None:
        """Give a complete store its name, its record, and its place among the labels of the image."""
        import zarr

        group = zarr.open_group(self.partial, mode="r+")
        group.attrs["napari_fcnseg"] = {"record": record.to_dict()}
        (self.folder / COMPLETE).touch()
        check_target(self.path, overwrite=overwrite)  # again: a long run leaves time for another program
        move_into_place(self.partial, self.path)
        self.do_last_steps()

    def do_last_steps(self) -> None:
        """Do what is left when a store has its name."""
        if self.image is not None:
            register_label(self.image, self.path.name)
        folder = self.path / FOLDER
        for child in folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
        # The mark goes last, or the rest would stay after a kill.
        for child in sorted(folder.iterdir(), key=lambda path: path.name == COMPLETE):
            child.unlink()
        folder.rmdir()

    def record(self) -> RunRecord:
        """Return the record of the run that wrote the finished store."""
        import zarr

        attributes: Any = zarr.open_group(self.path, mode="r").attrs["napari_fcnseg"]
        return RunRecord.from_dict(attributes["record"])
