"""Runs spread over processes: the same files, also when a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.engine import small
from tests.engine.stores import contents, small_shards

from napari_fcnseg import RunControl, open_image, segment_to_zarr
from napari_fcnseg._shared.errors import Cancelled
from napari_fcnseg.engine import stored
from napari_fcnseg.tiling.shards import SHARD

distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")

pytestmark = [
    pytest.mark.slow,
    # The nanny of a killed worker, and the sockets of a closed cluster, complain on the way out.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "tile_shape": (32, 32)}
EDGE = 96


class SmallShards(distributed.WorkerPlugin):  # type: ignore[misc]
    """Gives workers, new ones too, the shards of the test."""

    def setup(self, worker: Any) -> None:
        """Set them."""
        SHARD[2], stored.CHUNK[2] = EDGE, EDGE // 2


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch, EDGE)
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as connected,
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
    time.sleep(0.2)  # a task that was under way may still write its shard
    segment_to_zarr(picture, store, small.seeded(), **OPTIONS)
    assert same(store, alone)
