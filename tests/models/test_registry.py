"""Models by name: versions, nearest names, and no folder taken for a name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.conftest import network, record
from torch import nn

from napari_fcnseg._shared.errors import ModelError, ModelFileError, UnknownModelError
from napari_fcnseg.models import (
    Model,
    as_model,
    list_models,
    load_model,
    model_folder,
    registry,
    save_model,
    verify_model,
)
from napari_fcnseg.models.files import CARD, WEIGHTS
from napari_fcnseg.models.model import make_model

IMAGE = torch.randn((1, 1, 16, 16), generator=torch.Generator().manual_seed(0))


def stored(folder: Path, name: str, version: int, up: str = "transpose") -> Path:
    """Put a model into a zoo."""
    path = folder / f"{name}@{version}"
    save_model(make_model(record(name=name, version=version, halo=None), network(up=up)), path)
    return path


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a zoo of two models, one in three versions; the newest is not the last by letters."""
    folder = tmp_path / "zoo"
    for version, up in ((1, "transpose"), (2, "linear"), (10, "nearest")):
        stored(folder, "nuclei", version, up)
    stored(folder, "nucleoli", 1)
    monkeypatch.setattr(registry, "ZOO", folder)
    registry._cached.cache_clear()
    yield folder
    registry._cached.cache_clear()


@pytest.mark.usefixtures("zoo")
def test_models_are_listed_by_name_and_version() -> None:
    assert [card.id for card in list_models()] == ["nuclei@1", "nuclei@2", "nuclei@10", "nucleoli@1"]


@pytest.mark.usefixtures("zoo")
def test_a_name_is_its_newest_version_and_old_ones_stay() -> None:
    assert load_model("nuclei").record.id == "nuclei@10"
    assert load_model("nuclei") is load_model("nuclei@10")
    for version in (1, 2, 10):
        assert load_model(f"nuclei@{version}").record.version == version
        assert verify_model(f"nuclei@{version}").version == version
    scores = [load_model(f"nuclei@{version}").segmenter.predict(IMAGE) for version in (1, 2, 10)]
    assert not torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_a_version_that_arrives_is_the_newest(zoo: Path) -> None:
    before = load_model("nuclei")
    stored(zoo, "nuclei", 11)
    assert load_model("nuclei").record.id == "nuclei@11"
    assert load_model("nuclei@10") is before


def test_a_model_that_is_exchanged_is_read_again(zoo: Path) -> None:
    before = load_model("nuclei@1")
    other = make_model(record(name="nuclei", version=1, halo=None), network(up="linear"))
    save_model(other, zoo / "nuclei@1", overwrite=True)
    after = load_model("nuclei@1")
    assert after is not before
    assert torch.equal(after.segmenter.predict(IMAGE), other.segmenter.predict(IMAGE))


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("nucleii", "nuclei"),
        ("nucleolus", "nucleoli"),
        ("nuclei@3", "nuclei@(1|2|10)"),
        ("Nuclei", "nuclei"),
    ],
)
def test_an_unknown_name_comes_with_the_known_ones(name: str, nearest: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_model(name)
    message = str(caught.value)
    assert repr(name) in message
    assert all(known in message for known in ("nuclei@1", "nuclei@2", "nuclei@10", "nucleoli@1"))
    assert re.search(f"Did you mean '{nearest}'\\?", message)
    assert f"by its folder, with a slash: {'./' + name!r}" in message


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", ["", "@1", "nuclei@", "nuclei@x", "nuclei@01", "nuclei@1@1", "zebra"])
def test_what_is_no_name(name: str) -> None:
    for look in (load_model, model_folder, verify_model):
        with pytest.raises(LookupError, match="known are"):
            look(name)


def test_an_empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ZOO", tmp_path)
    assert list_models() == []
    with pytest.raises(UnknownModelError, match="known are none"):
        load_model("nuclei")


def test_a_folder_in_the_working_directory_is_not_taken_for_a_name(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(zoo / "nuclei@2", tmp_path / "nuclei")
    shutil.copytree(zoo / "nuclei@2", tmp_path / "cells")
    monkeypatch.chdir(tmp_path)
    assert load_model("nuclei").record.id == "nuclei@10"
    with pytest.raises(UnknownModelError, match="'cells'"):
        load_model("cells")
    for path in ("./cells", "cells/card.json", Path("cells"), str(tmp_path / "cells"), f"cells{os.sep}"):
        assert load_model(path).record.id == "nuclei@2"


def test_the_same_relative_path_elsewhere_is_another_model(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, version in (("one", 1), ("two", 2)):
        shutil.copytree(zoo / f"nuclei@{version}", tmp_path / place / "cells")
        for name in (CARD, WEIGHTS):
            os.utime(tmp_path / place / "cells" / name, ns=(5, 5))
    found = []
    for place in ("one", "two"):
        monkeypatch.chdir(tmp_path / place)
        found.append(load_model("./cells").record.version)
    assert found == [1, 2]


def test_leftovers_of_a_killed_save_are_no_models(zoo: Path) -> None:
    for name in (".nuclei@11.12345678.partial", "nuclei@11.partial", "nuclei", "nuclei@", "nuclei@x"):
        shutil.copytree(zoo / "nuclei@10", zoo / name)
    assert len(list_models()) == 4
    assert load_model("nuclei").record.id == "nuclei@10"


def test_a_damaged_model_of_the_zoo(zoo: Path) -> None:
    (zoo / "nuclei@2" / WEIGHTS).write_bytes(b"")
    for look in (load_model, verify_model):
        with pytest.raises(ModelFileError, match="nuclei@2 are not those of its card"):
            look("nuclei@2")
    assert load_model("nuclei@1").record.version == 1


def test_a_model_is_itself(model: Model) -> None:
    assert load_model(model) is model
    changed = replace(model, copyable=False)
    assert load_model(changed) is changed
    wrapped = as_model(network(), classes=2)
    assert load_model(wrapped) is wrapped


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (nn.Conv2d(1, 2, 1), r"wrap it: segment\(image, as_model\(network"),
        (7, "int is no model"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_model(thing: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(thing)


def test_the_home_folder_is_understood(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    monkeypatch.setenv("USERPROFILE", str(saved.parent))
    assert load_model("~/cells").record.id == "cells@3"
