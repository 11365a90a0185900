"""Files of weights: found here first, downloaded whole or not at all, and read without running code."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from napari_fcnseg._shared.errors import ModelError, ModelFileError
from napari_fcnseg.models.weight_files import (
    cache_folder,
    file_url,
    find_file,
    get_file,
    hash_prefix,
    read_state,
    read_weights,
)

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([0.5, -1.0])}


def stored(state: Any = STATE) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


BYTES = stored()
GOOD = f"tiny-{hashlib.sha256(BYTES).hexdigest()[:8]}.pth"


class Server(ThreadingHTTPServer):
    """Serves bytes by path, and counts how often it was asked."""

    asked = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {f"/models/{GOOD}": BYTES}
        self.promised = 0  # bytes beyond those that come

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + self.server.promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a machine of its own: empty caches, no proxies."""
    for name in ("FCNSEG_OFFLINE", "FCNSEG_WEIGHTS", "FCNSEG_WEIGHTS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FCNSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "*")


# ---------------------------------------------------------------- downloading


def test_downloaded_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNSEG_WEIGHTS_URL", server.url)
    path = get_file(GOOD)
    assert path == cache_folder() / GOOD
    assert path.read_bytes() == BYTES
    assert get_file(GOOD) == path
    assert server.asked == 1
    assert get_file(GOOD, offline=True) == path


def test_the_cache_needs_no_network(server: Server) -> None:
    path = get_file(GOOD, base_url=server.url)
    assert get_file(GOOD, base_url="http://127.0.0.1:9") == path


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_another_file_than_stated_is_not_kept(server: Server) -> None:
    server.files["/models/tiny-00000000.pth"] = BYTES
    with pytest.raises(ModelFileError, match=r"not kept.*begins with [0-9a-f]{8}, not with 00000000"):
        get_file("tiny-00000000.pth", base_url=server.url)
    assert left(cache_folder()) == []


@pytest.mark.parametrize("promised", [0, 100])
def test_a_file_cut_short_is_not_kept(server: Server, promised: int) -> None:
    server.files[f"/models/{GOOD}"] = BYTES[:-100]
    server.promised = promised
    with pytest.raises(ModelError):
        get_file(GOOD, base_url=server.url)
    assert left(cache_folder()) == []
    # Nothing stands in the way of the next attempt.
    server.files[f"/models/{GOOD}"], server.promised = BYTES, 0
    assert get_file(GOOD, base_url=server.url).read_bytes() == BYTES


def test_what_is_not_there(server: Server) -> None:
    with pytest.raises(ModelError, match=r"404.*FCNSEG_WEIGHTS_URL to a mirror"):
        get_file("other-12345678.pth", base_url=server.url)
    assert left(cache_folder()) == []


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(ModelError, match="could not be downloaded"):
        get_file(GOOD, base_url="http://127.0.0.1:9")


@pytest.mark.parametrize("how", ["argument", "1", "true"])
def test_offline_refuses_and_says_what_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how != "argument":
        monkeypatch.setenv("FCNSEG_OFFLINE", how)
    with pytest.raises(
        ModelError, match=f"{GOOD} is not on this machine.*{server.url}/{GOOD}.*FCNSEG_WEIGHTS"
    ):
        get_file(GOOD, base_url=server.url, offline=True if how == "argument" else None)
    assert server.asked == 0


@pytest.mark.parametrize("value", ["", "0", "off"])
def test_not_offline(server: Server, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FCNSEG_OFFLINE", value)
    assert get_file(GOOD, base_url=server.url).is_file()
    monkeypatch.setenv("FCNSEG_OFFLINE", "1")
    (cache_folder() / GOOD).unlink()
    assert get_file(GOOD, base_url=server.url, offline=False).is_file()


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_url(GOOD) == f"https://download.pytorch.org/models/{GOOD}"
    monkeypatch.setenv("FCNSEG_WEIGHTS_URL", "http://mirror/x/")
    assert file_url(GOOD) == f"http://mirror/x/{GOOD}"
    assert file_url(GOOD, "http://other") == f"http://other/{GOOD}"


# ---------------------------------------------------------------- files that are here


def test_the_folder_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "mine", cache_folder(), tmp_path / "torch" / "hub" / "checkpoints"]
    monkeypatch.setenv("FCNSEG_WEIGHTS", str(folders[0]))
    assert find_file(GOOD) is None
    for folder in reversed(folders):
        folder.mkdir(parents=True)
        (folder / GOOD).write_bytes(BYTES)
        assert find_file(GOOD) == folder / GOOD


def test_safetensors_of_that_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNSEG_WEIGHTS", str(tmp_path))
    path = (tmp_path / GOOD).with_suffix(".safetensors")
    save_file(STATE, path)
    assert get_file(GOOD, offline=True) == path
    assert same(read_state(path))


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_prefixes() -> None:
    assert hash_prefix("alexnet-owt-7be5be79.pth") == "7be5be79"
    assert hash_prefix("vgg16_features-amdegroot-88682ab5.pth") == "88682ab5"
    assert hash_prefix("mine.pth") == hash_prefix("my-best.pth") == ""


def test_a_local_file_is_what_its_name_states(tmp_path: Path) -> None:
    (tmp_path / GOOD).write_bytes(BYTES)
    assert same(read_state(tmp_path / GOOD))
    (tmp_path / GOOD).write_bytes(stored({"fc.weight": torch.zeros(1)}))
    with pytest.raises(ModelFileError, match=r"not what its name states.*delete it"):
        read_state(tmp_path / GOOD)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    optimiser = {"state": {}, "param_groups": [{"lr": 0.1}]}
    (tmp_path / "x.pth").write_bytes(stored({"epoch": 3, wrapper: STATE, "optimizer": optimiser}))
    assert same(read_state(tmp_path / "x.pth"))


@pytest.mark.parametrize("held", [{}, [1, 2], {"epoch": 3}, {"state_dict": {}}, {1: torch.zeros(1)}])
def test_no_state_dict(tmp_path: Path, held: Any) -> None:
    (tmp_path / "x.pth").write_bytes(stored(held))
    with pytest.raises(ModelFileError, match="holds no state dict"):
        read_state(tmp_path / "x.pth")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def write_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def write_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_pickle])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_code_in_a_file_is_never_run(tmp_path: Path, write: Callable[[Any, Path], None], suffix: str) -> None:
    trap, path = tmp_path / "sprung", tmp_path / f"evil{suffix}"
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.is_dir()  # it works
    trap.rmdir()
    write({"fc.weight": torch.zeros(1), "fc.bias": Trap(trap)}, path)
    with pytest.raises(
        ModelFileError, match=r"nothing that a file brings along is ever run|no usable safetensors"
    ):
        read_weights(path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"II*\x00\x08", b"", pickle.dumps(Trap(Path("sprung")))])
def test_nobody_is_advised_to_run_what_is_in_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="was not read") as caught:
        read_weights(path)
    assert not any(word in str(caught.value) for word in ("weights_only", "trust", "Re-running"))


@pytest.mark.parametrize("content", [b"", b"no", BYTES[:-50], BYTES[:50], b"\xff" * 99, b"PK\x03\x04" * 9])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"was not read|no usable safetensors"):
        read_weights(path)


def test_the_older_format_is_read(tmp_path: Path) -> None:
    write_legacy(STATE, tmp_path / "old.pth")
    assert same(read_state(tmp_path / "old.pth"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no file of weights at"):
        read_weights(tmp_path / "x.pth")
