"""The report: one file, well-formed, nothing from a network, every text escaped, every picture described."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_fcnseg._batch.inputs import REPORT
from napari_fcnseg._batch.one_image import BatchRow
from napari_fcnseg._batch.report import write_report
from napari_fcnseg._batch.state import FOLDER, ImageState
from napari_fcnseg._shared.settings import SegmentSettings

NASTY = "<b>\"x\" & 'y'<hr> #1 %"
_VOID = {"meta", "img", "br", "link", "input", "hr"}


class _Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [found for name, found in self.attributes if name == tag]


def _add_image(folder: Path, name: str, objects: int | None, summary: dict[str, object]) -> None:
    """Put down what a batch leaves of an image."""
    record = {
        "image": {"axes": "yxc", "shape": [20, 30, 3]}, "model": {"id": "nuclei@1"}, "device": "cpu",
        "settings": {"precision": "float32"}, "notes": ["a <note>"],
    }  # fmt: skip
    (folder / f"{name}.zarr").mkdir()
    (folder / f"{name}.zarr" / "zarr.json").write_text(
        json.dumps({"attributes": {"napari_fcnseg": {"record": record}}})
    )
    state = ImageState(
        {}, outputs={"csv": f"{name}.csv", "jpg": f"{name}.jpg"}, objects=objects, summary=summary
    )
    state.save(folder / FOLDER / f"{name}.json")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / FOLDER / f"{name}.jpg")


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Return the report of a batch with names and reasons that would break a careless page."""
    _add_image(tmp_path, NASTY, 1234, {"median size": 61.5, "unit": "\u00b5m\u00b2"})
    _add_image(tmp_path, "classes", None, {"fractions": [["R&D", 0.125]]})
    rows = [
        BatchRow("in/bad.tif", "bad", "failed", "no <script>alert(1)</script> here", None, 0.1, ""),
        BatchRow("in/classes.tif", "classes", "skipped", "done before", None, 75.0, ""),
        BatchRow(f"in/{NASTY}.tif", NASTY, "done", "", 1234, 4000.0, ""),
    ]
    write_report(tmp_path / REPORT, rows, SegmentSettings(model="nuclei", diameter=30, channel="<DAPI>"))
    return (tmp_path / REPORT).read_text(encoding="utf-8")


def test_is_well_formed_and_in_one_piece(page: str) -> None:
    found = _Page(page)
    assert not found.open
    assert page.startswith("<!DOCTYPE html>")
    assert found.of("html")[0]["lang"] == "en"
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_pictures_are_inside_and_described(page: str) -> None:
    pictures = _Page(page).of("img")
    assert [p["alt"] for p in pictures] == [
        "classes with its classes tinted", f"{NASTY} with the outlines of 1,234 objects over it",
    ]  # fmt: skip
    for picture in pictures:
        start, data = picture["src"].split(",", 1)
        assert start == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (30, 20)


def test_says_what_happened(page: str) -> None:
    text = "".join(_Page(page).texts)
    for said in (
        "3 images segmented with nuclei", "1,234", "no <script>alert(1)</script> here", "in/bad.tif", NASTY,
        "61.5 \u00b5m\u00b2", "R&D", "12.5%", "a <note>", "1 min 15 s", "1 h 7 min",
        "20 \u00d7 30 \u00d7 3 (yxc)", "diameter", "30.0",
        "<DAPI>", "nuclei@1", '"axes": "yxc"',
    ):  # fmt: skip
        assert said in text, said


def test_links_lead_somewhere(page: str, tmp_path: Path) -> None:
    from urllib.parse import unquote

    found = _Page(page)
    targets = {unquote(attributes["id"]) for _, attributes in found.attributes if "id" in attributes}
    links = [unquote(a["href"]) for a in found.of("a")]
    assert {link[1:] for link in links if link.startswith("#")} == targets == {"bad", "classes", NASTY}
    assert {link for link in links if not link.startswith("#")} == {
        f"{name}{ending}" for name in ("classes", NASTY) for ending in (".zarr", ".csv")
    }


def test_light_and_dark(page: str) -> None:
    assert "color-scheme: light dark" in page
    assert "prefers-color-scheme: dark" in page


def test_nothing_at_all(tmp_path: Path) -> None:
    write_report(tmp_path / REPORT, [], SegmentSettings())
    assert not _Page((tmp_path / REPORT).read_text(encoding="utf-8")).open
