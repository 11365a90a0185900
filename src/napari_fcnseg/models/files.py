"""Models on disk: a folder with ``card.json`` and ``weights.safetensors``. Neither can run code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from napari_fcnseg._shared.errors import FcnsegError, ModelError, ModelFileError, OutputExistsError
from napari_fcnseg.classical import FORESTS, RandomForestSegmenter, TextonForestSegmenter, forest_from_config
from napari_fcnseg.models.model import Model, make_model
from napari_fcnseg.models.record import ModelRecord
from napari_fcnseg.networks.building import network_config, network_from_config

CARD, WEIGHTS = "card.json", "weights.safetensors"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_path(path: str | Path) -> Path:
    """Return the card of a model given as folder or card."""
    path = Path(path)
    return path / CARD if path.is_dir() else path


def read_record(path: str | Path) -> ModelRecord:
    """Read a card.

    Raises
    ------
    ModelFileError
        If it is missing, damaged or foreign.
    """
    card = card_path(path)
    if not card.is_file():
        raise ModelFileError(
            f"there is no model card at {card}; a model is a folder with {CARD} and {WEIGHTS}."
        )
    try:
        data = json.loads(card.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ModelFileError("it holds no JSON object.")
        return ModelRecord.from_dict(data)
    except (ModelFileError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"{card} is no usable model card: {error}") from error


def verify(path: str | Path) -> ModelRecord:
    """Check that a model's weights are those that its card states.

    Raises
    ------
    ModelFileError
        If they are missing or differ.
    """
    record = read_record(path)
    weights = card_path(path).with_name(WEIGHTS)
    if not weights.is_file():
        raise ModelFileError(f"{record.id} lacks its weights: {weights} is not there; copy the whole folder.")
    found = file_sha256(weights)
    if found != record.sha256:
        raise ModelFileError(
            f"the weights of {record.id} are not those of its card (SHA-256 {found[:12]}..., stated "
            f"{record.sha256[:12]}...); {weights} is damaged or was exchanged. Get the model again."
        )
    return record


def read_model(path: str | Path) -> Model:
    """Load a model from its folder or card.

    Raises
    ------
    ModelFileError
        If card or weights are missing, damaged or foreign, or do not fit each other.
    """
    record = verify(path)
    weights = card_path(path).with_name(WEIGHTS)
    try:
        state = {name: _restored(value) for name, value in load_file(weights).items()}
        if str(record.network.get("network")) in FORESTS:
            arrays = {name: value.numpy() for name, value in state.items()}
            return Model(record, None, forest_from_config(record.network, arrays))
        network = network_from_config(record.network)
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError, FcnsegError, TypeError) as error:
        raise ModelFileError(f"the weights of {record.id} do not fit its network: {error}") from error
    return make_model(record, network.eval())


def _config_and_state(model: Model) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what rebuilds a model, and what it has learned."""
    if isinstance(model.segmenter, RandomForestSegmenter | TextonForestSegmenter):
        arrays = model.segmenter.arrays()
        return model.segmenter.config, {name: torch.from_numpy(value) for name, value in arrays.items()}
    if model.network is None:
        raise ModelError("this model has no network whose weights could be saved.")
    return network_config(model.network), model.network.state_dict()


def save_model(
    model: Model, folder: str | Path, *, half: bool = False, overwrite: bool = False, **changes: Any
) -> ModelRecord:
    """Write a model's card and weights.

    Parameters
    ----------
    model : Model
        With a network made by :func:`~napari_fcnseg.networks.build_network`, or a trained forest.
    folder : str or Path
        Created. Appears only when both files are complete.
    half : bool
        Store the weights as float16: half the size, rounded to 11 bits.
    overwrite : bool
        Replace an existing model.
    **changes
        Fields of :class:`ModelRecord` to set on the way, such as ``name="cells"``.

    Returns
    -------
    ModelRecord
        As written, with the hash of the weights.

    Raises
    ------
    OutputExistsError
        If the folder exists.
    NetworkError
        If nothing says how to rebuild the network.
    ModelError
        If there is no network, or a weight does not fit float16.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (overwrite and folder.is_dir()):
        raise OutputExistsError(f"{folder} exists; choose another folder or pass overwrite=True.")
    config, learned = _config_and_state(model)
    record = replace(model.record, network=config, **changes)
    state = {name: _stored(name, value, half) for name, value in learned.items()}
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        # Not save_file, whose file nobody else may read.
        (partial / WEIGHTS).write_bytes(save(state))
        record = replace(record, sha256=file_sha256(partial / WEIGHTS))
        card = json.dumps(record.to_dict(), indent=2, ensure_ascii=False) + "\n"
        (partial / CARD).write_text(card, encoding="utf-8")
        _move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _move(partial: Path, folder: Path) -> None:
    """Give complete files their names; a kill between two leaves hashes that do not fit."""
    if not folder.exists():
        os.replace(partial, folder)
        return
    # Not the folder itself: whatever else lies in it is the user's.
    for name in (CARD, WEIGHTS):
        os.replace(partial / name, folder / name)


def _stored(name: str, value: torch.Tensor, half: bool) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    if not half or not value.is_floating_point():
        return value
    if not torch.equal(value.half().isfinite(), value.isfinite()):
        raise ModelError(f"{name} has weights beyond the range of float16; save without half=True.")
    return value.half()


def _restored(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value
