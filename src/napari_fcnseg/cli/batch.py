"""``napari-fcnseg batch``: many images into one folder, with a table and a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import TISSUE, SegmentSettings
from napari_fcnseg.cli.console import Commands, Progress, complain, message_of, new_command
from napari_fcnseg.cli.interrupts import stopped_by_ctrl_c
from napari_fcnseg.cli.options import add_settings, settings_of
from napari_fcnseg.cli.segment_files import add_source_flags, part_of_file

if TYPE_CHECKING:
    from napari_fcnseg._batch.one_image import BatchRow

_EXAMPLES = """\
  napari-fcnseg batch slides/ -o results/
  napari-fcnseg batch "slides/**/*.svs" -o results/ --mask tissue --geojson --jobs 2
  napari-fcnseg batch slides/ -o results/ --part 3/10
  napari-fcnseg batch plate/*.ome.zarr -o results/ --measure parquet --diameter 30

For each image NAME: NAME.zarr (labels), NAME.csv (objects), NAME.geojson.gz (outlines for QuPath);
for all: batch.csv and batch.html. The same command again goes on where it was, and tries again
what failed. After the parts of a job array, once without --part: the table and the report of all.
"""


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``batch`` to the command line."""
    summary = "segment many images, with a table, measurements and a report"
    parser = new_command(commands, common, "batch", run_batch, summary, _EXAMPLES)
    parser.add_argument(
        "inputs", nargs="+", metavar="IN", help="files, OME-Zarr images, folders of images, patterns"
    )
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="make again what was made otherwise")
    add_source_flags(parser)
    _add_output_flags(parser.add_argument_group("what is made"))
    _add_work_flags(parser.add_argument_group("how it is shared out"))
    add_settings(parser)


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--measure", choices=("csv", "parquet", "none"), default="csv",
        help="table of the objects of each image: area, box, centroid, intensities; default: csv",
    )  # fmt: skip
    group.add_argument("--geojson", action="store_true", help="outlines of the objects, for QuPath")
    group.add_argument(
        "--report", action=argparse.BooleanOptionalAction, default=True,
        help="one page with a picture of each image (default)",
    )  # fmt: skip


def _add_work_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="images at a time, each in a process; default: 1"
    )
    group.add_argument(
        "--part", type=_part, metavar="I/N", help="every N-th image from the I-th on: for job arrays"
    )


def run_batch(args: argparse.Namespace) -> int:
    """Segment every image that can be; return 1 when one could not."""
    recorded = RunRecord.load(args.settings) if args.settings else None
    try:
        settings = settings_of(args, recorded.settings if recorded else None)
    except InputError as exc:
        args.parser.error(str(exc))
    if settings.masked or args.mask not in (None, TISSUE):
        args.parser.error("--mask FILE is that of one image; a batch can have --mask tissue only")
    level, series = part_of_file(args, recorded)
    rows = _segment(args, settings, level, series)
    _print_totals(rows, Path(args.out), args)
    return 1 if any(row.status == "failed" for row in rows) else 0


def _segment(
    args: argparse.Namespace, settings: SegmentSettings, level: int | None, series: int | str | None
) -> list[BatchRow]:
    from napari_fcnseg.batch import segment_batch

    with stopped_by_ctrl_c() as control, _Lines() as lines:
        return segment_batch(
            args.inputs, args.out, measure=None if args.measure == "none" else args.measure,
            geojson=args.geojson, report=args.report, jobs=args.jobs, part=args.part,
            overwrite=args.overwrite, level=level, series=series, progress=lines.progress, each=lines.row,
            control=control, **{"model": settings.model, **settings.options()},
        )  # fmt: skip


class _Lines:
    """What is seen on the terminal: the progress of an image, then its row."""

    def __init__(self) -> None:
        self._shown: Progress | None = None
        self._count = 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def progress(self, name: str, done: int, total: int) -> None:
        """Show how far an image is."""
        if self._shown is None:
            self._shown = Progress(name)
        self._shown(done, total)

    def row(self, row: BatchRow, total: int) -> None:
        """Print what became of an image."""
        self._close()
        self._count += 1
        facts = [f"{row.objects:,} objects" if row.objects is not None else "", f"{row.seconds:.1f} s"]
        told = [message_of(InputError(row.reason))] if row.reason else [fact for fact in facts if fact]
        place = f"[{self._count:{len(str(total))}}/{total}]"
        print(f"{place} {row.status:7} {row.name}: {', '.join(told)}", flush=True)

    def _close(self) -> None:
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
            self._shown = None


def _print_totals(rows: list[BatchRow], out: Path, args: argparse.Namespace) -> None:
    from napari_fcnseg._batch.inputs import REPORT, table_name

    counts = {status: sum(row.status == status for row in rows) for status in ("done", "skipped", "failed")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    print(f"  {out / table_name(args.part)}")
    if args.report and args.part is None:
        print(f"  {out / REPORT}")
    if counts["failed"]:
        complain(f"error: {counts['failed']} of {len(rows)} images failed")


def _part(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write for instance 3/10: the third of ten")
    return int(number), int(of)
