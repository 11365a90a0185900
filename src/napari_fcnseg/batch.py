"""`segment_batch`: many images, one table, one report."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from napari_fcnseg._batch.inputs import REPORT, find_inputs, share_of, table_name
from napari_fcnseg._batch.one_image import BatchRow, Task, process
from napari_fcnseg._batch.report import write_report
from napari_fcnseg._batch.workers import in_processes
from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.planning import free_memory
from napari_fcnseg.io.atomic import written_whole
from napari_fcnseg.measure.table_files import parquet_library
from napari_fcnseg.models.registry import load_model

MEASURES = ("csv", "parquet")

ImageProgress = Callable[[str, int, int], None]
"""Called with the name of the image, the tiles that are done, and all of its tiles."""


def segment_batch(
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    model: str | PathLike[str] = "nuclei",
    *,
    measure: str | None = "csv",
    geojson: bool = False,
    report: bool = True,
    jobs: int = 1,
    part: tuple[int, int] | None = None,
    overwrite: bool = False,
    level: int | None = None,
    series: int | str | None = None,
    progress: ImageProgress | None = None,
    each: Callable[[BatchRow, int], None] | None = None,
    control: RunControl | None = None,
    **options: Any,
) -> list[BatchRow]:
    """Segment many images into one folder, with a table of what became of each.

    Called again, it goes on: what is done and has not changed is skipped, what was
    stopped is resumed, what failed is tried again. An image that cannot be
    segmented does not stop the others.

    Parameters
    ----------
    inputs : str, path, or sequence of these
        Files, OME-Zarr images and their addresses, folders of images, and patterns such as
        ``"slides/**/*.svs"``. Each file of a folder is an image of its own.
    out : str or path
        Folder of the results; made when it is not there.
    model : str or path
        Name or path of the model; objects in memory cannot be compared on a rerun.
    measure : {"csv", "parquet"}, optional
        Write a table of the objects of each image (:func:`measure_objects`), or of
        the share of each class (:func:`measure_classes`). None writes none.
    geojson : bool
        Write the outlines of the objects for QuPath (:func:`write_geojson`).
    report : bool
        Write ``batch.html``: a page with a picture of each image. Not for a part.
    jobs : int
        Images at a time, each in a process of its own, with its share of threads and memory. A
        script must have its calls behind ``if __name__ == "__main__":`` then.
    part : (int, int), optional
        ``(i, n)``: take only every n-th image, beginning with the i-th, from 1. For job arrays; a
        last call without `part` skips what is done and writes the table and the report of all.
    overwrite : bool
        Make again what was made of another image or with other settings.
    level, series : optional
        As for :func:`open_image`, of every image.
    progress : callable, optional
        Called with ``(name, done, total)`` after each tile. Not from other processes.
    each : callable, optional
        Called with each row as it comes, and the number of images.
    control : RunControl, optional
        Cancels, pauses and resumes from another thread. With several `jobs`, only cancels.
    **options
        As for :func:`segment`. A `mask` can be ``"tissue"`` only, and `refine` names steps.

    Returns
    -------
    list of BatchRow
        One for each image, by name: source, name, status (``"done"``, ``"failed"`` or
        ``"skipped"``), reason, objects, seconds, output. Also written to ``batch.csv``, or
        ``batch-part-i-of-n.csv``, of an interrupted run as far as it came.

    Raises
    ------
    InputError
        If there is no image, two images have one name, an option is out of range, or outlines
        are wanted of classes.
    ModelError
        If the model is not known or damaged.
    MissingPackageError
        If Parquet is wanted and pyarrow is not installed.
    Cancelled
        If it was stopped; the same call goes on.

    See Also
    --------
    segment_to_zarr : One image.

    Notes
    -----
    For an image ``a.svs`` there are ``a.zarr`` (labels as OME-Zarr, with the record of the run),
    ``a.csv`` or ``a.parquet``, and ``a.geojson.gz``. A hidden folder ``.batch`` holds what a rerun
    compares. That a file is the same is told by its size and time of change.

    Examples
    --------
    >>> import tempfile, skimage, skimage.io
    >>> folder = Path(tempfile.mkdtemp())
    >>> skimage.io.imsave(folder / "coins.png", skimage.data.coins()[:64, :96])
    >>> (row,) = segment_batch(folder / "*.png", folder / "out", device="cpu")
    >>> row.name, row.status
    ('coins', 'done')
    >>> sorted(path.name for path in (folder / "out").glob("*"))
    ['.batch', 'batch.csv', 'batch.html', 'coins.csv', 'coins.zarr']
    """
    out, settings = Path(out), SegmentSettings(model=str(model), **options)
    if isinstance(jobs, bool) or jobs < 1:
        raise InputError(f"jobs is {jobs!r}; it must be 1 or more.")
    common: dict[str, Any] = {
        "out": out, "settings": settings, "wanted": _wanted(settings, measure, geojson=geojson),
        "level": level, "series": series, "overwrite": overwrite,
        "model_sha256": load_model(settings.model).record.sha256,
        "memory": None if jobs == 1 or settings.memory else free_memory() // 4 // jobs,
    }  # fmt: skip
    given = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    tasks = [Task(entry, **common) for entry in share_of(find_inputs(given, out), part)]
    out.mkdir(parents=True, exist_ok=True)
    rows: list[BatchRow] = []
    try:
        for row in _rows(tasks, jobs, progress, control):
            rows.append(row)
            if each is not None:
                each(row, len(tasks))
    finally:
        rows.sort(key=lambda row: row.name)
        _write_table(out / table_name(part), rows)
    if report and part is None:
        write_report(out / REPORT, rows, settings)
    return rows


def _wanted(settings: SegmentSettings, measure: str | None, *, geojson: bool) -> tuple[str, ...]:
    """Return the endings of what is made besides the labels."""
    if measure is not None and measure not in MEASURES:
        raise InputError(f"measure is {measure!r}; it must be None, 'csv' or 'parquet'.")
    if settings.masked:
        raise InputError("mask is that of one image; a batch can have mask='tissue' only.")
    if measure == "parquet":
        parquet_library()
    kind = settings.kind or load_model(settings.model).record.kind
    if geojson and kind == "classes":
        raise InputError(
            "outlines are those of objects, and this model gives classes; pass kind='instances', or leave "
            "geojson out."
        )
    return (*([measure] if measure else []), *(["geojson.gz"] if geojson else []), "jpg")


def _rows(
    tasks: Sequence[Task], jobs: int, progress: ImageProgress | None, control: RunControl | None
) -> Iterator[BatchRow]:
    if jobs > 1 and len(tasks) > 1:
        threads = max(1, torch.get_num_threads() // min(jobs, len(tasks)))
        yield from in_processes(tasks, jobs, threads=threads, control=control)
        return
    for task in tasks:
        if control is not None:
            control.check()
        yield process(task, _of_image(progress, task.entry.name), control)


def _of_image(progress: ImageProgress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _write_table(path: Path, rows: Sequence[BatchRow]) -> None:
    with (
        written_whole(path, overwrite=True) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(BatchRow)])
        writer.writerows(astuple(row) for row in rows)
