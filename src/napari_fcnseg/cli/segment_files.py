"""``napari-fcnseg segment``: files in, label files and run records out."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_fcnseg._shared.control import RunControl
from napari_fcnseg._shared.errors import AxesError, Cancelled, FcnsegError, ImageFileError, InputError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import TISSUE, SegmentSettings, array_sha256
from napari_fcnseg.cli.clusters import add_cluster_flags, cluster_client
from napari_fcnseg.cli.console import Commands, Progress, complain, message_of, new_command
from napari_fcnseg.cli.interrupts import stopped_by_ctrl_c
from napari_fcnseg.cli.options import add_settings, settings_of
from napari_fcnseg.cli.outputs import Job, plan_jobs, prepare

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_fcnseg.io import LazyImage

_EXAMPLES = """\
  napari-fcnseg segment cells.tif -o cells_labels.tif
  napari-fcnseg segment *.png -o results/ --overlay
  napari-fcnseg segment slide.ome.tif -o nuclei.ome.zarr --channel DAPI --spacing 0.5
  napari-fcnseg segment stack.tif -o nuclei.tif --axes TYX --diameter 40 --device cpu
  napari-fcnseg segment other.tif -o other_labels.tif --settings cells_labels.fcnseg.json
  napari-fcnseg segment slide.svs -o nuclei.ome.zarr --mask tissue --memory 4GB
  napari-fcnseg segment plate.ome.zarr -o plate.ome.zarr --name nuclei --workers 4

A run record, *.fcnseg.json, is written beside each output; --settings repeats it.
"""


@dataclass(frozen=True)
class _Batch:
    """What all images of one command line have in common."""

    settings: SegmentSettings
    recorded: RunRecord | None
    mask: NDArray[np.bool_] | None
    level: int | None
    series: int | str | None
    overwrite: bool
    control: RunControl
    client: Any
    store: dict[str, Any]


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``segment`` to the command line."""
    parser = new_command(
        commands, common, "segment", run_segment, "segment images and write label images", _EXAMPLES
    )
    parser.add_argument("images", nargs="+", metavar="IN", help="TIFF, OME-TIFF, PNG, JPEG, Zarr or OME-Zarr")
    parser.add_argument(
        "-o", "--out", required=True, metavar="PATH",
        help="label file (.tif .ome.tif .png .zarr .ome.zarr), or folder/ (needed for several images)",
    )  # fmt: skip
    parser.add_argument("--overlay", action="store_true", help="also write <name>_overlay.png: the outlines")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_source_flags(parser)
    add_settings(parser)
    _add_store_flags(parser.add_argument_group("output to Zarr, which streams and can be resumed"))


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add which run is repeated, and which part of a file is read."""
    parser.add_argument(
        "--settings", metavar="RECORD",
        help="repeat a recorded run; other flags override it, with what follows from them "
        "(a new --model brings its own normalisation)",
    )  # fmt: skip
    parser.add_argument("--level", type=int, metavar="N", help="resolution level; default: 0, the finest")
    parser.add_argument("--series", metavar="N", help="which image of a file that holds several")


def _add_store_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--name", metavar="NAME", help="write among the labels of the OME-Zarr image --out, under this name"
    )
    group.add_argument("--ome-zarr-version", choices=("0.5", "0.4"), help="default: 0.5")
    group.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on with a run that was stopped (default), or start anew",
    )  # fmt: skip
    add_cluster_flags(group)


def run_segment(args: argparse.Namespace) -> int:
    """Segment every image that can be; return 1 when one could not."""
    recorded = RunRecord.load(args.settings) if args.settings else None
    try:
        settings = settings_of(args, recorded.settings if recorded else None)
        level, series = part_of_file(args, recorded)
        jobs = plan_jobs(args.images, args.out, overlay=args.overlay, name=args.name, series=series)
    except (InputError, ImageFileError) as exc:
        args.parser.error(str(exc))
    _refuse_store_flags(args, jobs)
    prepare(jobs, overwrite=args.overwrite)
    store = {
        "name": args.name, "ome_zarr_version": args.ome_zarr_version or "0.5", "resume": args.resume,
    }  # fmt: skip
    mask = _mask(args.mask, settings)
    with stopped_by_ctrl_c() as control, cluster_client(args.scheduler, args.workers) as client:
        batch = _Batch(settings, recorded, mask, level, series, args.overwrite, control, client, store)
        failed = [job for job in jobs if not _survives(job, batch, alone=len(jobs) == 1)]
    if failed:
        complain(f"error: {len(failed)} of {len(jobs)} images failed")
    return 1 if failed else 0


def _refuse_store_flags(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Refuse what is about Zarr where something else is written."""
    to_zarr = all(job.to_zarr for job in jobs)
    for flag, given in (
        ("--name", args.name), ("--scheduler", args.scheduler), ("--workers", args.workers),
        ("--no-resume", not args.resume), ("--ome-zarr-version", args.ome_zarr_version is not None),
    ):  # fmt: skip
        if given and not to_zarr:
            args.parser.error(f"{flag} is for output to Zarr; let --out end in .zarr")
    if args.name and args.ome_zarr_version:
        args.parser.error("--ome-zarr-version is that of the image where --name is given; leave it out")


def _survives(job: Job, batch: _Batch, *, alone: bool) -> bool:
    """Run a job; among several, report its failure and let the others go on."""
    try:
        _run_job(job, batch)
    except Cancelled:
        raise
    except (FcnsegError, OSError) as exc:
        if alone:
            raise
        complain(f"error: {job.source}: {message_of(exc)}")
        return False
    return True


def _run_job(job: Job, batch: _Batch) -> None:
    from napari_fcnseg.io import open_image

    image = open_image(job.source, level=batch.level, series=batch.series)
    options = batch.settings.options()
    if batch.mask is not None:
        options["mask"] = batch.mask
    with Progress(job.source.name or image.name) as progress:
        run = _to_zarr if job.to_zarr else _to_file
        labels, record = run(job, image, batch, {**options, "progress": progress, "control": batch.control})
    record = replace(record, image={**record.image, "level": batch.level, "series": batch.series})
    record.save(job.record, overwrite=batch.overwrite)
    if job.overlay is not None:
        # What the axes turned out to be, by the file or by a flag, is what the outputs have.
        image = replace(image, axes=record.image["axes"], axes_stated=True)
        _save_overlay(job, image, labels, record, batch)
    _print_result(job, record, batch.recorded)


def _to_file(job: Job, image: LazyImage, batch: _Batch, options: dict[str, Any]) -> tuple[Any, RunRecord]:
    from napari_fcnseg.io import save_labels
    from napari_fcnseg.segmentation import segment_recorded

    labels, record = segment_recorded(image, **options)
    like = replace(image, axes=record.image["axes"], axes_stated=True)
    save_labels(job.labels, labels, like=like, overwrite=batch.overwrite)
    return labels, record


def _to_zarr(job: Job, image: LazyImage, batch: _Batch, options: dict[str, Any]) -> tuple[Any, RunRecord]:
    from napari_fcnseg.io import open_image
    from napari_fcnseg.segmentation import segment_to_zarr

    store = job.image_store or job.labels
    with _plan_shown(image.name):
        record = segment_to_zarr(
            image, store, overwrite=batch.overwrite, client=batch.client, **batch.store, **options
        )
    return open_image(job.labels).data, record


class _PlanLines(logging.Handler):
    """Prints each plan, with the name of its image before it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.image = name

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        complain(f"{self.image}: {record.getMessage()}")


@contextlib.contextmanager
def _plan_shown(name: str) -> Iterator[None]:
    """Print the plan when it stands; a run that goes on has that of its beginning."""
    logger, handler = logging.getLogger("napari_fcnseg.plan"), _PlanLines(name)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _save_overlay(job: Job, image: LazyImage, labels: Any, record: RunRecord, batch: _Batch) -> None:
    from napari_fcnseg.io import save_png
    from napari_fcnseg.models import load_model
    from napari_fcnseg.pictures import overlay_of

    assert job.overlay is not None
    kind = record.settings.kind or "instances"
    classes = load_model(batch.settings.model).record.classes
    picture = overlay_of(
        image, labels, kind=kind, channel=batch.settings.channel, colours={c.value: c.colour for c in classes}
    )
    save_png(job.overlay, picture, overwrite=batch.overwrite)


def _print_result(job: Job, record: RunRecord, recorded: RunRecord | None) -> None:
    found = "" if record.objects is None else f"{record.objects} objects, "
    print(f"{job.source}: {found}{record.seconds:.1f} s on {record.device}", flush=True)
    for path in job.outputs:
        print(f"  {path}")
    for note in record.notes:
        print(f"  note: {note}")
    if recorded and recorded.model.get("sha256") != record.model.get("sha256"):
        complain(f"  note: the model's weights are not those of the recorded run ({recorded.settings.model})")


def _mask(path: str | None, settings: SegmentSettings) -> NDArray[np.bool_] | None:
    """Read the mask; a recorded run that had one cannot be repeated without."""
    if path is None or settings.mask == TISSUE:
        if settings.masked:
            raise InputError(
                f"The recorded run used a mask (SHA-256 {str(settings.mask)[:12]}...), and records hold no "
                "pixels. Give it with --mask FILE."
            )
        return None
    import numpy as np

    from napari_fcnseg.io import open_image

    image = open_image(path)
    if "c" in image.axes:
        raise AxesError(
            f"The mask {path} has the axes {image.axes!r}; it must have no channels. Save one only."
        )
    mask: NDArray[np.bool_] = np.asarray(image) != 0
    if settings.masked and array_sha256(mask) != settings.mask:
        complain(f"note: {path} is not the mask of the recorded run")
    return mask


def part_of_file(args: argparse.Namespace, recorded: RunRecord | None) -> tuple[int | None, int | str | None]:
    """Return level and series: as asked for, else those of the recorded run."""
    known = recorded.image if recorded else {}
    level = known.get("level") if args.level is None else args.level
    series = known.get("series") if args.series is None else _series(args.series)
    return level, series


def _series(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text
