"""What is known of a model: a card of plain data that travels with its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from napari_fcnseg._shared.errors import ModelFileError
from napari_fcnseg.preprocess.normalization import Normalization
from napari_fcnseg.refine.instances import ObjectRule

FORMAT = "napari-fcnseg model card"
FORMAT_VERSION = 1
ACTIVATIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True)
class ModelClass:
    """A class that a model tells apart; background is value 0 and not listed.

    Attributes
    ----------
    value : int
        Its number in a label image, from 1.
    name : str
        What it is.
    colour : str
        ``"#rrggbb"``.
    """

    value: int
    name: str
    colour: str

    def __post_init__(self) -> None:
        _check_types(self, _CLASS_TYPES)
        if self.value < 1 or not re.fullmatch(r"#[0-9a-fA-F]{6}", self.colour):
            raise ModelFileError(
                f"class {self.name!r} has value {self.value} and colour {self.colour!r}; "
                "values start at 1 and colours are written '#rrggbb'."
            )


@dataclass(frozen=True)
class OutputMap:
    """One map that the network gives.

    Attributes
    ----------
    name : str
        What it is, such as ``"inside"``.
    activation : {"softmax", "sigmoid", "none"}
        The softmax runs over all maps that name it.
    value : int or None
        The class that the map's probability counts for, 0 for background;
        None if it is no class, such as a distance.
    """

    name: str
    activation: str = "softmax"
    value: int | None = None

    def __post_init__(self) -> None:
        _check_types(self, _OUTPUT_TYPES)
        if self.activation not in ACTIVATIONS:
            raise ModelFileError(
                f"output {self.name!r} has activation {self.activation!r}; "
                f"allowed are {', '.join(ACTIVATIONS)}."
            )


@dataclass(frozen=True)
class ModelRecord:
    """Everything that a card states.

    Attributes
    ----------
    name, version : str, int
        Published versions never change; ``id`` is ``"name@version"``.
    title, description : str
        For people.
    network : dict
        The network's config, as :func:`~napari_fcnseg.networks.network_config` gives it.
    sha256 : str
        Hash of the weights file; empty for a model in memory.
    inputs : tuple of str
        What each input channel means.
    outputs : tuple of OutputMap
        What each output map means.
    classes : tuple of ModelClass
        Names and colours.
    normalization : Normalization
        How pixels are normalised.
    kind : {"instances", "classes"}
        What `segment` gives by default.
    objects : ObjectRule or None
        How objects are made; None makes connected components of the foreground.
    seed_map : str
        Output map whose peaks are the objects.
    min_size : int
        Objects of fewer pixels are dropped.
    diameter : float or None
        Typical object, in pixels of the training images.
    pixel_size : float or None
        Micrometres for each pixel of the training images, where known or assumed.
    tile_shape : tuple of int or None
        Window of a model whose tiling cannot be exact.
    halo, stride : tuple or None
        Only for a network whose layers cannot be walked.
    colour_input : bool
        Whether a colour image may be rendered to the one input channel.
    licence, data_licence : str
        Of the weights and of what they were trained on.
    training : dict
        Data set, script, iterations, seed.
    scores : dict
        Measured, with what they were measured on.
    weaknesses : tuple of str
        Where it is known to fail.
    citation : str
        BibTeX of what to cite.
    """

    name: str
    version: int
    title: str
    description: str
    network: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[OutputMap, ...]
    classes: tuple[ModelClass, ...]
    normalization: Normalization = field(default_factory=Normalization)
    sha256: str = ""
    kind: str = "classes"
    objects: ObjectRule | None = None
    seed_map: str = ""
    min_size: int = 0
    diameter: float | None = None
    pixel_size: float | None = None
    tile_shape: tuple[int, ...] | None = None
    halo: tuple[Any, ...] | None = None
    stride: tuple[int, ...] | None = None
    colour_input: bool = False
    licence: str = ""
    data_licence: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    weaknesses: tuple[str, ...] = ()
    citation: str = ""

    def __post_init__(self) -> None:
        _check_types(self, _RECORD_TYPES)
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name) or self.version < 1:
            raise ModelFileError(
                f"a model cannot be called {self.name!r} version {self.version}; use letters, digits, '_', "
                "'-' or '.', and a version from 1."
            )
        if self.kind not in ("instances", "classes"):
            raise ModelFileError(f"kind is {self.kind!r}; it must be 'instances' or 'classes'.")
        self._check_network()
        self._check_sizes()
        self._check_outputs()

    def _check_sizes(self) -> None:
        for name in ("min_size", "diameter", "pixel_size"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf or (name == "min_size" and value == 0)):
                raise ModelFileError(f"{name} is {value!r}; it must be positive and finite.")
        if self.tile_shape is not None and (len(self.tile_shape) != self.ndim or min(self.tile_shape) < 1):
            raise ModelFileError(
                f"tile_shape is {self.tile_shape}; it needs {self.ndim} sizes of at least 1."
            )

    def _check_network(self) -> None:
        config = self.network
        if config.get("ndim") not in (1, 2, 3):
            raise ModelFileError(f"the network has ndim {config.get('ndim')!r}; it must be 1, 2 or 3.")
        if (config.get("in_channels"), config.get("classes")) != (len(self.inputs), len(self.outputs)):
            raise ModelFileError(
                f"the network has in_channels {config.get('in_channels')!r} and classes "
                f"{config.get('classes')!r}, but the record lists {len(self.inputs)} inputs and "
                f"{len(self.outputs)} outputs."
            )

    def _check_outputs(self) -> None:
        names = [output.name for output in self.outputs]
        if self.objects is not None and names.count(self.seed_map) != 1:
            raise ModelFileError(f"seed_map is {self.seed_map!r}, which is not one of the outputs: {names}.")
        values = [c.value for c in self.classes]
        if len(set(values)) < len(values):
            raise ModelFileError(f"classes share a value: {values}.")
        for output in self.outputs:
            if output.value not in (None, 0, *values):
                raise ModelFileError(
                    f"output {output.name!r} counts for class {output.value}, which is not listed."
                )

    @property
    def id(self) -> str:
        """``"name@version"``."""
        return f"{self.name}@{self.version}"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return int(self.network["ndim"])

    @property
    def class_maps(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """For each class, background first, the output maps whose probabilities add up to it."""
        values = [0, *(c.value for c in self.classes)]
        return tuple((v, tuple(i for i, o in enumerate(self.outputs) if o.value == v)) for v in values)

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain data."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelRecord:
        """Rebuild a record from a card.

        Raises
        ------
        ModelFileError
            If it is no card, a newer one, or something is missing, unknown or of the wrong type.
        """
        values = dict(data)
        if values.pop("format", None) != FORMAT:
            raise ModelFileError(f"this is not a model card: its 'format' is not {FORMAT!r}.")
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"the card has format version {version!r}; this release reads {FORMAT_VERSION}. "
                "A newer card needs a newer release."
            )
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ModelFileError(f"the card has unknown entries: {', '.join(sorted(unknown))}.")
        try:
            return cls(**{name: _restored(name, value) for name, value in values.items()})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ModelFileError(f"the card is damaged: {error}") from error


_TEXTS = ("name", "title", "description", "sha256", "kind", "seed_map", "licence", "data_licence", "citation")
_CLASS_TYPES: dict[str, Any] = {"value": int, "name": str, "colour": str}
_OUTPUT_TYPES: dict[str, Any] = {"name": str, "activation": str, "value": int | None}
_RECORD_TYPES: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(("version", "min_size"), int),
    **dict.fromkeys(("network", "training", "scores"), dict),
    **dict.fromkeys(("diameter", "pixel_size"), int | float | None),
    **dict.fromkeys(("inputs", "outputs", "classes", "weaknesses"), tuple),
    **dict.fromkeys(("tile_shape", "halo", "stride"), tuple | None),
    "normalization": Normalization,
    "objects": ObjectRule | None,
    "colour_input": bool,
}
_ITEM_TYPES: dict[str, type] = {
    "inputs": str, "outputs": OutputMap, "classes": ModelClass, "weaknesses": str,
    "tile_shape": int, "stride": int,
}  # fmt: skip


def _check_types(part: object, kinds: Mapping[str, Any]) -> None:
    """Refuse values of the wrong type, which a card written by hand may have."""
    for name, kind in kinds.items():
        value = getattr(part, name)
        items = value if name in _ITEM_TYPES and isinstance(value, tuple) else ()
        if not _fits(value, kind) or not all(_fits(item, _ITEM_TYPES[name]) for item in items):
            wanted = getattr(kind, "__name__", str(kind))
            raise ModelFileError(f"{name} is {value!r}, which is not of the type {wanted} that a record has.")


def _fits(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


_PARTS: dict[str, Any] = {"outputs": OutputMap, "classes": ModelClass}


def _restored(name: str, value: Any) -> Any:
    if name in _PARTS:
        return tuple(_PARTS[name](**entry) for entry in value)
    if name == "normalization":
        return Normalization(**{k: _tupled(v) for k, v in value.items()})
    if name == "objects":
        return None if value is None else ObjectRule(**value)
    return _tupled(value)


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
