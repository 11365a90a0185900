"""The journal survives what a killed process leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg._shared.errors import ResumeError
from napari_fcnseg.engine.journal import Journal


def written(folder: Path) -> Journal:
    journal = Journal(folder)
    journal.begin({"model": "nuclei@1"})
    journal.note("predict", 0, None)
    journal.note("predict", 2, {"count": np.asarray(5), "ids": np.arange(3)})
    journal.note("level 1", 0, None)
    return journal


def test_what_was_noted_is_read_again(tmp_path: Path) -> None:
    written(tmp_path)
    journal = Journal(tmp_path)
    assert journal.header == {"model": "nuclei@1"}
    assert journal.done("predict") == {0, 2}
    assert journal.done("level 1") == {0}
    assert journal.done("grow") == set()
    assert journal.facts("predict", 0) == {}
    np.testing.assert_array_equal(journal.facts("predict", 2)["ids"], [0, 1, 2])


@given(cut=st.integers(1, 200))
def test_cut_off_anywhere(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = written(folder).path
    text = path.read_bytes()
    path.write_bytes(text[:-cut])
    whole = text[:-cut].count(b"\n")
    journal = Journal(folder)
    assert (journal.header is not None) == (whole > 0)
    assert len(journal.done("predict")) + len(journal.done("level 1")) == max(whole - 1, 0)
    journal.note("level 1", 7, None)
    assert 7 in Journal(folder).done("level 1")


def test_damaged_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path).path
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\x00" * 20 + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ResumeError, match=r"line 3 of the journal .* is damaged .* resume=False"):
        Journal(tmp_path)


def test_facts_without_their_line_do_not_count(tmp_path: Path) -> None:
    journal = written(tmp_path)
    text = journal.path.read_bytes()
    journal.note("grow", 1, {"count": np.asarray(1)})
    journal.path.write_bytes(text)
    assert Journal(tmp_path).done("grow") == set()
