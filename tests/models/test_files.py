"""Models on disk: the same network comes back, and nothing damaged, foreign or half-written does."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.conftest import network, record
from torch import nn

from napari_fcnseg._shared.errors import ModelError, ModelFileError, NetworkError, OutputExistsError
from napari_fcnseg.models import Model, as_model, load_model, save_model, verify
from napari_fcnseg.models.files import CARD, WEIGHTS, file_sha256, read_model
from napari_fcnseg.models.model import make_model

IMAGE = torch.randn((1, 1, 24, 26), generator=torch.Generator().manual_seed(0))


def rewritten(folder: Path, **entries: Any) -> None:
    """Change entries of a card."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_text(json.dumps(card | entries), encoding="utf-8")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- there and back


def test_the_same_predictions_come_back(model: Model, saved: Path) -> None:
    back = load_model(saved)
    assert back.network is not None
    assert not back.network.training
    assert back.copyable
    assert torch.equal(back.segmenter.predict(IMAGE), model.segmenter.predict(IMAGE))
    assert back.record == replace(model.record, sha256=file_sha256(saved / WEIGHTS))


def test_half_the_size_and_nearly_the_same_predictions(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "half", half=True)
    save_model(model, tmp_path / "full")
    back = load_model(tmp_path / "half")
    scores, expected = back.segmenter.predict(IMAGE), model.segmenter.predict(IMAGE)
    assert scores.dtype == torch.float32
    assert 0 < (scores - expected).abs().max() < 5e-3 * expected.abs().max()
    assert back.network is not None
    assert {value.dtype for value in back.network.state_dict().values()} == {torch.float32, torch.int64}
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "full")]
    tensors = sum(v.numel() for v in back.network.parameters())
    assert sizes[1] - sizes[0] >= 2 * tensors * 0.9


def test_half_precision_that_would_overflow_is_refused(tmp_path: Path) -> None:
    made = network()
    next(m for m in made.modules() if isinstance(m, nn.BatchNorm2d)).running_var.fill_(1e6)  # type: ignore[union-attr]
    model = make_model(record(), made)
    with pytest.raises(ModelError, match="running_var has weights beyond the range of float16"):
        save_model(model, tmp_path / "cells", half=True)
    assert listing(tmp_path) == []
    save_model(model, tmp_path / "cells")
    assert torch.equal(
        load_model(tmp_path / "cells").segmenter.predict(IMAGE), model.segmenter.predict(IMAGE)
    )


def test_a_model_in_memory_is_given_a_name(tmp_path: Path) -> None:
    model = as_model(network(), classes=["cell", "rim"])
    written = save_model(model, tmp_path / "new" / "mine", name="mine", version=2, licence="MIT")
    back = load_model(tmp_path / "new" / "mine")
    assert back.record == written
    assert (back.record.id, back.record.licence, back.copyable) == ("mine@2", "MIT", True)
    assert torch.equal(back.segmenter.predict(IMAGE), model.segmenter.predict(IMAGE))


def test_card_and_folder_name_the_same_model(saved: Path) -> None:
    assert load_model(str(saved / CARD)) is load_model(saved)
    assert load_model(f"{saved}{os.sep}").record.id == "cells@3"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_what_was_saved(saved: Path) -> None:
    modes = {stat.S_IMODE((saved / name).stat().st_mode) for name in (CARD, WEIGHTS)}
    assert len(modes) == 1  # that of any new file, not the closed one of safetensors


# ---------------------------------------------------------------- damage


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_is_not_executed(saved: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.is_dir()  # it works
    trap.rmdir()
    for write in (pickle.dump, torch.save):
        with (saved / WEIGHTS).open("wb") as file:
            write({"encoder": Trap(trap)}, file)
        rewritten(saved, sha256=file_sha256(saved / WEIGHTS))
        with pytest.raises(ModelFileError, match="do not fit its network"):
            load_model(saved)
        assert not trap.exists()


def flipped(weights: bytes) -> bytes:
    return weights[:-1] + bytes([weights[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [flipped, lambda w: w[:-1], lambda w: w[:10], lambda w: b"", lambda w: w + b"0"]
)
@pytest.mark.parametrize("loaded_before", [False, True])
def test_damaged_weights(saved: Path, damage: Callable[[bytes], bytes], loaded_before: bool) -> None:
    if loaded_before:
        load_model(saved)
    weights = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(damage(weights))
    os.utime(saved / WEIGHTS, ns=(1, 1))  # the clock may be too coarse to tell
    for check in (verify, load_model):
        with pytest.raises(ModelFileError, match=r"not those of its card.*damaged or was exchanged"):
            check(saved)


@pytest.mark.parametrize(
    "damage", [lambda w: w[:-1], lambda w: w[:10], lambda w: b"", lambda w: b"\xff" * 99]
)
def test_foreign_weights_that_the_card_vouches_for(saved: Path, damage: Callable[[bytes], bytes]) -> None:
    (saved / WEIGHTS).write_bytes(damage((saved / WEIGHTS).read_bytes()))
    rewritten(saved, sha256=file_sha256(saved / WEIGHTS))
    with pytest.raises(ModelFileError, match="weights of cells@3 do not fit its network"):
        load_model(saved)


def test_exchanged_weights(saved: Path, tmp_path: Path) -> None:
    other = make_model(record(), network(up="nearest"))
    save_model(other, tmp_path / "other")
    os.replace(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    with pytest.raises(ModelFileError, match="not those of its card"):
        load_model(saved)


def test_missing_files(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    with pytest.raises(ModelFileError, match=r"lacks its weights.*copy the whole folder"):
        load_model(saved)
    (saved / CARD).unlink()
    for path in (saved, saved / CARD, saved.with_name("nowhere")):
        with pytest.raises(ModelFileError, match="no model card"):
            load_model(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 1, "base_channels": 4}, "do not fit its network"),
        ({"depth": 2, "base_channels": 2}, "do not fit its network"),
        ({"depth": 1, "width": 2}, "no option 'width'"),
        ([], "options of unet"),
    ],
)
def test_a_card_whose_network_is_another(saved: Path, options: Any, message: str) -> None:
    config = record().network
    rewritten(saved, network=config | {"options": options})
    with pytest.raises(ModelFileError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"network": "unetpp"}, "no network is called 'unetpp'.*Did you mean 'unet'"),
        ({"network": ["unet"]}, "no network is called"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_card_whose_network_is_unknown(saved: Path, network: dict[str, Any], message: str) -> None:
    rewritten(saved, network=record().network | network)
    with pytest.raises(ModelFileError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"format": "other"}']
)
def test_a_file_that_is_no_card(saved: Path, text: bytes) -> None:
    (saved / CARD).write_bytes(text)
    with pytest.raises(ModelFileError, match=r"card\.json is no usable model card: .+"):
        load_model(saved)


def test_a_card_whose_halo_is_too_small(saved: Path) -> None:
    rewritten(saved, halo=[4, 4])
    with pytest.raises(ValueError, match="smaller than"):
        load_model(saved)


# ---------------------------------------------------------------- half-written


class Killed(BaseException):
    """As KeyboardInterrupt, but no test runner minds it."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that lets the n-th rename from now fail."""

    def arm(count: int) -> None:
        left, rename = [count], os.replace

        def failing(source: Path, target: Path) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            rename(source, target)

        monkeypatch.setattr(os, "replace", failing)

    return arm


def test_an_existing_model_stays(saved: Path, model: Model) -> None:
    before = (saved / CARD).read_bytes()
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        save_model(model, saved, name="other")
    assert (saved / CARD).read_bytes() == before


def test_overwriting_replaces_card_and_weights_and_nothing_else(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    other = make_model(record(), network(up="nearest"))
    save_model(other, saved, overwrite=True, name="other")
    back = load_model(saved)
    assert back.record.id == "other@3"
    assert torch.equal(back.segmenter.predict(IMAGE), other.segmenter.predict(IMAGE))
    assert listing(saved) == sorted([CARD, WEIGHTS, "notes.txt"])
    assert listing(saved.parent) == ["cells"]


def test_a_file_is_never_replaced_by_a_model(model: Model, tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("mine")
    with pytest.raises(OutputExistsError):
        save_model(model, tmp_path / "cells", overwrite=True)
    assert (tmp_path / "cells").read_text() == "mine"


def test_interrupted_saving_leaves_nothing(
    model: Model, tmp_path: Path, killed_at: Callable[[int], None]
) -> None:
    killed_at(1)
    with pytest.raises(Killed):
        save_model(model, tmp_path / "cells")
    assert listing(tmp_path) == []
    assert save_model(model, tmp_path / "cells") == verify(tmp_path / "cells")


@pytest.mark.parametrize("rename", [1, 2])
def test_interrupted_overwriting_never_looks_finished(
    saved: Path, rename: int, killed_at: Callable[[int], None]
) -> None:
    other = make_model(record(), network(up="nearest"))
    killed_at(rename)
    with pytest.raises(Killed):
        save_model(other, saved, overwrite=True, name="other")
    if rename == 1:
        assert verify(saved).id == "cells@3"  # not touched yet
    else:
        with pytest.raises(ModelFileError, match="not those of its card"):
            load_model(saved)
    save_model(other, saved, overwrite=True, name="other")
    assert verify(saved).id == "other@3"


def test_what_a_killed_process_left_does_not_disturb(saved: Path, model: Model, tmp_path: Path) -> None:
    for name in (".new.12345678.partial", "new.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_bytes(b"half")
    save_model(model, tmp_path / "new")
    assert verify(tmp_path / "new").id == "cells@3"
    assert listing(tmp_path / "new") == [CARD, WEIGHTS]


def test_what_cannot_be_saved_leaves_nothing(model: Model, tmp_path: Path) -> None:
    foreign = as_model(nn.Conv2d(1, 2, 3, padding=1), classes=1)
    without = replace(model, network=None)
    with pytest.raises(NetworkError, match="not made by build_network"):
        save_model(foreign, tmp_path / "cells")
    with pytest.raises(ModelError, match="no network"):
        save_model(without, tmp_path / "cells")
    with pytest.raises(ModelFileError, match="cannot be called 'my cells'"):
        save_model(model, tmp_path / "cells", name="my cells")
    assert listing(tmp_path) == []


def test_reading_never_writes(saved: Path) -> None:
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(saved.iterdir())]
    read_model(saved)
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(saved.iterdir())] == before
