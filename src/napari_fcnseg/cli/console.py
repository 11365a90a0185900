"""What the commands share in talking to a person: parsers, progress, lines."""

from __future__ import annotations

import argparse
import ast
import contextlib
import logging
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import metadata
from types import TracebackType
from typing import Any, TypeAlias

from napari_fcnseg._shared.errors import InputError, TilingError
from napari_fcnseg._shared.settings import SegmentSettings, as_flag

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# A mask is a file here and an array there, and --clear-border takes no value.
_NAMES = "|".join(f.name for f in fields(SegmentSettings) if f.name not in ("mask", "clear_border"))
_VALUE = r"""\[[^]]*\]|\([^)]*\)|\{[^}]*\}|"[^"]*"|'[^']*'|-?\d+(?:\.\d+)?"""
# What follows a slash, a dot or a dash is part of a file name.
_ARGUMENT = re.compile(rf"(?<![\w/\\.-])({_NAMES})=(?:({_VALUE})|(?=[\s,.;:)]|$))")


def new_command(
    commands: Commands,
    common: argparse.ArgumentParser,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a subcommand whose help ends in examples."""
    parser = commands.add_parser(
        name,
        parents=[common],
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def package_version() -> str:
    """Return the installed version, without importing the package's heavy parts."""
    try:
        return metadata.version("napari-fcnseg")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def message_of(exc: Exception) -> str:
    """Return what an error says, with keyword arguments as the flags that they are here.

    Examples
    --------
    >>> message_of(InputError('Likely: channel_axis=-1; axes="tyx".'))
    'Likely: --channel-axis=-1; --axes tyx.'
    """
    text = str(exc) or type(exc).__name__
    return _ARGUMENT.sub(_flag_of, text) if isinstance(exc, InputError | TilingError) else text


def _flag_of(found: re.Match[str]) -> str:
    name, value = found.groups()
    if value is None:
        return "--" + name.replace("_", "-")
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return found[0]
    return shlex.join(as_flag(name, tuple(read) if isinstance(read, list) else read))


def complain(text: str) -> None:
    """Print a line about trouble, where a pipe does not take it for a result."""
    print(text, file=sys.stderr)


@contextlib.contextmanager
def plain_notices(*, verbose: bool) -> Iterator[None]:
    """Show what the package logs, and warns of, as plain lines while a command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger = logging.getLogger("napari_fcnseg")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    with warnings.catch_warnings():
        if not sys.warnoptions:  # those of `python -W`, or of a test run, come first
            warnings.showwarning = lambda message, *_, **__: complain(f"note: {message}")
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


class Progress:
    """Call it with (done, total): a bar on a terminal, a few plain lines elsewhere.

    Attributes
    ----------
    total : int
        Tiles of the run, as last told; 0 before.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self._quarters = 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` tiles are finished."""
        self.total = total
        if sys.stderr.isatty():
            self._draw(done, total)
        elif (quarters := 4 * done // max(total, 1)) > self._quarters:
            # A log wants to see that it moves, not every tile.
            self._quarters = quarters
            complain(f"{self.name}: {done} of {total} tiles")

    def _draw(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            # A terminal that states no size, as in containers, would get no bar at all from tqdm.
            size = shutil.get_terminal_size()
            self._bar = tqdm(
                desc=self.name, total=total, unit="tile", file=sys.stderr, leave=False,
                ncols=size.columns - 1, nrows=size.lines,
            )  # fmt: skip
        self._bar.update(done - self._bar.n)
