"""Where each output of ``segment`` goes, decided and checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_fcnseg._shared.errors import ImageFileError, InputError, OutputExistsError
from napari_fcnseg._shared.record import image_stem, record_path
from napari_fcnseg.io.location import Location, Url, location_of


@dataclass(frozen=True)
class Job:
    """One input and the files that come of it."""

    source: Location
    labels: Path
    record: Path
    overlay: Path | None = None
    image_store: Path | None = None

    @property
    def to_zarr(self) -> bool:
        """Whether the labels are streamed into a store, of their own or of an OME-Zarr image."""
        return self.image_store is not None or self.labels.name.lower().endswith(".zarr")

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that the job writes."""
        return (
            (self.labels, self.record) if self.overlay is None else (self.labels, self.record, self.overlay)
        )


def plan_jobs(
    sources: Sequence[str],
    out: str,
    *,
    overlay: bool,
    name: str | None = None,
    series: int | str | None = None,
) -> list[Job]:
    """Return one job per input.

    Several inputs, or an `out` that is a folder or ends in a slash, give
    ``<stem>_labels.tif`` in that folder. With a `name`, `out` is the OME-Zarr
    image that gets labels of this name, or a group that holds the image;
    `series` says which, where `out` is the input itself.

    Raises
    ------
    InputError
        Two inputs would be written to one file, several to a file, or one over an input.
    ImageFileError
        The ending of `out` is no format for labels, or it is no image for `name`.
    """
    if name is not None:
        return [_named(sources, out, name, overlay, series)]
    folder = _is_folder(out)
    if len(sources) > 1 and not folder and (Path(out).suffix or Path(out).exists()):
        raise InputError(
            f"{len(sources)} images cannot be written to the one file {out}. Name a folder: "
            f"-o {Path(out).stem}/"
        )
    if isinstance(location_of(out), Url):
        raise InputError(f"{out} is an address, and labels are written to folders of this machine only.")
    jobs = [_job(location_of(s), Path(out), folder or len(sources) > 1, overlay) for s in sources]
    _refuse_clashes(jobs)
    if not folder and len(sources) == 1:
        _refuse_unknown_ending(Path(out))
    return jobs


def prepare(jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Refuse what exists, then make the folders.

    Raises
    ------
    OutputExistsError
        An output exists and `overwrite` is false.
    """
    existing = [
        path for job in jobs for path in job.outputs if os.path.lexists(path) and not _unfinished(path)
    ]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise OutputExistsError(
            f"{existing[0]}{more} exist{'' if more else 's'} already. Choose another -o, or pass --overwrite."
        )
    for folder in {job.labels.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)


def _unfinished(path: Path) -> bool:
    """Whether it is a store that was killed at its very last steps, which the same command does."""
    return (path / ".fcnseg").is_dir()


def _is_folder(out: str) -> bool:
    if out.endswith(("/", os.sep)):
        return True
    return Path(out).is_dir() and not out.lower().endswith(".zarr")


def _job(source: Location, out: Path, folder: bool, overlay: bool) -> Job:
    labels = out / f"{_stem(source)}_labels.tif" if folder else out
    picture = labels.with_name(f"{image_stem(labels).removesuffix('_labels')}_overlay.png")
    return Job(source, labels, record_path(labels), picture if overlay else None)


def _stem(source: Location) -> str:
    # "cells.ome.zarr/" and "." have their names only after resolving.
    return image_stem(source.resolve() if isinstance(source, Path) and not source.name else source.name)


def _named(sources: Sequence[str], out: str, name: str, overlay: bool, series: int | str | None) -> Job:
    from napari_fcnseg.io.label_store import labels_folder

    if len(sources) > 1:
        raise InputError(
            f"{len(sources)} images were given, but --name is for the labels of one. Run them one by one."
        )
    source = location_of(sources[0])
    image_store = _image_group(out, series if Path(out).absolute() == Path(sources[0]).absolute() else None)
    beside = Path(out).absolute()
    # A group holds several images, whose records must not meet.
    inside = Path(os.path.relpath(image_store, beside)).parts
    stem = "_".join((image_stem(beside), *inside, name))
    picture = beside.with_name(f"{stem}_overlay.png")
    return Job(
        source,
        labels_folder(image_store, name),
        record_path(beside.with_name(f"{stem}_labels.tif")),
        picture if overlay else None,
        image_store,
    )


def _image_group(out: str, series: int | str | None) -> Path:
    """Return the folder of the OME-Zarr image at a path, which lies below it in a plate or a group."""
    from napari_fcnseg.io import open_image

    group = open_image(out, series=series).group
    if group is None:
        raise InputError(
            f"{out} is not a folder of OME-Zarr, and only such an image holds labels of its own. Leave "
            "--name out and write the labels to a path of their own."
        )
    return group


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    owners: dict[Path, Location] = {
        job.source.absolute(): job.source for job in jobs if isinstance(job.source, Path)
    }
    inputs = set(owners)
    for job in jobs:
        for path in job.outputs:
            key = path.absolute()
            if key in inputs:
                raise InputError(
                    f"{path} is an input and would be overwritten by an output. Choose another -o."
                )
            if key in owners:
                raise InputError(
                    f"{owners[key]} and {job.source} would both be written to {path}. "
                    "Run them with different -o."
                )
            owners[key] = job.source


def _refuse_unknown_ending(out: Path) -> None:
    from napari_fcnseg.io.writing import LABEL_SUFFIXES

    if not out.name.lower().endswith(LABEL_SUFFIXES) or out.name.lower() in LABEL_SUFFIXES:
        raise ImageFileError(
            f"{out.name!r} names no format for labels. Use one of these endings: {' '.join(LABEL_SUFFIXES)}; "
            f"or name a folder: -o {out}/"
        )
