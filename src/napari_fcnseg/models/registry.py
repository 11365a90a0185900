"""Models by name. Published versions never change, and old ones stay."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from torch import nn

from napari_fcnseg._shared.errors import ModelError, UnknownModelError, nearest_name
from napari_fcnseg.models.bioimageio.package import Package, find_description
from napari_fcnseg.models.bioimageio.reading import read_package
from napari_fcnseg.models.files import CARD, WEIGHTS, card_path, read_model, read_record, verify
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.record import ModelRecord

ZOO = Path(__file__).parent / "zoo"
"""The folder of the embedded models."""


def _folders() -> dict[str, Path]:
    """Return the folders of the embedded models by ``"name@version"``."""
    folders = {path.parent.name: path.parent for path in sorted(ZOO.glob(f"*/{CARD}"))}
    # What a killed save_model leaves has another name, and is no model.
    return {name: folder for name, folder in folders.items() if re.fullmatch(r"[^@]+@[0-9]+", name)}


def list_models() -> list[ModelRecord]:
    """Return the records of all models that can be named.

    Returns
    -------
    list of ModelRecord
        By name and version.
    """
    records = [read_record(folder) for folder in _folders().values()]
    return sorted(records, key=lambda record: (record.name, record.version))


def _newest(name: str, known: dict[str, Path]) -> str:
    """Return the id of a name, with the newest version where none is given."""
    versions = [key for key in known if key.partition("@")[0] == name]
    if "@" in name or not versions:
        return name
    return max(versions, key=lambda key: int(key.partition("@")[2]))


def model_folder(name: str) -> Path:
    """Return the folder of an embedded model.

    Raises
    ------
    UnknownModelError
        With the known names and the nearest.
    """
    known = _folders()
    key = _newest(name, known)
    if key not in known:
        names = sorted(known) + sorted({key.partition("@")[0] for key in known})
        raise UnknownModelError(
            f"no model is called {name!r}; known are {', '.join(sorted(known)) or 'none'}."
            f"{nearest_name(name, names)} A model of your own is given by its folder, with a slash: "
            f"{'./' + name!r}."
        )
    return known[key]


@functools.lru_cache(maxsize=8)
def _cached(card: Path, _state: tuple[tuple[int, int], ...]) -> Model:
    return read_model(card)


def _state(card: Path) -> tuple[tuple[int, int], ...]:
    """Return what changes when someone exchanges the files of a model."""
    stats = [path.stat() for path in (card, card.with_name(WEIGHTS)) if path.exists()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)


def verify_model(name: str) -> ModelRecord:
    """Check that an embedded model's weights are those that its card states.

    Raises
    ------
    UnknownModelError, ModelFileError
    """
    return verify(model_folder(name))


@functools.lru_cache(maxsize=8)
def _cached_package(path: Path, trust_code: bool, _state: tuple[tuple[str, int, int], ...]) -> Model:
    return read_package(path, trust_code=trust_code)


def load_model(model: str | Path | Model, *, trust_code: bool = False) -> Model:
    """Return a model ready to run.

    Parameters
    ----------
    model : str, Path or Model
        A name such as ``"nuclei"`` or ``"nuclei@1"``, the path of a folder or
        card, of a package of the BioImage Model Zoo (its folder,
        ``bioimageio.yaml`` or zip), or a model itself.
    trust_code : bool
        Let a package's own Python code build its network, where the package
        holds no weights that do without. Only for packages from people whom
        you would let run programs on this computer; no other function ever does.

    Returns
    -------
    Model
        With ``.segmenter``, ``.network`` and ``.record``; the same object each
        time, so copy its network before changing it.

    Raises
    ------
    UnknownModelError
        For a name that is not known.
    ModelFileError
        For a file that is damaged or foreign.
    MissingPackageError
        For a package of the BioImage Model Zoo without the extra ``bioimageio``.
    ModelError
        For an object that is no model.

    Examples
    --------
    >>> load_model("nuclei").record.id
    'nuclei@1'
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        raise ModelError(
            "a bare network says nothing of its classes; wrap it: "
            "segment(image, as_model(network, classes=[...]))."
        )
    if not isinstance(model, str | Path):
        raise ModelError(
            f"{type(model).__name__} is no model; give a name, a path, or a model from load_model."
        )
    folder = Path(model).expanduser() if is_path(model) else model_folder(str(model))
    # Absolute: the same relative path is another model after a change of folder.
    card = card_path(folder).resolve()
    package = None if card.is_file() and card.name == CARD else find_description(folder)
    if package is not None:
        package = package.resolve()
        return _cached_package(package, trust_code, Package(package).state())
    return _cached(card, _state(card))


def is_path(model: str | Path) -> bool:
    """Tell whether a model is given by a path: a Path, or a text with a slash or such a file's ending."""
    # A name never silently becomes a folder that happens to stand around.
    return isinstance(model, Path) or bool(re.search(r"[\\/]|\.(json|ya?ml|zip)$", model))
