"""The options of ``segment``: from words to `SegmentSettings`, recorded ones underneath."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import (
    AUGMENTATIONS,
    BLENDS,
    KINDS,
    LABEL_DTYPES,
    PRECISIONS,
    TISSUE,
    SegmentSettings,
    parse_memory,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)

# A record holds every setting as it was resolved. What follows from another setting, or excludes it, must
# go when that one changes: nobody could override it, as no flag says "not given".
_FOLLOWS: dict[str, tuple[str, ...]] = {
    "axes": ("channel_axis",),
    "channel_axis": ("axes",),
    "spacing": ("diameter",),
    "diameter": ("spacing",),
    "kind classes": ("min_size", "clear_border", "label_dtype", "threshold", "refine", "link_z"),
    "kind instances": ("label_dtype",),
    "model": ("normalization", "min_size", "tile_shape", "threshold"),
    "memory": ("tile_shape",),
}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting; None stands for "not given"."""
    _add_input_flags(parser.add_argument_group("the image"))
    _add_result_flags(parser.add_argument_group("the result"))
    _add_run_flags(parser.add_argument_group("the run"))


def settings_of(args: argparse.Namespace, recorded: SegmentSettings | None = None) -> SegmentSettings:
    """Return the recorded settings, or the defaults, with what the flags say on top.

    A flag that changes a recorded setting also resets the recorded ones that
    follow from it or contradict it, unless they are flags themselves.

    Raises
    ------
    InputError
        A value that the setting cannot have.
    """
    names = [f.name for f in fields(SegmentSettings) if f.name != "mask" or args.mask == TISSUE]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if len(given.get("channel", ())) == 1:
        given["channel"] = given["channel"][0]
    if recorded is None:
        return SegmentSettings(**given)
    if args.mask not in (None, TISSUE) and not recorded.masked:
        recorded = replace(recorded, mask=None)  # a file takes the place of the tissue
    return replace(_without_outdated(recorded, given), **given)


def _without_outdated(recorded: SegmentSettings, given: dict[str, Any]) -> SegmentSettings:
    """Return the recorded settings without those that the flags make meaningless."""
    flags, plain = SegmentSettings(**given), SegmentSettings()
    outdated: dict[str, Any] = {}
    for name in given:
        if getattr(flags, name) == getattr(recorded, name):
            continue
        followers = _FOLLOWS.get(f"kind {flags.kind}" if name == "kind" else name, ())
        outdated |= {follower: getattr(plain, follower) for follower in followers}
    dropped = [n for n in outdated if n not in given and getattr(recorded, n) != outdated[n]]
    if dropped:
        logger.info("not taken from the record, as other flags change it: %s", ", ".join(dropped))
    return replace(recorded, **outdated)


def _add_input_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--axes", metavar="AXES", help="one letter of t c z y x per dimension, such as TCYX")
    group.add_argument("--channel-axis", type=int, metavar="N", help="which dimension holds the channels")
    group.add_argument(
        "--channel", type=_checked(_channel), action="append", metavar="CH",
        help="index or name of the channel that the model is to see; repeat it for several "
        "(name=7 for a channel called 7)",
    )  # fmt: skip
    group.add_argument(
        "--spacing", type=_checked(_spacing), metavar="UM",
        help="micrometres per pixel: 0.5 (y and x), 2,0.5,0.5 (every spatial axis) or z=2,y=0.5,x=0.5",
    )  # fmt: skip
    group.add_argument("--diameter", type=float, metavar="PX", help="pixels across a typical object")
    group.add_argument(
        "--mask",
        metavar="FILE",
        help="image that is not 0 where to segment, outside of it labels are 0; "
        "or tissue: find the tissue of a slide",
    )
    group.add_argument(
        "--normalization", type=_checked(_normalization), metavar="HOW",
        help="name of another normalisation than the model's own, or a JSON object",
    )  # fmt: skip


def _add_result_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--kind", choices=KINDS, help="default: the model's own")
    group.add_argument("--threshold", type=float, metavar="P", help="least probability of the foreground")
    group.add_argument(
        "--refine", type=_checked(_refinements), metavar="STEPS",
        help="what follows the model: names such as crf,split, or JSON with options",
    )  # fmt: skip
    group.add_argument(
        "--blend", choices=BLENDS, help="average overlapping windows instead of tiling exactly"
    )
    group.add_argument(
        "--tta",
        choices=AUGMENTATIONS,
        help="average over mirror images (flips), and over right-angle turns too",
    )
    group.add_argument(
        "--link-z",
        type=float,
        metavar="IOU",
        help="join objects of consecutive slices that overlap this much",
    )
    group.add_argument("--min-size", type=int, metavar="N", help="drop objects of fewer pixels")
    group.add_argument(
        "--clear-border", action=argparse.BooleanOptionalAction, help="drop objects that touch the border"
    )
    group.add_argument(
        "--label-dtype", choices=LABEL_DTYPES, metavar="TYPE", help="such as int64, for very many objects"
    )


def _add_run_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", metavar="NAME", help="name (nuclei, nuclei@1) or path; default: nuclei")
    group.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; default: the best there is"
    )
    group.add_argument("--precision", choices=PRECISIONS, help="default: auto")
    group.add_argument(
        "--tile-shape", type=_checked(_shape), metavar="N,N", help="pixels of a tile; no effect on the labels"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="tiles at a time")
    group.add_argument("--memory", type=_checked(_memory), metavar="SIZE", help="limit, such as 4GB")


def _checked(convert: Callable[[str], T]) -> Callable[[str], T]:
    """Give argparse the message of a refusal; by itself it would hide it."""

    def converted(text: str) -> T:
        try:
            return convert(text)
        except InputError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be read ({exc})") from exc

    return converted


def _channel(text: str) -> int | str:
    if text.startswith("name="):
        return text.removeprefix("name=")
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _spacing(text: str) -> dict[str, float] | tuple[float, ...]:
    parts = [part for part in text.split(",") if part.strip()]
    if "=" in text:
        pairs = [part.split("=", 1) for part in parts]
        return {axis.strip().lower(): float(size) for axis, size in pairs}
    sizes = tuple(float(part) for part in parts)
    if len(sizes) == 1 and "," not in text:
        return {"y": sizes[0], "x": sizes[0]}
    return sizes


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.split("[,x]", text) if part.strip())


def _memory(text: str) -> int | str:
    parse_memory(text)
    return int(text) if text.isdigit() else text


def _normalization(text: str) -> Any:
    return json.loads(text) if text.lstrip().startswith("{") else text


def _refinements(text: str) -> Any:
    if text.lstrip().startswith(("{", "[")):
        return json.loads(text)
    return [name.strip() for name in text.split(",") if name.strip()]
