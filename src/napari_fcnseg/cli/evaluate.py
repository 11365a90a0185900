"""``napari-fcnseg evaluate``: how good are these labels, given the truth."""

from __future__ import annotations

import argparse
import functools
import json
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_fcnseg._shared.errors import AxesError, ImageFileError, InputError
from napari_fcnseg._shared.record import image_stem
from napari_fcnseg.cli.console import Commands, complain, new_command

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_fcnseg.metrics import ObjectScores

THRESHOLDS = (0.5, 0.75, 0.9)
_SUFFIXES = (".tif", ".tiff", ".png", ".zarr")
_LISTED = 5
_EXAMPLES = """\
  napari-fcnseg evaluate --labels results/ --truth truth/
  napari-fcnseg evaluate --labels results/ --truth truth/ --json > scores.json

Files are paired by name: results/a_labels.tif with truth/a.png. Counts are added over all
images before dividing. Labels are taken as objects: every value above 0 is one object.
Label images of classes would get a score too, but a meaningless one.

AP = TP / (TP + FP + FN), at several overlaps (IoU).
"""


@dataclass(frozen=True)
class _Pairs:
    """Label images with their truth, and the stems that lack one of the two."""

    files: dict[str, tuple[Path, Path]]
    missing_labels: list[str]
    missing_truth: list[str]


def add_command(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add ``evaluate`` to the command line."""
    summary = "score label images against the truth"
    parser = new_command(commands, common, "evaluate", run_evaluate, summary, _EXAMPLES)
    parser.add_argument(
        "--labels", required=True, metavar="DIR", help="folder of the label images to be scored"
    )
    parser.add_argument("--truth", required=True, metavar="DIR", help="folder of the true label images")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_evaluate(args: argparse.Namespace) -> int:
    """Score all pairs; the ones that lack a partner are reported and left out."""
    pairs = _paired(_label_files(Path(args.labels)), _label_files(Path(args.truth)))
    if not pairs.files:
        raise InputError(
            f"No file in {args.labels} has the name of one in {args.truth}: nothing to score. "
            "Name them alike: a.tif or a_labels.tif with a.png."
        )
    _report_missing(pairs, args)
    scores = [functools.reduce(operator.add, column) for column in zip(*_scores(pairs), strict=True)]
    print(json.dumps(_as_json(scores, pairs), indent=2) if args.json else _table(scores, len(pairs.files)))
    return 0


def _label_files(folder: Path) -> dict[str, Path]:
    """Return the label images of a folder by stem; the pictures that `segment` leaves there are none."""
    if not folder.is_dir():
        raise ImageFileError(f"There is no folder {folder}. Check the spelling.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.startswith(".") or not name.endswith(_SUFFIXES) or name.endswith("_overlay.png"):
            continue
        stem = image_stem(path).removesuffix("_labels")
        if stem in found:
            raise InputError(
                f"{found[stem]} and {path} are both labels of {stem!r}. Leave one of them in the folder."
            )
        found[stem] = path
    return found


def _paired(labels: dict[str, Path], truth: dict[str, Path]) -> _Pairs:
    return _Pairs(
        files={stem: (truth[stem], labels[stem]) for stem in truth if stem in labels},
        missing_labels=[stem for stem in truth if stem not in labels],
        missing_truth=[stem for stem in labels if stem not in truth],
    )


def _report_missing(pairs: _Pairs, args: argparse.Namespace) -> None:
    for stems, folder in ((pairs.missing_labels, args.labels), (pairs.missing_truth, args.truth)):
        if stems:
            more = f" and {len(stems) - _LISTED} more" if len(stems) > _LISTED else ""
            complain(f"not scored, nothing in {folder} for: {', '.join(stems[:_LISTED])}{more}")


def _scores(pairs: _Pairs) -> Iterator[tuple[ObjectScores, ...]]:
    from napari_fcnseg.metrics import object_scores

    for truth, labels in pairs.files.values():
        try:
            yield object_scores([_read(truth)], [_read(labels)], THRESHOLDS)
        except AxesError:
            raise
        except InputError as exc:
            raise InputError(f"{truth} (truth) and {labels} (prediction): {exc}") from exc


def _read(path: Path) -> NDArray[Any]:
    import numpy as np

    from napari_fcnseg.io import open_image

    image = open_image(path)
    if "c" in image.axes:
        raise AxesError(f"{path} has the axes {image.axes!r}: a colour picture, not labels. Leave it out.")
    return np.asarray(image)


def _ratios(score: ObjectScores) -> dict[str, float]:
    return {
        "AP": score.average_precision,
        "precision": score.precision,
        "recall": score.recall,
        "F1": score.f1,
        "PQ": score.panoptic_quality,
    }


def _as_json(scores: list[ObjectScores], pairs: _Pairs) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "IoU": s.threshold,
            **{name: None if math.isnan(value) else value for name, value in _ratios(s).items()},
            "TP": s.tp,
            "FP": s.fp,
            "FN": s.fn,
        }
        for s in scores
    ]
    return {
        "images": len(pairs.files),
        "labels_taken_as": "objects",
        "scores": rows,
        "missing_labels": pairs.missing_labels,
        "missing_truth": pairs.missing_truth,
    }


def _table(scores: list[ObjectScores], images: int) -> str:
    true, found = scores[0].tp + scores[0].fn, scores[0].tp + scores[0].fp
    lines = [f"{images} images, {true} true objects, {found} found"]
    lines += ["Labels are taken as objects: every value above 0 is one object, never a class.", ""]
    lines.append("  IoU     AP  precision  recall     F1     PQ      TP      FP      FN")
    for s in scores:
        ap, precision, recall, f1, pq = _ratios(s).values()
        lines.append(
            f" {s.threshold:.2f}  {ap:.3f}      {precision:.3f}   {recall:.3f}  {f1:.3f}  {pq:.3f}"
            f"  {s.tp:6d}  {s.fp:6d}  {s.fn:6d}"
        )
    return "\n".join(lines)
