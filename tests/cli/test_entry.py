"""Help, versions, exit codes and errors of the whole command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from napari_fcnseg._shared.errors import AxesError, InputError, TilingError
from napari_fcnseg.cli import evaluate
from napari_fcnseg.cli.console import Progress, message_of
from napari_fcnseg.cli.entry import main

COMMANDS = ("demo", "segment", "models", "evaluate", "doctor", "cite")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "napari_fcnseg.cli.entry", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  napari-fcnseg {name}" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, napari_fcnseg.cli.entry\n"
        "try: napari_fcnseg.cli.entry.main(['segment', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'dask', 'zarr', 'skimage', 'scipy', 'napari'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [[], ["nonsense"], ["segment"], ["segment", "a.tif"], ["models", "--yes"]])
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_failure_is_one_line_on_stderr() -> None:
    done = _run("cite", "nowhere.fcnseg.json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: There is no run record nowhere.fcnseg.json. Check the spelling.\n"


def test_debug_shows_where() -> None:
    done = _run("cite", "nowhere.fcnseg.json", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: There is no run record nowhere.fcnseg.json. Check the spelling.\n")


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "cancelled\n"),
        (ZeroDivisionError("oops"), 1, "error: unexpected ZeroDivisionError: oops (--debug shows where)\n"),
        (MemoryError(), 1, "error: MemoryError\n"),
    ],
)
def test_what_no_command_expects(
    raised: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_folder: Path) -> None:
        raise raised

    monkeypatch.setattr(evaluate, "_label_files", broken)
    assert main(["evaluate", "--labels", "a", "--truth", "b"]) == code
    assert capsys.readouterr().err == says


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (AxesError('Likely: axes="tyx"; axes="zyx" (or so).'), "Likely: --axes tyx; --axes zyx (or so)."),
        (AxesError("channel_axis=-1 if; channel_axis=0 if"), "--channel-axis=-1 if; --channel-axis 0 if"),
        (AxesError("with channel=, such as channel=0."), "with --channel, such as --channel 0."),
        (AxesError("such as channel=[0, 1]."), "such as --channel 0 --channel 1."),
        (AxesError("channel='a dye' given; channel_axis=."), "--channel 'a dye' given; --channel-axis."),
        (InputError("spacing={'y': 0.5}; kind='classes'."), "--spacing y=0.5; --kind classes."),
        (TilingError("tile_shape=(8, 8) has"), "--tile-shape 8,8 has"),
        (InputError("a/axes=1.tif, x_axes=1, axes=None"), "a/axes=1.tif, x_axes=1, axes=None"),
        (FileNotFoundError("no axes=1"), "no axes=1"),
        (MemoryError(), "MemoryError"),
    ],
)  # fmt: skip
def test_errors_speak_of_flags(raised: Exception, says: str) -> None:
    assert message_of(raised) == says


def test_progress_in_a_log_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("cells.tif") as progress:
        for done in range(1, 101):
            progress(done, 100)
    assert progress.total == 100
    assert capsys.readouterr().err.splitlines() == [f"cells.tif: {n} of 100 tiles" for n in (25, 50, 75, 100)]


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("cells.tif") as progress:
        progress(1, 2)
        progress(2, 2)
    err = capsys.readouterr().err
    assert "cells.tif:   0%" in err
    assert "0/2" in err
    assert "of 2 tiles" not in err
