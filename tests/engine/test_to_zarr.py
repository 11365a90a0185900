"""Runs into a store: what comes out, and that nothing stops them for good."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from filelock import FileLock
from tests.engine import small
from tests.engine.stores import Killed, contents, image, killed_at, small_shards

from napari_fcnseg import RunControl, as_model, open_image, segment, segment_to_zarr
from napari_fcnseg._shared.errors import Cancelled, InputError, OutputExistsError, ResumeError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.engine.journal import Journal
from napari_fcnseg.engine.target import Target
from napari_fcnseg.models.model import make_model
from napari_fcnseg.refine.instances import ObjectRule

# Every pass: predict, the seams, growth, holes, steps, numbers, levels.
OPTIONS: dict[str, Any] = {"device": "cpu", "tile_shape": (24, 24), "precision": "float32"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


def run(store: Path, model: Any = None, given: Any = None, **options: Any) -> RunRecord:
    return segment_to_zarr(
        image() if given is None else given, store, model or small.seeded(), **{**OPTIONS, **options}
    )


def labels_of(store: Path, level: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(zarr.open_array(store / str(level), mode="r")[...])


@functools.cache
def count_notes(store: Path) -> int:
    """Return how many notes an unbroken run makes."""
    made, real = 0, Journal.note

    def noting(self: Journal, *args: Any) -> None:
        nonlocal made
        made += 1
        real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "note", noting)
        run(store)
    return made


@pytest.mark.parametrize("name", ["seeded", "cells", "unpadded", "grouped"])
@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_store_holds_what_segment_returns(tmp_path: Path, name: str, kind: str) -> None:
    model, store = small.MODELS[name](), tmp_path / "labels.zarr"
    record = run(store, model, kind=kind, tile_shape=None)
    expected = segment(image(), model, kind=kind, device="cpu", precision="float32")
    np.testing.assert_array_equal(labels_of(store), expected)
    assert labels_of(store).dtype == expected.dtype
    if kind == "instances":
        assert record.objects == expected.max() > 3


def test_volume_and_stack(tmp_path: Path) -> None:
    volume, stack = small.texture(20, 60, 70), small.texture(3, 60, 70)
    run(tmp_path / "volume.zarr", small.seeded_volume(), volume, tile_shape=None)
    run(tmp_path / "stack.zarr", given=stack, axes="tyx")
    options: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    np.testing.assert_array_equal(
        labels_of(tmp_path / "volume.zarr"), segment(volume, small.seeded_volume(), **options)
    )
    np.testing.assert_array_equal(
        labels_of(tmp_path / "stack.zarr"), segment(stack, small.seeded(), axes="tyx", **options)
    )


def test_rescaled_and_masked(tmp_path: Path) -> None:
    mask = np.zeros((90, 130), bool)
    mask[10:70, 20:110] = True
    options: dict[str, Any] = {"spacing": (0.4, 0.7), "mask": mask}
    run(tmp_path / "labels.zarr", **options)
    expected = segment(image(), small.seeded(), device="cpu", precision="float32", **options)
    np.testing.assert_array_equal(labels_of(tmp_path / "labels.zarr"), expected)
    assert expected.any()
    assert not expected[~mask].any()


def test_lazy_image_gives_the_same_store(tmp_path: Path) -> None:
    run(tmp_path / "numpy.zarr")
    run(tmp_path / "dask.zarr", given=da.from_array(image(), chunks=(37, 50)))  # type: ignore[no-untyped-call]
    np.testing.assert_array_equal(labels_of(tmp_path / "numpy.zarr"), labels_of(tmp_path / "dask.zarr"))


def test_killed_at_any_note_and_called_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = count_notes(tmp_path / "whole.zarr")
    whole = contents(tmp_path / "whole.zarr")
    assert any(name.startswith("1/") for name in whole) == (len(labels_of(tmp_path / "whole.zarr")) > 512)
    for note in range(1, notes + 1):
        store = tmp_path / f"killed{note}.zarr"
        with killed_at(monkeypatch, note, before=bool(note % 2)):
            run(store)
        assert not store.exists()
        run(store)
        # The name of a label image is in its metadata.
        found = {k: v.replace(f"killed{note}".encode(), b"whole") for k, v in contents(store).items()}
        assert found == whole, note


def test_finished_blocks_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    with killed_at(monkeypatch, 4, before=False):
        run(tmp_path / "labels.zarr")
    run(tmp_path / "labels.zarr", progress=lambda done, total: seen.append((done, total)))
    total = seen[-1][1]
    assert seen[-1] == (total, total)
    assert seen[0][0] > 1
    assert len(seen) < total


def test_killed_between_the_last_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_target: Target) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Target, "do_last_steps", gone)
        with pytest.raises(Killed):
            run(tmp_path / "labels.zarr")
    assert (tmp_path / "labels.zarr" / ".fcnseg").exists()
    with pytest.raises(OutputExistsError):  # another call did not write that
        run(tmp_path / "labels.zarr", threshold=0.45)
    assert not (tmp_path / "labels.zarr" / ".fcnseg").exists()


def test_the_same_call_ends_what_was_killed_between_the_last_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_target: Target) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Target, "do_last_steps", gone)
        with pytest.raises(Killed):
            run(tmp_path / "labels.zarr")
    record = run(tmp_path / "labels.zarr")
    assert not (tmp_path / "labels.zarr" / ".fcnseg").exists()
    assert record.objects == labels_of(tmp_path / "labels.zarr").max()


def test_killed_before_the_header_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is there, but nobody knows whose it is."""

    def gone(self: Journal, _header: Any) -> None:
        self.path.write_bytes(b'{"header": {"started"')  # torn
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin", gone)
        patch.setattr(Target, "clear", lambda _target: None)  # the process is gone
        with pytest.raises(Killed):
            run(tmp_path / "labels.zarr")
    assert (tmp_path / "labels.zarr.partial" / "zarr.json").exists()
    run(tmp_path / "labels.zarr")
    expected = segment(image(), small.seeded(), device="cpu", precision="float32")
    np.testing.assert_array_equal(labels_of(tmp_path / "labels.zarr"), expected)


def test_a_folder_of_that_name_is_not_taken_for_a_stopped_run(tmp_path: Path) -> None:
    (tmp_path / "labels.zarr.partial").mkdir()
    (tmp_path / "labels.zarr.partial" / "precious").touch()
    for resume in (True, False):
        with pytest.raises(OutputExistsError, match="move it away"):
            run(tmp_path / "labels.zarr", resume=resume)
    assert (tmp_path / "labels.zarr.partial" / "precious").exists()


def test_a_network_that_was_trained_on_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = small.network()
    call: dict[str, Any] = {"model": as_model(network, classes=["cell"]), "kind": "instances"}
    with killed_at(monkeypatch, 3, before=False):
        run(tmp_path / "labels.zarr", **call)
    network.head.bias.data += 0.1
    with pytest.raises(ResumeError, match=r"model\.sha256 was"):
        run(tmp_path / "labels.zarr", model=as_model(network, classes=["cell"]), kind="instances")


def test_a_card_that_was_edited_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at(monkeypatch, 3, before=False):
        run(tmp_path / "labels.zarr")
    made = small.network(maps=3, seed=1)
    rule = ObjectRule(seed_threshold=0.7, foreground_threshold=0.5, reach=2)
    edited = make_model(small.record(made, objects=rule), made)
    with pytest.raises(ResumeError, match=r"model\.rule\.reach was 3, now 2"):
        run(tmp_path / "labels.zarr", model=edited)


def test_labels_never_replace_their_image(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "image.zarr", data=image(), chunks=(32, 32))
    opened = open_image(tmp_path / "image.zarr")
    with pytest.raises(InputError, match="the image itself"):
        run(tmp_path / "image.zarr", given=opened, overwrite=True)
    (tmp_path / "labels.zarr").write_text("a file")
    with pytest.raises(OutputExistsError, match="is a file"):
        run(tmp_path / "labels.zarr", overwrite=True)


def test_the_spacing_that_was_given_is_the_scale(tmp_path: Path) -> None:
    run(tmp_path / "labels.zarr", spacing=(0.4, 0.7))
    opened = open_image(tmp_path / "labels.zarr")
    assert (opened.spacing_um("y"), opened.spacing_um("x")) == (0.4, 0.7)


def test_an_option_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'thresholds' is no option .* Did you mean 'threshold'\?"):
        run(tmp_path / "labels.zarr", thresholds=0.4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": 0.45}, "settings.threshold was None, now 0.45"),
        ({"given": image() + 1}, "image.sample"),
        ({"model": small.cells()}, "model.id was 'seeded@3', now 'cells"),
        ({"kind": "classes"}, "settings.kind was None, now 'classes'"),
        ({"mask": np.ones((90, 130), bool)}, "image.mask was None"),
    ],
)
def test_changed_run_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: str
) -> None:
    with killed_at(monkeypatch, 3, before=False):
        run(tmp_path / "labels.zarr")
    before = contents(tmp_path / "labels.zarr.partial")
    with pytest.raises(ResumeError, match=named):
        run(tmp_path / "labels.zarr", **change)
    assert contents(tmp_path / "labels.zarr.partial") == before
    run(tmp_path / "labels.zarr", resume=False, **change)


def test_resumed_run_keeps_the_first_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at(monkeypatch, 3, before=False):
        run(tmp_path / "labels.zarr", tile_shape=(16, 16))
    record = run(tmp_path / "labels.zarr", tile_shape=None, memory="2GB")
    assert record.settings.tile_shape == (16, 16)


def test_other_versions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at(monkeypatch, 3, before=False):
        run(tmp_path / "labels.zarr")
    journal = tmp_path / "labels.zarr.partial" / ".fcnseg" / "journal.jsonl"
    first, *rest = journal.read_text().splitlines()
    header = json.loads(first)
    header["header"]["versions"]["torch"] = "1.0"
    journal.write_text("\n".join([json.dumps(header), *rest]) + "\n")
    with pytest.raises(ResumeError, match=r"versions\.torch was '1\.0'"):
        run(tmp_path / "labels.zarr")


def test_existing_store(tmp_path: Path) -> None:
    store = tmp_path / "labels.zarr"
    run(store)
    before = contents(store)
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        run(store, threshold=0.4)
    assert contents(store) == before
    run(store, threshold=0.4, overwrite=True)
    assert contents(store) != before
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["labels.zarr"]


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".labels.zarr.lock"), pytest.raises(ResumeError, match="another process"):
        run(tmp_path / "labels.zarr")
    run(tmp_path / "labels.zarr")


def test_cancelled_run_can_be_resumed(tmp_path: Path) -> None:
    control, store = RunControl(), tmp_path / "labels.zarr"
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done == total // 2:
            control.cancel()

    with pytest.raises(Cancelled):
        run(store, progress=progress, control=control)
    assert not store.exists()
    stopped_at = seen[-1]
    assert stopped_at <= seen[0] + stopped_at
    run(store)
    expected = segment(image(), small.seeded(), device="cpu", precision="float32")
    np.testing.assert_array_equal(labels_of(store), expected)


def test_paused_run_waits(tmp_path: Path) -> None:
    control, seen = RunControl(), []
    reached = threading.Event()

    def progress(done: int, _total: int) -> None:
        seen.append(done)
        if done == 3:
            control.pause()
            reached.set()

    running = threading.Thread(
        target=run, args=(tmp_path / "labels.zarr",), kwargs={"progress": progress, "control": control}
    )
    running.start()
    assert reached.wait(60)
    running.join(0.3)
    assert running.is_alive()
    assert seen[-1] == 3
    control.resume()
    running.join(60)
    assert not running.is_alive()
    assert (tmp_path / "labels.zarr").exists()


def test_image_without_contrast(tmp_path: Path) -> None:
    record = run(tmp_path / "labels.zarr", given=np.full((60, 60), 7, np.uint8))
    assert record.objects == 0
    assert not labels_of(tmp_path / "labels.zarr").any()


def test_axes_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="order t, z, y, x"):
        run(tmp_path / "labels.zarr", given=small.texture(2, 2, 40, 40), axes="ztyx")
    assert not list(tmp_path.glob("labels*"))  # a run that did not begin leaves nothing


def test_record_is_kept_in_the_store(tmp_path: Path) -> None:
    record = run(tmp_path / "labels.zarr")
    attributes = zarr.open_group(tmp_path / "labels.zarr", mode="r").attrs.asdict()
    assert RunRecord.from_dict(attributes["napari_fcnseg"]["record"]) == record  # type: ignore[index, call-overload]
    assert attributes["ome"]["version"] == "0.5"  # type: ignore[index, call-overload]
