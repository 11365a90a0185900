"""Files of weights made elsewhere: found here first, downloaded if need be, read without running code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pooch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_fcnseg._shared.errors import ModelError, ModelFileError
from napari_fcnseg.io.atomic import written_whole
from napari_fcnseg.models.files import file_sha256

BASE_URL = "https://download.pytorch.org/models/"
TIMEOUT = 30.0  # seconds without an answer; a download may take much longer
_OFF = ("", "0", "false", "no", "off")


def cache_folder() -> Path:
    """Return where downloads are kept: ``FCNSEG_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("FCNSEG_CACHE")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("napari-fcnseg"))


def is_offline(offline: bool | None = None) -> bool:
    """Return what was asked for, or else what ``FCNSEG_OFFLINE`` says."""
    return os.environ.get("FCNSEG_OFFLINE", "").lower() not in _OFF if offline is None else offline


def file_url(filename: str, base_url: str | None = None) -> str:
    """Return the address of a file below `base_url`, else ``FCNSEG_WEIGHTS_URL``, else PyTorch's."""
    base = base_url or os.environ.get("FCNSEG_WEIGHTS_URL") or BASE_URL
    return f"{base.rstrip('/')}/{filename}"


def hash_prefix(filename: str) -> str:
    """Return the leading digits of the SHA-256 in a name such as ``vgg16-397923af.pth``, or ``""``."""
    # As torch.hub has it; 8 digits guard against damage and mix-ups, not against an adversary.
    found = re.search(r"-([0-9a-f]{8,64})\.", filename)
    return found[1] if found else ""


def check_prefix(path: Path, prefix: str) -> None:
    """Compare a file with the leading digits of its SHA-256.

    Raises
    ------
    ModelFileError
        If they differ.
    """
    found = file_sha256(path)[: len(prefix)] if prefix else ""
    if found != prefix:
        raise ModelFileError(
            f"{path} is not what its name states: its SHA-256 begins with {found}, not with {prefix}. It is "
            "damaged, cut short or another file; delete it and get it again."
        )


def _folders() -> Iterator[Path]:
    """Yield where a file may already lie: the user's folder, this cache, that of torch.hub."""
    if chosen := os.environ.get("FCNSEG_WEIGHTS"):
        yield Path(chosen).expanduser()
    yield cache_folder()
    yield Path(torch.hub.get_dir()) / "checkpoints"


def find_file(filename: str) -> Path | None:
    """Return a file of that name, or of that name as ``.safetensors``, that is on this machine already."""
    for folder in _folders():
        for path in (folder / filename, (folder / filename).with_suffix(".safetensors")):
            if path.is_file():
                return path
    return None


def get_file(filename: str, *, offline: bool | None = None, base_url: str | None = None) -> Path:
    """Return a file of weights, downloading it if it is not here.

    Parameters
    ----------
    filename : str
        With the leading digits of its SHA-256, such as ``"vgg16-397923af.pth"``.
    offline : bool, optional
        Refuse to download. ``FCNSEG_OFFLINE`` by default.
    base_url : str, optional
        Where the file lies. ``FCNSEG_WEIGHTS_URL`` by default, or else PyTorch's server.

    Returns
    -------
    pathlib.Path
        Looked for in the folder ``FCNSEG_WEIGHTS``, in this package's cache and
        in torch.hub's; else downloaded to the cache.

    Raises
    ------
    ModelError
        If it is not here and cannot be had.
    ModelFileError
        If it is not the file that its name states.
    """
    here = find_file(filename)
    if here is not None:
        return here
    if is_offline(offline):
        raise ModelError(
            f"{filename} is not on this machine, and downloads are off (offline=True or FCNSEG_OFFLINE). "
            f"Fetch {file_url(filename, base_url)} elsewhere, and put it into a folder that FCNSEG_WEIGHTS "
            f"names or into {cache_folder()}."
        )
    return _download(file_url(filename, base_url), cache_folder() / filename)


def _download(url: str, target: Path) -> Path:
    """Download to a name of its own; only a checked file is given the right one."""
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another process may have brought the same file meanwhile: then it is replaced by its equal.
        with written_whole(target, overwrite=True) as partial:
            fetch(url, str(partial), None)
            check_prefix(partial, hash_prefix(target.name))
    except ModelFileError as error:
        raise ModelFileError(f"what {url} sent was not kept, and nothing is left of it: {error}") from error
    except OSError as error:  # those of requests among them
        raise ModelError(
            f"{url} could not be downloaded: {error}. Try again, set FCNSEG_WEIGHTS_URL to a mirror, or put "
            "the file into a folder that FCNSEG_WEIGHTS names."
        ) from error
    return target


def read_weights(path: str | Path) -> Any:
    """Return what a ``.pth``, ``.pt`` or ``.safetensors`` file holds; it cannot run code.

    Raises
    ------
    ModelFileError
        If the file is missing, not the one that its name states, damaged, or
        holds anything but tensors and plain data.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelFileError(f"there is no file of weights at {path}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    check_prefix(path, hash_prefix(path.name))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or hostile file raises is its author's choice
        raise ModelFileError(
            f"{path} was not read: it is damaged, or holds more than tensors, and nothing that a file brings "
            f"along is ever run. Save its state dict alone, best as .safetensors. ({_reason(error)})"
        ) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no usable safetensors file: {error}") from error


def _reason(error: Exception) -> str:
    """Return what is wrong; torch's first line would advise to run the file's code."""
    lines = [line.strip() for line in str(error).splitlines() if "weights_only" not in line]
    found = [line for line in lines if "WeightsUnpickler error" in line] or lines[:1]
    return found[0] if found and "Weights only load failed" not in found[0] else type(error).__name__


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a file of weights, whatever it is wrapped in.

    Raises
    ------
    ModelFileError
        As :func:`read_weights`, or if there is no state dict in it.
    """
    held = read_weights(path)
    for key in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not held or not all(map(_is_entry, held.items())):
        raise ModelFileError(
            f"{path} holds no state dict, which is a table of tensors by name; save network.state_dict()."
        )
    return dict(held)


# A checkpoint has the state dict beside the optimiser's and the epoch.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)
