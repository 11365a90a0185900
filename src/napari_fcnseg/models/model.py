"""A model ready to run: its record, its network and its segmenter."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from napari_fcnseg._shared.errors import ModelError
from napari_fcnseg._shared.protocols import Segmenter
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.networks.segmenter import NetworkSegmenter
from napari_fcnseg.preprocess.normalization import Normalization

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")


@dataclass(frozen=True, eq=False)
class Model:
    """What :func:`load_model` returns.

    Attributes
    ----------
    record : ModelRecord
        Its card.
    network : torch.nn.Module or None
        The network, if it is one.
    segmenter : Segmenter
        What the engine runs.
    copyable : bool
        False for a bare module, which no script or command line can name.
    """

    record: ModelRecord
    network: nn.Module | None
    segmenter: Segmenter
    copyable: bool = True

    def on(self, device: torch.device, dtype: torch.dtype) -> Segmenter:
        """Return the segmenter for a device and precision; made once for each."""
        return self._placed(str(device), dtype)

    @functools.cached_property
    def _places(self) -> dict[tuple[str, torch.dtype], Segmenter]:
        return {}

    def _placed(self, device: str, dtype: torch.dtype) -> Segmenter:
        place = getattr(self.segmenter, "on", None)
        if place is None:  # it runs where it runs, as a forest does
            return self.segmenter
        if (device, dtype) not in self._places:
            self._places[device, dtype] = place(device, dtype)
        return self._places[device, dtype]

    def __getstate__(self) -> dict[str, Any]:
        # What was placed on this process's devices stays here.
        return {name: value for name, value in self.__dict__.items() if name != "_places"}

    def __repr__(self) -> str:
        return f"<Model {self.record.id}: {self.record.title}>"


def make_model(record: ModelRecord, network: nn.Module, *, copyable: bool = True) -> Model:
    """Join a record and a network with its weights."""
    config = record.network
    segmenter = NetworkSegmenter(
        network,
        in_channels=config["in_channels"],
        out_channels=config["classes"],
        ndim=config["ndim"],
        halo=record.halo,
        stride=record.stride,
    )
    if not segmenter.exact_tiling and record.tile_shape is None:
        raise ModelError(
            f"{record.id} cannot be tiled exactly ({segmenter.inexact_reason}); its card needs a tile_shape, "
            "the window it is run with."
        )
    return Model(record, network, segmenter, copyable)


def first_convolution(network: nn.Module) -> tuple[int, int]:
    """Return the number of input channels and spatial axes."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return layer.in_channels, len(layer.kernel_size)
    raise ModelError(
        f"{type(network).__name__} has no convolution, so its channels and axes cannot be read off it."
    )


def _class_names(classes: int | Sequence[str] | Mapping[int, str]) -> dict[int, str]:
    if isinstance(classes, Mapping):
        return dict(classes)
    if isinstance(classes, str):
        raise ModelError(f"classes is the text {classes!r}; give a list of names, such as [{classes!r}].")
    listed = [f"class {i + 1}" for i in range(classes)] if isinstance(classes, int) else classes
    return dict(enumerate(listed, start=1))


def _class_list(classes: int | Sequence[str] | Mapping[int, str]) -> tuple[ModelClass, ...]:
    names = _class_names(classes)
    if not names:
        raise ModelError("classes is empty; name at least one class besides the background.")
    return tuple(
        ModelClass(value, name, COLOURS[i % len(COLOURS)]) for i, (value, name) in enumerate(names.items())
    )


def as_model(
    network: nn.Module | Segmenter,
    *,
    classes: int | Sequence[str] | Mapping[int, str],
    normalization: Normalization | Mapping[str, Any] | str | None = None,
    halo: Any = None,
    stride: Any = None,
    tile_shape: Sequence[int] | None = None,
    name: str = "unnamed",
) -> Model:
    """Make a model of a bare network, or of anything else that gives scores.

    Parameters
    ----------
    network : torch.nn.Module or Segmenter
        Takes ``(n, channels, *spatial)`` and returns one logit map for the
        background and one for each class, at full size. What is no module
        says of itself how far it looks, as
        :class:`~napari_fcnseg.classical.SlidingWindow` does.
    classes : int, sequence of str, or mapping of int to str
        The classes besides the background: how many, their names in order, or
        names by label value.
    normalization : Normalization, mapping or str, optional
        Percentiles 1 and 99.8 by default.
    halo : int or sequence, optional
        Derived from the layers. More may be asked for, less is refused. For a module only.
    stride : int or sequence of int, optional
        Only for a network that cannot be walked.
    tile_shape : sequence of int, optional
        Window of a network that looks at the whole image; 512 pixels in 2D,
        128 in 3D by default.
    name : str
        What records call it.

    Returns
    -------
    Model
        Runs like any other, but cannot be named in a copied script until it is saved.

    Raises
    ------
    ModelError
        If classes and network do not fit.
    TilingError
        If the halo is too small, or cannot be derived and is not given.

    See Also
    --------
    save_model : Give it a card and a file.

    Examples
    --------
    >>> from napari_fcnseg.networks import build_network
    >>> model = as_model(build_network("unet", in_channels=1, classes=2, base_channels=4), classes=["cell"])
    >>> model.segmenter.halo
    ((96, 96), (96, 96))
    """
    if isinstance(network, nn.Module):
        in_channels, ndim = first_convolution(network)
    else:
        _check_segmenter(network, halo, stride)
        in_channels, ndim = network.in_channels, network.ndim
    listed = _class_list(classes)
    maps = (OutputMap("background", value=0), *(OutputMap(c.name, value=c.value) for c in listed))
    record = ModelRecord(
        name=name,
        version=1,
        title=f"{type(network).__name__} in memory",
        description="A network handed over as an object.",
        network=_config(network, in_channels, len(maps), ndim),
        inputs=tuple(f"channel {i}" for i in range(in_channels)),
        outputs=maps,
        classes=listed,
        normalization=Normalization.resolve(normalization, Normalization()),
        halo=_tuple_or_none(halo, ndim),
        stride=_tuple_or_none(stride, ndim),
        tile_shape=tuple(tile_shape or ((512,) * ndim if ndim < 3 else (128,) * ndim)),
        colour_input=in_channels == 1,
    )
    if isinstance(network, nn.Module):
        model = make_model(record, network, copyable=False)
    else:
        model = Model(record, None, network, copyable=False)
    _check_maps(model)
    return model


def _check_segmenter(segmenter: Any, halo: Any, stride: Any) -> None:
    if not isinstance(segmenter, Segmenter):
        raise ModelError(
            f"{type(segmenter).__name__} gives no scores; give a torch module, or a Segmenter such as a "
            "SlidingWindow."
        )
    if halo is not None or stride is not None:
        raise ModelError(
            f"{type(segmenter).__name__} states halo and stride itself; leave halo= and stride= out."
        )


def _config(network: nn.Module | Segmenter, in_channels: int, maps: int, ndim: int) -> dict[str, Any]:
    sizes = {"in_channels": in_channels, "classes": maps, "ndim": ndim}
    made = getattr(network, "config", None)
    # Networks of other libraries have a config too, which says nothing to us.
    if isinstance(made, dict) and made.keys() == {"network", "options", *sizes}:
        return {**made, **sizes}
    return {"network": type(network).__name__, **sizes, "options": {}}


def _check_maps(model: Model) -> None:
    """Run the network on a small image of zeros, and see that it gives what the record lists."""
    segmenter, record = model.segmenter, model.record
    lost = [before + after for before, after in segmenter.border]
    size = tuple(16 // step * step + 2 * step for step in segmenter.stride)
    image = torch.zeros((1, segmenter.in_channels, *(n + less for n, less in zip(size, lost, strict=True))))
    try:
        scores = segmenter.predict(image)
    except RuntimeError:
        return  # it may want more pixels than these; the first tile will tell
    except AttributeError as error:
        raise ModelError(f"the network must return one tensor of scores; it does not: {error}.") from error
    if scores.shape[1] != len(record.outputs):
        raise ModelError(
            f"the network gives {scores.shape[1]} maps, but {len(record.classes)} classes and the background "
            f"need {len(record.outputs)}."
        )
    # A network that loses a border gives up to a stride more, which is cut off.
    sizes = zip(scores.shape[2:], size, segmenter.stride, strict=True)
    if any(not due <= got < due + step for got, due, step in sizes):
        raise ModelError(
            f"the network gives maps of {tuple(scores.shape[2:])} pixels where {size} are due; "
            "let it bring its scores back to the size of the image."
        )


def _tuple_or_none(value: Any, ndim: int) -> tuple[Any, ...] | None:
    if value is None:
        return None
    return (value,) * ndim if isinstance(value, int) else tuple(value)
