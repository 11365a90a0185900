"""Every option of a run, as plain data that a file, a script or a widget can hold."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_fcnseg._shared.errors import InputError, nearest_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

KINDS = ("classes", "instances")
PRECISIONS = ("auto", "float32", "bfloat16")
BLENDS = ("constant", "gaussian")
AUGMENTATIONS = ("flips", "full")
TISSUE = "tissue"
LABEL_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")

Channel: TypeAlias = int | str
Spacing: TypeAlias = dict[str, float] | tuple[float, ...]

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SegmentSettings:
    """All options of :func:`napari_fcnseg.segment`, checked and JSON-ready.

    The parameters are those of `segment`, with the same defaults, except that
    `mask` is ``"tissue"`` or the SHA-256 of the mask array (see :func:`array_sha256`)
    and that a model is named, never an object. Lists become tuples, NumPy numbers become
    Python's, letters of `axes` become lower case.

    Raises
    ------
    InputError
        An option of the wrong type or outside its range.

    See Also
    --------
    napari_fcnseg._shared.record.RunRecord : The settings of a run that was made,
        with what came of it.

    Examples
    --------
    >>> settings = SegmentSettings(diameter=30, tile_shape=[512, 512])
    >>> settings.options()
    {'diameter': 30.0, 'tile_shape': (512, 512)}
    >>> settings.to_command("cells.tif", "labels.tif")
    'napari-fcnseg segment cells.tif --out labels.tif --diameter 30.0 --tile-shape 512,512'
    >>> SegmentSettings.from_dict(settings.to_dict()) == settings
    True
    """

    model: str = "nuclei"
    kind: str | None = None
    axes: str | None = None
    channel_axis: int | None = None
    channel: Channel | tuple[Channel, ...] | None = None
    spacing: Spacing | None = None
    diameter: float | None = None
    mask: str | None = None
    normalization: str | dict[str, Any] | None = None
    threshold: float | None = None
    min_size: int | None = None
    clear_border: bool = False
    tile_shape: tuple[int, ...] | None = None
    batch_size: int | None = None
    memory: int | str | None = None
    device: str | None = None
    precision: str = "auto"
    label_dtype: str | None = None
    refine: tuple[dict[str, Any], ...] | None = None
    blend: str | None = None
    tta: str | None = None
    link_z: float | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name in _NEVER_NONE:
                object.__setattr__(self, name, check(name, value))

    def options(self) -> dict[str, Any]:
        """Return what differs from the defaults, as keyword arguments of `segment`.

        An array as `mask` is not among them: only its hash is known here.
        """
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) != f.default and not (f.name == "mask" and self.masked)
        }

    @property
    def masked(self) -> bool:
        """Whether an array was the mask, which settings cannot hold."""
        return self.mask not in (None, TISSUE)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON types: tuples become lists."""
        return {f.name: _as_json(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegmentSettings:
        """Restore settings; what is missing takes its default.

        Raises
        ------
        InputError
            For a name that is no setting, or a value that it cannot have.
        """
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise InputError(
                    f"{name!r} is no setting.{nearest_name(str(name), known)} Known are: {', '.join(known)}."
                )
        return cls(**data)

    def to_python(self, image: str = "image") -> str:
        """Return a script that repeats the run on the variable `image`."""
        arguments = [f"{name}={value!r}" for name, value in self.options().items()]
        lines = ["from napari_fcnseg import segment", ""]
        if self.masked:
            lines.append(f"# mask: supply the array of the recorded run, SHA-256 {self.mask}.")
            arguments.append("mask=mask")
        return "\n".join([*lines, f"labels = segment({', '.join([image, *arguments])})", ""])

    def to_command(self, image: str = "IN", out: str = "OUT") -> str:
        """Return the command line that repeats the run, quoted for a POSIX shell."""
        words = ["napari-fcnseg", "segment", *_path_word(image), "--out", out]
        for name, value in self.options().items():
            words += as_flag(name, value)
        if not self.masked:
            return shlex.join(words)
        return (
            f"{shlex.join([*words, '--mask', 'MASK'])}  # MASK: the file whose array has SHA-256 {self.mask}"
        )


def parse_memory(amount: int | str) -> int:
    """Return an amount of memory in bytes.

    Parameters
    ----------
    amount : int or str
        Bytes, or a number with one of ``B KB MB GB TB`` (powers of 1000) or
        ``KiB MiB GiB TiB`` (powers of 1024), in upper or lower case.

    Raises
    ------
    InputError
        Anything else, or less than one byte.

    Examples
    --------
    >>> parse_memory("4GB"), parse_memory("1.5 GiB"), parse_memory(1000)
    (4000000000, 1610612736, 1000)
    """
    found = _AMOUNT.fullmatch(amount if isinstance(amount, str) else str(_whole("memory", amount)))
    factor = _UNITS.get(found[2].upper()) if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise InputError(
            f"memory is {amount!r}; it must be a positive number of bytes, or a number with one of KB MB GB "
            "TB KiB MiB GiB TiB. Write for instance '4GB'."
        )
    return int(found[1]) * factor if found[1].isdigit() else int(float(found[1]) * factor)


def array_sha256(array: ArrayLike) -> str:
    """Return the SHA-256 of an array's data type, shape and values.

    Byte order and memory layout do not matter: equal arrays of one data type
    give equal hashes.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> array_sha256(mask) == array_sha256(np.asfortranarray(mask))
    True
    """
    import numpy as np

    values = np.asarray(array)
    return blocks_sha256(values.shape, values.dtype, [values])


def blocks_sha256(shape: tuple[int, ...], dtype: DTypeLike, blocks: Iterable[NDArray[Any]]) -> str:
    """Return what :func:`array_sha256` returns for an array, of blocks whose values in C order are its own.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.eye(3, dtype=bool)
    >>> array_sha256(mask) == blocks_sha256(mask.shape, mask.dtype, [mask[:1], mask[1:]])
    True
    """
    import numpy as np

    stored = np.dtype(dtype).newbyteorder("<")
    digest = hashlib.sha256(f"{stored.str}{shape}".encode())
    for block in blocks:
        ordered = np.ascontiguousarray(block, dtype=stored)
        digest.update(ordered.data if ordered.size else b"")
    return digest.hexdigest()


def as_flag(name: str, value: Any) -> list[str]:
    """Return the words of the command line that stand for one option."""
    flag = "--" + name.replace("_", "-")
    if name == "clear_border":
        return [flag]
    if name == "channel":
        channels = value if isinstance(value, tuple) else (value,)
        return [word for channel in channels for word in _words(flag, _channel_word(channel))]
    if name == "normalization" and isinstance(value, dict):
        return _words(flag, json.dumps(value))
    if name == "refine":
        plain = all(len(step) == 1 for step in value)
        return _words(flag, ",".join(step["name"] for step in value) if plain else json.dumps(value))
    if isinstance(value, dict):
        return _words(flag, ",".join(f"{k}={v!r}" for k, v in value.items()))
    if isinstance(value, tuple):
        return _words(flag, ",".join(repr(v) for v in value) + ("," if len(value) == 1 else ""))
    return _words(flag, str(value))


def _as_json(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _as_json(v) for k, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, list | tuple) else value


def _words(flag: str, value: str) -> list[str]:
    # argparse would take a value that begins with a dash for another option.
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _path_word(path: str) -> list[str]:
    return [f"./{path}"] if path.startswith("-") else [path]


def _channel_word(channel: Channel) -> str:
    # A name that looks like an index has to say that it is a name.
    is_name = isinstance(channel, str) and (channel.lstrip("-").isdigit() or channel.startswith("name="))
    return f"name={channel}" if is_name else str(channel)


def _fault(name: str, value: object, allowed: str, cure: str) -> InputError:
    return InputError(f"{name} is {value!r}; it must be {allowed}. {cure}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _fault(name, value, "a text that is not empty", "Pass a name, not an object.")
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            near = nearest_name(str(value), allowed).strip() or f"Choose one, such as {allowed[-1]!r}."
            raise _fault(name, value, "one of " + ", ".join(map(repr, allowed)), near)
        return value

    return check


def _letters(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.isalpha() or len(set(value.lower())) != len(value):
        raise _fault(
            name, value, "one different letter per dimension, of t c z y x", "Write for instance 'tcyx'."
        )
    return value.lower()


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _fault(name, value, "a whole number", "Pass an int.")
    return int(value)


def _at_least(lowest: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if _whole(name, value) < lowest:
            raise _fault(name, value, f"at least {lowest}", f"Pass {lowest} or more, or leave it out.")
        return int(value)  # type: ignore[call-overload, no-any-return]

    return check


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise _fault(name, value, "a positive, finite number", "Pass such a number, or leave it out.")
    return float(value)


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise _fault(name, value, "a probability from 0 to 1", "Pass such a number, or leave it out.")
    return float(value)


def _switch(name: str, value: object) -> bool:
    if value not in (True, False):
        raise _fault(name, value, "True or False", "Pass one of them.")
    return bool(value)


def _channels(name: str, value: object) -> Channel | tuple[Channel, ...]:
    if isinstance(value, list | tuple):
        if not value:
            raise _fault(name, value, "an index, a name or several of them", "Leave it out to take them all.")
        return tuple(_one_channel(name, v) for v in value)
    return _one_channel(name, value)


def _one_channel(name: str, value: object) -> Channel:
    return _text(name, value) if isinstance(value, str) else _whole(name, value)


def _pixel_sizes(name: str, value: object) -> Spacing:
    sizes = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(sizes, list | tuple) or not sizes:
        cure = "Write for instance (0.5, 0.5) or {'y': 0.5, 'x': 0.5}."
        raise _fault(name, value, "micrometres per pixel for each spatial axis", cure)
    checked = tuple(_positive(name, size) for size in sizes)
    if not isinstance(value, Mapping):
        return checked
    for axis in value:
        if axis not in ("z", "y", "x"):
            raise _fault(name, value, "given for the axes 'z', 'y', 'x' only", f"Leave {axis!r} out.")
    return dict(zip(value, checked, strict=True))


def _hash(name: str, value: object) -> str:
    if not isinstance(value, str) or not (value == TISSUE or _SHA256.fullmatch(value)):
        cure = "Settings hold no arrays: pass array_sha256(mask)."
        raise _fault(name, value, "'tissue', or the SHA-256 of the mask, 64 hexadecimal digits", cure)
    return value


def _recipe(name: str, value: object) -> str | dict[str, Any]:
    if not isinstance(value, Mapping):
        return _text(name, value)
    try:
        copy: dict[str, Any] = json.loads(json.dumps(_as_json(value), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise _fault(name, value, "a name or a plain JSON object", f"It has {exc}.") from exc
    return copy


def _steps(name: str, value: object) -> tuple[dict[str, Any], ...] | None:
    """Return refinements as mappings with a name each; none at all are None."""
    parts = [value] if isinstance(value, str | Mapping) else value
    if not isinstance(parts, list | tuple):
        raise _fault(
            name, value, "a name, a mapping with a name and options, or a list of them", "Write 'crf'."
        )
    steps = []
    for part in parts:
        step = _recipe(name, {"name": part} if isinstance(part, str) else part)
        if not isinstance(step, dict) or not isinstance(step.get("name"), str):
            raise _fault(name, part, "a mapping with a 'name'", "Write for instance {'name': 'crf'}.")
        steps.append(step)
    return tuple(steps) or None


def _shape(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _fault(name, value, "pixels for each spatial axis", "Write for instance (512, 512).")
    return tuple(_at_least(1)(name, n) for n in value)


def _memory(_name: str, value: Any) -> int | str:
    parse_memory(value)
    return value if isinstance(value, str) else int(value)


_NEVER_NONE = ("model", "clear_border", "precision")
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "model": _text,
    "kind": _one_of(KINDS),
    "axes": _letters,
    "channel_axis": _whole,
    "channel": _channels,
    "spacing": _pixel_sizes,
    "diameter": _positive,
    "mask": _hash,
    "normalization": _recipe,
    "threshold": _share,
    "min_size": _at_least(0),
    "clear_border": _switch,
    "tile_shape": _shape,
    "batch_size": _at_least(1),
    "memory": _memory,
    "device": _text,
    "precision": _one_of(PRECISIONS),
    "label_dtype": _one_of(LABEL_DTYPES),
    "refine": _steps,
    "blend": _one_of(BLENDS),
    "tta": _one_of(AUGMENTATIONS),
    "link_z": _share,
}
