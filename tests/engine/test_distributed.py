"""Runs spread over processes: the same files whatever becomes of workers, and no late writes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import torch
import zarr
from tests.engine import small
from tests.engine.clustered import Deadly, Gathering, Slow, Threads
from tests.engine.stores import contents, small_shards

from napari_fcnseg import RunControl, open_image, segment_to_zarr
from napari_fcnseg._shared.errors import Cancelled, ResumeError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine import runners, stored
from napari_fcnseg.engine.runners import DaskRunner
from napari_fcnseg.tiling.shards import SHARD

distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")
from distributed import WorkerPlugin  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # The nanny of a killed worker, and the sockets of a closed cluster, complain on the way out.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "tile_shape": (32, 32)}
EDGE = 96


class SmallShards(WorkerPlugin):
    """Gives workers, new ones too, the shards of the test."""

    def setup(self, worker: Any) -> None:
        """Set them."""
        SHARD[2], stored.CHUNK[2] = EDGE, EDGE // 2


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch, EDGE)
        yield


@contextmanager
def cluster_of(workers: int) -> Iterator[tuple[Any, Any]]:
    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as connected,
    ):
        yield cluster, connected


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 2}),
        cluster_of(2) as (_, connected),
    ):
        connected.register_plugin(SmallShards())
        yield connected


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An image of sixteen shards in a Zarr array."""
    path = tmp_path_factory.mktemp("image") / "image.zarr"
    pixels = (small.texture(4 * EDGE, 4 * EDGE - 5, smooth=3) * 255).clip(0, 255).astype(np.uint8)
    zarr.create_array(path, data=pixels, chunks=(64, 64))
    return open_image(path)


@pytest.fixture(scope="module")
def alone(picture: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    store = tmp_path_factory.mktemp("alone") / "labels.zarr"
    segment_to_zarr(picture, store, small.seeded(), **OPTIONS)
    return contents(store)


def same(store: Path, alone: dict[str, bytes]) -> bool:
    found = contents(store)
    # The record states the threads that computed.
    return {k: v for k, v in found.items() if k != "zarr.json"} == {
        k: v for k, v in alone.items() if k != "zarr.json"
    }


def test_two_workers_write_what_one_process_does(
    client: Any, picture: Any, alone: dict[str, bytes], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    segment_to_zarr(
        picture, tmp_path / "labels.zarr", small.seeded(), client=client,
        progress=lambda done, total: seen.append((done, total)), **OPTIONS,
    )  # fmt: skip
    assert same(tmp_path / "labels.zarr", alone)
    assert seen[-1][0] == seen[-1][1]


def test_a_killed_worker_is_made_up_for(
    client: Any, picture: Any, alone: dict[str, bytes], tmp_path: Path
) -> None:
    pids = list(client.run(os.getpid).values())
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if done * 4 > total and not killed:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    segment_to_zarr(
        picture, tmp_path / "labels.zarr", small.seeded(), client=client, progress=progress, **OPTIONS
    )
    assert killed
    assert same(tmp_path / "labels.zarr", alone)
    client.wait_for_workers(2)
    assert pids[0] not in client.run(os.getpid).values()


def test_a_cancelled_run_is_resumed_without_the_cluster(
    client: Any, picture: Any, alone: dict[str, bytes], tmp_path: Path
) -> None:
    control, store = RunControl(), tmp_path / "labels.zarr"

    def progress(done: int, total: int) -> None:
        if done * 3 > total:
            control.cancel()

    with pytest.raises(Cancelled):
        segment_to_zarr(
            picture, store, small.seeded(), client=client, progress=progress, control=control, **OPTIONS
        )
    assert not store.exists()
    segment_to_zarr(picture, store, small.seeded(), **OPTIONS)
    assert same(store, alone)


def blocks(count: int) -> list[tuple[int, Box]]:
    return [(i, ((i, i + 1),)) for i in range(count)]


def in_this_process() -> Any:
    return distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0")


@pytest.mark.parametrize("how", ["closed", "error", "cancelled"])
def test_no_worker_writes_when_a_pass_has_ended(client: Any, tmp_path: Path, how: str) -> None:
    control = RunControl()
    done = DaskRunner(client, control)(Slow(tmp_path, 0.7), blocks(20))
    next(done)
    if how == "closed":
        done.close()
    elif how == "cancelled":
        control.cancel()
        with pytest.raises(Cancelled):
            next(done)
    else:
        with pytest.raises(KeyboardInterrupt):
            done.throw(KeyboardInterrupt())
    assert not list(tmp_path.glob("*.begun"))
    written = len(list(tmp_path.iterdir()))
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) == written < 20


def test_a_worker_that_does_not_stop_is_told(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "PATIENCE", 0.5)
    done = DaskRunner(client)(Slow(tmp_path, 3), blocks(6))
    next(done)
    with pytest.raises(ResumeError, match=r"may still be writing\. End them before the call is repeated"):
        done.close()
    while list(tmp_path.glob("*.begun")):
        time.sleep(0.1)


def test_all_workers_can_be_lost_at_once(client: Any, tmp_path: Path) -> None:
    found = []
    for index, _ in DaskRunner(client)(Slow(tmp_path, 0.05), blocks(12)):
        found.append(index)
        if len(found) == 3:
            for pid in client.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)
    assert sorted(found) == list(range(12))
    client.wait_for_workers(2)


def test_a_block_that_kills_its_workers_is_told(client: Any) -> None:
    with pytest.raises(
        ResumeError, match=r"died 3 times at one block, .* want of memory\. Repeat the call: it goes on"
    ):
        list(DaskRunner(client)(Deadly(2), blocks(5)))
    client.wait_for_workers(2)


def test_a_restarted_cluster_is_told(tmp_path: Path) -> None:
    with in_this_process() as connected:
        done = DaskRunner(connected)(Slow(tmp_path, 0.2), blocks(12))
        next(done)
        connected.restart(wait_for_workers=False)
        with pytest.raises(ResumeError, match=r"gave up a block, .* Repeat the call: it goes on"):
            list(done)


def test_workers_may_come_late_and_all_get_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "napari_fcnseg")
    with cluster_of(0) as (cluster, connected):
        later = threading.Timer(0.5, cluster.scale, (1,))
        later.start()
        pids: list[int] = []
        for _, facts in DaskRunner(connected)(Gathering(tmp_path, 3), blocks(20)):
            assert facts is not None
            pids.append(int(facts["pid"]))
            if len(pids) == 3:
                cluster.scale(3)
                connected.wait_for_workers(3)
        assert "the cluster has no worker; waiting for one" in caplog.text
        assert len(pids) == 20
        assert len(set(pids)) == 3


def test_a_cluster_in_this_process_leaves_its_threads_alone(torch_threads: None) -> None:
    with in_this_process() as connected:
        done = dict(DaskRunner(connected)(Threads(bytes(12_000_000)), blocks(4)))
    assert [int(facts["threads"]) for facts in done.values() if facts].count(2) >= 3


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
