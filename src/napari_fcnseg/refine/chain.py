"""What is done to probabilities or objects after the model, by name, in order.

``segment(..., refine=...)`` takes a name, a mapping of a name and options, a
function, or a list of them. A step of probabilities sees a block of the image
with a margin, its *halo*; a step of objects sees one whole object at a time.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError, nearest_name
from napari_fcnseg.refine.checking import check_probabilities
from napari_fcnseg.refine.option_checks import check_count

PROBABILITIES, OBJECTS = "probabilities", "objects"


@dataclass(frozen=True)
class Refinement:
    """A function that can be named as a step.

    Attributes
    ----------
    function : str
        ``"module:function"`` in this package.
    acts_on : {"probabilities", "objects"}
        ``function(probabilities, image, **options)`` returns probabilities, or
        the index of a class for each pixel; ``function(mask, **options)``
        returns the parts of one object, numbered from 1.
    halo : str
        ``"module:function"``, which takes the same options and returns pixels.
    """

    function: str
    acts_on: str
    halo: str = ""


REFINEMENTS: dict[str, Refinement] = {
    "crf": Refinement("crf:dense_crf", PROBABILITIES, "crf:crf_halo"),
    "graph_cut": Refinement("cuts:graph_cut", PROBABILITIES, "cuts:graph_cut_halo"),
    "superpixels": Refinement(
        "oversegmentation:superpixel_vote", PROBABILITIES, "oversegmentation:superpixel_halo"
    ),
    "superpixel_crf": Refinement("regions:superpixel_crf", PROBABILITIES, "regions:superpixel_crf_halo"),
    "superpixel_cut": Refinement("regions:superpixel_cut", PROBABILITIES, "regions:superpixel_cut_halo"),
    "smooth": Refinement("smoothing:gaussian_smooth", PROBABILITIES, "smoothing:smooth_halo"),
    "split": Refinement("objects:split_touching", OBJECTS),
    "open": Refinement("objects:open_objects", OBJECTS),
    "fill_holes": Refinement("objects:fill_enclosed", OBJECTS),
    "remove_small": Refinement("objects:remove_small", OBJECTS),
}
"""All steps that have a name."""

# What is supplied here, and by no user: channels come first, and the image goes from 0 to 1.
_SUPPLIED: dict[str, Any] = {"channel_axis": 0, "intensity_range": 1.0}
# Where a block begins in the image, for functions that lay a grid of their own.
_ORIGIN = "origin"


@dataclass(frozen=True)
class Step:
    """One step, ready to run.

    Attributes
    ----------
    name : str
        As settings and records have it.
    run : callable
        Takes ``(probabilities, image)`` or ``(mask)``; see :class:`Refinement`.
    acts_on : {"probabilities", "objects"}
        What it refines.
    halo : int
        Pixels on each side that a block needs for its own to come out right.
    placed : bool
        Whether it is told where the block begins, as ``origin=``.
    own : bool
        Whether it is a function of the user's.
    """

    name: str
    run: Callable[..., NDArray[Any]]
    acts_on: str = PROBABILITIES
    halo: int = 0
    placed: bool = False
    own: bool = False


@dataclass(frozen=True)
class Chain:
    """Steps in order.

    Attributes
    ----------
    steps : tuple of Step
        Those of probabilities come first.
    """

    steps: tuple[Step, ...] = field(default=())

    @property
    def of_probabilities(self) -> tuple[Step, ...]:
        """The steps that see probabilities and image."""
        return tuple(step for step in self.steps if step.acts_on == PROBABILITIES)

    @property
    def of_objects(self) -> tuple[Step, ...]:
        """The steps that see one object at a time."""
        return tuple(step for step in self.steps if step.acts_on == OBJECTS)

    @property
    def halo(self) -> int:
        """Pixels on each side that all steps together look at."""
        return sum(step.halo for step in self.of_probabilities)

    def refine(
        self,
        probabilities: NDArray[np.float32],
        image: NDArray[np.float32],
        origin: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the refined probabilities of a block.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (classes, *spatial)
            They add up to 1, background first.
        image : ndarray of float32, shape (channels, *spatial)
            From 0 to 1.
        origin : sequence of int, optional
            Where the block begins in the whole image; its first pixel by default.

        Returns
        -------
        ndarray of float32, shape (classes, *spatial)
        """
        for step in self.of_probabilities:
            place = {_ORIGIN: tuple(origin)} if step.placed and origin is not None else {}
            found = step.run(probabilities, image, **place)
            probabilities = _as_probabilities(step, found, probabilities.shape)
        return probabilities


NO_CHAIN = Chain()
"""Nothing is refined."""


def _as_probabilities(step: Step, given: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return what a step gave as probabilities; labels become 1 for their class."""
    found: NDArray[Any] = np.asarray(given)
    if found.shape == shape and found.dtype.kind == "f":
        try:
            return check_probabilities(found)
        except InputError as error:
            raise InputError(f"refine step {step.name!r} gave what cannot be used: {error}") from error
    if found.shape == shape[1:] and found.dtype.kind in "iu" and 0 <= found.min() <= found.max() < shape[0]:
        hot: NDArray[np.bool_] = np.arange(shape[0]).reshape(-1, *(1,) * found.ndim) == found
        return hot.astype(np.float32)
    raise InputError(
        f"refine step {step.name!r} gave {found.dtype} of shape {found.shape}; it must give float "
        f"probabilities of shape {shape}, or whole numbers from 0 to {shape[0] - 1} of shape {shape[1:]}."
    )


def make_chain(refine: Any) -> Chain:
    """Return the steps that are asked for, checked.

    Parameters
    ----------
    refine : None, str, mapping, callable, or a sequence of these
        A mapping has the key ``"name"`` and the options of that function, and
        ``"halo"`` where its own estimate, in pixels, is not wanted. A
        function takes ``(probabilities, image)`` and returns probabilities or
        class indices; its attribute ``halo`` says how far it looks, in pixels (0 without).

    Raises
    ------
    InputError
        For a name or an option that is not known, or a step out of order.
    """
    steps = tuple(_step(part) for part in _parts(refine))
    order = [step.acts_on for step in steps]
    if order != sorted(order, reverse=True):
        raise InputError(
            f"refine has the steps {', '.join(step.name for step in steps)}; those of objects come after "
            "those of probabilities, of which objects are made."
        )
    return Chain(steps)


def chain_data(refine: Any) -> tuple[dict[str, Any], ...] | None:
    """Return steps as plain data for settings and records; None if there are none."""
    return tuple(step_data(part) for part in _parts(refine)) or None


def _parts(refine: Any) -> Sequence[Any]:
    """Return the steps as a sequence, however they were given."""
    parts = () if refine is None else refine
    parts = [parts] if isinstance(parts, str | Mapping) or callable(parts) else parts
    if not isinstance(parts, Sequence):
        raise InputError(f"refine is {refine!r}; give a name, a mapping, a function, or a list of them.")
    return parts


def step_data(part: Any) -> dict[str, Any]:
    """Return one step as plain data for settings and records; a function leaves its name only."""
    if isinstance(part, Mapping):
        return dict(part)
    return {"name": part} if isinstance(part, str) else {"name": f"{_name_of(part)} (in memory)"}


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _step(part: Any) -> Step:
    if callable(part):
        return Step(_name_of(part), part, halo=check_count("halo", getattr(part, "halo", 0)), own=True)
    data = step_data(part) if isinstance(part, str | Mapping) else {}
    name, options = data.pop("name", None), data
    if not isinstance(name, str) or name not in REFINEMENTS:
        hint = " A recorded function has to be given again." if str(name).endswith("(in memory)") else ""
        said = repr(name if isinstance(name, str) else part)
        raise InputError(
            f"refine step {said} is not known; known are {', '.join(REFINEMENTS)}."
            f"{nearest_name(str(name), REFINEMENTS)}{hint}"
        )
    refinement = REFINEMENTS[name]
    function = _load(refinement.function)
    # One object is seen whole: there is no halo to give.
    halo = options.pop("halo", None) if refinement.halo else None
    _check_options(name, function, options)
    halo = _halo(refinement, options) if halo is None else check_count("halo", halo)
    words = inspect.signature(function).parameters
    supplied = {k: v for k, v in _SUPPLIED.items() if k in words}
    run = partial(function, **supplied, **options)
    return Step(name, run, refinement.acts_on, halo, placed=_ORIGIN in words)


def _halo(refinement: Refinement, options: Mapping[str, Any]) -> int:
    if not refinement.halo:
        return 0
    # Where it is computed says nothing of how far it looks.
    return int(_load(refinement.halo)(**{k: v for k, v in options.items() if k != "device"}))


def _load(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"napari_fcnseg.refine.{module}"), function)
    return found


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    words = inspect.signature(function).parameters.values()
    allowed = [w.name for w in words if w.kind is w.KEYWORD_ONLY and w.name not in (*_SUPPLIED, _ORIGIN)]
    for option in options:
        if option not in allowed:
            raise InputError(
                f"refine step {name!r} has no option {option!r}; it takes {', '.join(allowed) or 'none'}."
                f"{nearest_name(option, allowed)}"
            )
