"""The entry point of ``napari-fcnseg``: picks the command and turns errors into exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from napari_fcnseg._shared.errors import Cancelled, FcnsegError
from napari_fcnseg.cli import batch, cite, demo, doctor, evaluate, models, networks, segment_files
from napari_fcnseg.cli.console import message_of, package_version, plain_notices

DONE, FAILED, STOPPED = 0, 1, 130

_EPILOG = """\
examples:
  napari-fcnseg demo                                     see it work, offline, in seconds
  napari-fcnseg segment cells.tif -o labels.tif          segment one image
  napari-fcnseg batch slides/ -o results/                segment many, with a table and a report
  napari-fcnseg COMMAND --help                           options and examples of a command

exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the program's name. Default: those of the process.

    Returns
    -------
    int
        0 done, 1 failed, 130 stopped. Wrong usage and ``--help`` leave through
        ``SystemExit`` with 2 and 0, as argparse does.

    Examples
    --------
    >>> from napari_fcnseg.cli.entry import main
    >>> main(["evaluate", "--labels", "nowhere", "--truth", "nowhere"])
    1
    """
    args = _parser().parse_args(argv)
    try:
        with plain_notices(verbose=args.verbose):
            code = args.run(args)
        sys.stdout.flush()
        return int(code)
    except (KeyboardInterrupt, Cancelled):
        print("cancelled", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as exc:
        _report(exc, debug=args.debug)
    return FAILED


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="say what is decided on the way")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(
        prog="napari-fcnseg",
        description="Segment images of any size with fully convolutional networks, exactly.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {package_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, segment_files, batch, models, networks, evaluate, doctor, cite):
        command.add_command(commands, common)
    return parser


def _report(exc: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(exc)
    text = message_of(exc)
    if not isinstance(exc, FcnsegError | OSError | ImportError | MemoryError):
        text = f"unexpected {type(exc).__name__}: {text} (--debug shows where)"
    print(f"error: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
