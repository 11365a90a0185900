"""One page that shows a whole batch: self-contained, no scripts, nothing from a network."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from napari_fcnseg._batch.one_image import DONE, FAILED, SKIPPED, BatchRow
from napari_fcnseg._batch.state import FOLDER, ImageState
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg._shared.version import __version__
from napari_fcnseg.io.atomic import written_whole

_MARKS = {DONE: "\u2713", FAILED: "\u2717", SKIPPED: "\u21b7"}
_LINKS = {"csv": "table", "parquet": "table", "geojson.gz": "outlines"}


def write_report(path: Path, rows: Sequence[BatchRow], settings: SegmentSettings) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        Beside the outputs of the batch; replaced when it exists.
    rows : sequence of BatchRow
        What became of each image.
    settings : SegmentSettings
        As they were given.
    """
    with written_whole(path, overwrite=True) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _page(path.parent, rows, settings))


def _page(folder: Path, rows: Sequence[BatchRow], settings: SegmentSettings) -> Iterator[str]:
    style = resources.files("napari_fcnseg._batch").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{len(rows)} image{'' if len(rows) == 1 else 's'} segmented with {settings.model}"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<header>"
    now = dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    yield f'<h1>{escape(title)}</h1>\n<p class="soft">napari-fcnseg {escape(__version__)}, {now}</p>'
    yield from _totals(rows)
    yield "</header>\n<main>"
    yield from _failures([row for row in rows if row.status == FAILED])
    yield from _overview(rows)
    yield '<section>\n<h2>Pictures</h2>\n<div class="cards">'
    for row in rows:
        if row.status != FAILED:
            yield from _card(folder, row)
    yield "</div>\n</section>"
    yield from _settings(settings)
    yield "</main>\n</body>\n</html>"


def _totals(rows: Sequence[BatchRow]) -> Iterator[str]:
    counts = Counter(row.status for row in rows)
    yield '<ul class="totals">'
    for status in (DONE, SKIPPED, FAILED):
        yield (
            f'<li><strong class="{status}">{_MARKS[status]} {counts[status]:,}</strong>{_worded(status)}</li>'
        )
    objects = [row.objects for row in rows if row.objects is not None]
    if objects:
        yield f"<li><strong>{sum(objects):,}</strong>objects</li>"
    yield f"<li><strong>{_duration(sum(row.seconds for row in rows))}</strong>of work</li>\n</ul>"


def _worded(status: str) -> str:
    return "done before" if status == SKIPPED else status


def _failures(rows: Sequence[BatchRow]) -> Iterator[str]:
    if not rows:
        return
    yield '<section>\n<h2>What failed</h2>\n<div class="wide"><table>'
    yield '<tr><th scope="col">Image</th><th scope="col">Reason</th></tr>'
    for row in rows:
        yield f'<tr id="{_anchor(row)}"><td class="source">{escape(row.source)}</td>'
        yield f'<td class="reason failed">{escape(row.reason)}</td></tr>'
    yield "</table></div>\n</section>"


def _overview(rows: Sequence[BatchRow]) -> Iterator[str]:
    most = max((row.objects or 0 for row in rows), default=0)
    yield '<section>\n<h2>All images</h2>\n<div class="wide"><table>'
    yield (
        '<tr><th scope="col">Image</th><th scope="col">Status</th><th scope="col" class="number">Objects</th>'
        '<th scope="col" class="number">Time</th></tr>'
    )
    for row in rows:
        share = 100 * (row.objects or 0) / most if most else 0
        objects = "" if row.objects is None else f"{row.objects:,}"
        yield (
            f'<tr><td><a href="#{_anchor(row)}">{escape(row.name)}</a></td>'
            f'<td class="{row.status}">{_MARKS[row.status]} {_worded(row.status)}</td>'
            f'<td class="number bar" style="--share:{share:.1f}%">{objects}</td>'
            f'<td class="number">{_duration(row.seconds)}</td></tr>'
        )
    yield "</table></div>\n</section>"


def _card(folder: Path, row: BatchRow) -> Iterator[str]:
    state = ImageState.load(folder / FOLDER / f"{row.name}.json")
    record = _record(folder / f"{row.name}.zarr")
    yield f'<article id="{_anchor(row)}">'
    yield _picture(folder, row)
    yield f"<div>\n<h3>{escape(row.name)}</h3>"
    yield f'<span class="{row.status}">{_MARKS[row.status]} {_worded(row.status)}</span>'
    if state is not None:
        yield _described(_facts(row, state, record))
        yield from _notes(record.get("notes", ()))
        yield _links(row, state)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    yield f"<details><summary>Record of the run</summary><pre>{escape(text)}</pre></details>"
    yield "</div>\n</article>"


def _picture(folder: Path, row: BatchRow) -> str:
    path = folder / FOLDER / f"{row.name}.jpg"
    if not path.exists():
        return '<div class="none">no picture</div>'
    what = "its classes tinted" if row.objects is None else f"the outlines of {row.objects:,} objects over it"
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = escape(f"{row.name} with {what}", quote=True)
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'


def _facts(row: BatchRow, state: ImageState, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    image = record.get("image", {})
    sizes = " \u00d7 ".join(f"{size:,}" for size in image.get("shape", ()))
    yield "Image", f"{sizes} ({image.get('axes', '')})"
    if row.objects is not None:
        yield "Objects", f"{row.objects:,}"
    if "median size" in state.summary:
        yield "Median size", f"{state.summary['median size']:,.4g} {state.summary['unit']}"
    for name, share in state.summary.get("fractions", ()):
        yield str(name), f"{share:.1%}"
    yield "Model", str(record.get("model", {}).get("id", ""))
    precision = record.get("settings", {}).get("precision", "")
    yield "Run on", f"{record.get('device', '')}, {precision}, {_duration(row.seconds)}"


def _described(facts: Iterable[tuple[str, str]]) -> str:
    lines = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{''.join(lines)}</dl>"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _links(row: BatchRow, state: ImageState) -> str:
    files = {"labels": f"{row.name}.zarr"}
    files |= {_LINKS[kind]: name for kind, name in state.outputs.items() if kind in _LINKS}
    return ", ".join(f'<a href="{quote(name)}">{what}</a>' for what, name in files.items())


def _settings(settings: SegmentSettings) -> Iterator[str]:
    given = {"model": settings.model, **settings.options()}
    yield '<section>\n<h2>Settings</h2>\n<div class="wide"><table>'
    for name, value in given.items():
        yield f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
    rest = "All others as by default; what they were resolved to is in the records."
    yield f'</table></div>\n<p class="soft">{rest}</p>\n</section>'


def _record(store: Path) -> dict[str, Any]:
    """Return the record in the metadata of a store, as plain data."""
    try:
        text = (store / "zarr.json").read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(text)["attributes"]["napari_fcnseg"]["record"]
    except (OSError, ValueError, KeyError):
        return {}
    return record


def _anchor(row: BatchRow) -> str:
    return quote(row.name, safe="")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
