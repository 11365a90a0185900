"""What the commands share in talking to a person: parsers, progress, lines."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from types import TracebackType
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


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
