"""Runs on the tissue of a slide: what is left out, and that the rest is as without."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from tests.engine.pyramids import levels_of, write_pyramid
from tests.engine.small import cells, seeded, seeded_volume, texture
from tests.engine.stores import contents, killed_at, small_shards

from napari_fcnseg import SegmentSettings, open_image, plan_segmentation, predict, segment, segment_to_zarr
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.engine.multiscale import predict_scales
from napari_fcnseg.engine.tissue import Tissue
from napari_fcnseg.preprocess.tissue import tissue_mask
from napari_fcnseg.segmentation import segment_recorded

OPTIONS: dict[str, Any] = {"device": "cpu", "precision": "float32", "tile_shape": (32, 32)}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 64)


def stained(rows: int = 256, columns: int = 256) -> NDArray[np.uint8]:
    """Return glass with a piece of tissue in one corner."""
    pixels = np.full((rows, columns, 3), 243, np.uint8)
    marks = texture(96, 80, seed=2, smooth=2)[..., None]
    pixels[24:120, 16:96] = (np.array([120, 60, 110]) + 90 * marks).astype(np.uint8)
    return pixels


class Counted:
    """An array that notes which boxes are read of it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.chunks = (32, 32, 3)
        self.read = np.zeros(array.shape[:2], bool)
        self.lock = threading.Lock()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with self.lock:
            self.read[index[:2]] = True
        part: NDArray[Any] = self.array[index]
        return part


def dasked(array: NDArray[Any]) -> da.Array:
    made: da.Array = da.from_array(array, chunks=100)  # type: ignore[no-untyped-call]
    return made


def labels_of(store: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(store / "0", mode="r")[...])


def without_skipping(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(Tissue, "anywhere", lambda *_: True)
        return call()


@pytest.mark.parametrize("tile", [(48, 64), (160, 160)])
@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_what_is_left_out_changes_nothing(
    kind: str, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "channel_axis": -1, "mask": "tissue", "kind": kind}
    pixels = stained(160, 160)
    whole = without_skipping(monkeypatch, lambda: segment(pixels, seeded(), **options))
    found = segment(pixels, seeded(), **{**options, "tile_shape": tile})
    np.testing.assert_array_equal(found, whole)
    tissue = tissue_mask(pixels)
    assert found[tissue].any()
    assert not found[~tissue].any()


def test_classes_are_those_of_the_whole_slide_where_tissue_is() -> None:
    pixels = stained()
    options = {**OPTIONS, "channel_axis": -1, "kind": "classes"}
    plain, found = segment(pixels, seeded(), **options), segment(pixels, seeded(), mask="tissue", **options)
    np.testing.assert_array_equal(found, plain * tissue_mask(pixels))
    assert (plain != found).any()


def test_background_is_neither_read_nor_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = stained()
    path = write_pyramid(tmp_path / "slide.ome.tif", levels_of(pixels, 3), size=0.5)
    image = open_image(path)
    # Tissue is looked for on a low level, so that nothing else of the finest is read.
    monkeypatch.setattr("napari_fcnseg.engine.tissue.LARGEST", 64)
    counted = Counted(pixels)
    fixed = {"method": "fixed", "offset": (0.0,), "scale": (1.0,), "colour": "nuclear stain"}
    monkeypatch.setattr("napari_fcnseg.engine.job.sample_boxes", lambda shape: [((30, 60), (30, 60))])
    object.__setattr__(image, "pixels", counted)
    computed: list[int] = []
    segmenter = type(seeded().segmenter)
    real = segmenter.predict

    def predicting(self: Any, batch: Any, keep: Any = None) -> Any:
        computed.append(len(batch))
        return real(self, batch, keep)

    monkeypatch.setattr(segmenter, "predict", predicting)
    record = segment_to_zarr(
        image, tmp_path / "labels.zarr", seeded(), mask="tissue", normalization=fixed, **OPTIONS
    )
    assert record.objects
    # The halo, a tile, and a chunk that is read as a whole.
    margin = 24 + 32 + 32
    assert not counted.read[120 + margin :].any()
    assert not counted.read[:, 96 + margin :].any()
    assert counted.read[24:120, 16:96].all()
    assert sum(computed) < record.plan["tiles"] / 2
    assert "only tissue was segmented (mask='tissue')" in record.notes


def test_numpy_lazy_and_stored_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "slide.ome.tif", levels_of(stained(), 3), size=0.5)
    monkeypatch.setattr("napari_fcnseg.engine.tissue.LARGEST", 64)
    for kind in ("instances", "classes"):
        options = {**OPTIONS, "mask": "tissue", "kind": kind}
        expected, record = segment_recorded(open_image(path), seeded(), **options)
        assert record.settings.mask == "tissue"
        segment_to_zarr(open_image(path), tmp_path / f"{kind}.zarr", seeded(), **options)
        np.testing.assert_array_equal(labels_of(tmp_path / f"{kind}.zarr"), expected)
        np.testing.assert_array_equal(np.asarray(segment(open_image(path), seeded(), **options)), expected)
        again = {k: v for k, v in record.settings.options().items() if k != "model"}
        np.testing.assert_array_equal(segment_recorded(open_image(path), seeded(), **again)[0], expected)


def test_tissue_of_a_level_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Found on level 2, labels on level 1, pixels of the model read there too.
    levels = levels_of(stained(), 3)
    path = write_pyramid(tmp_path / "slide.ome.tif", levels, size=0.25)
    monkeypatch.setattr("napari_fcnseg.engine.tissue.LARGEST", 64)
    image = open_image(path, level=1)
    found = np.asarray(segment(image, seeded(), mask="tissue", kind="classes", **OPTIONS))
    plain = np.asarray(segment(image, seeded(), kind="classes", **OPTIONS))
    low = tissue_mask(levels[2])
    np.testing.assert_array_equal(found, plain * np.kron(low, np.ones((2, 2), bool)))


@pytest.mark.parametrize("wrap", [np.asarray, dasked, zarr.array])
def test_arrays_without_levels(wrap: Any) -> None:
    options = {**OPTIONS, "mask": "tissue", "kind": "classes", "channel_axis": -1}
    found = np.asarray(segment(wrap(stained()), seeded(), **options))
    np.testing.assert_array_equal(found, segment(stained(), seeded(), **options))
    assert found.any()


def test_a_low_level_is_read_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_fcnseg.engine.tissue.LARGEST", 100)
    from napari_fcnseg.engine.job import make_job
    from napari_fcnseg.engine.tissue import find_tissue, thinned

    job = make_job(stained(250, 330), seeded(), SegmentSettings(model="a", channel_axis=-1, device="cpu"))
    for block in (7, 64, 4096):
        thin = thinned(job.source, 4, block)
        np.testing.assert_array_equal(thin, stained(250, 330)[::4, ::4].transpose(2, 0, 1))
    found = find_tissue(stained(250, 330), job.source, lambda image: image)
    assert found.low.shape == (63, 83)


@pytest.mark.parametrize(
    ("image", "model", "options"),
    [
        (texture(3, 40, 40), seeded, {"axes": "tyx"}),
        (texture(12, 40, 40), seeded_volume, {"tile_shape": None}),
    ],
)
def test_stacks_and_volumes_are_refused(image: Any, model: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"mask='tissue' is for slides of two dimensions.*Give a mask"):
        segment(image, model(), mask="tissue", **{**OPTIONS, **options})


def test_probabilities_take_no_tissue() -> None:
    for verb in (predict, predict_scales):
        with pytest.raises(InputError, match="mask='tissue' is for labels"):
            verb(stained(), seeded(), channel_axis=-1, mask="tissue", device="cpu")


@pytest.mark.parametrize("mask", ["tisue", "0" * 64])
def test_other_words_are_refused(mask: str) -> None:
    with pytest.raises(InputError, match="mask"):
        segment(stained(), seeded(), channel_axis=-1, mask=mask, device="cpu")


def test_resumed_runs_leave_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {**OPTIONS, "mask": "tissue", "channel_axis": -1}
    whole, broken = (tmp_path / name for name in ("a", "b"))
    for folder in (whole, broken):
        folder.mkdir()
    segment_to_zarr(stained(), whole / "labels.zarr", seeded(), **options)
    with killed_at(monkeypatch, 5, before=False):
        segment_to_zarr(stained(), broken / "labels.zarr", seeded(), **options)
    segment_to_zarr(stained(), broken / "labels.zarr", seeded(), **options)
    assert contents(broken / "labels.zarr") == contents(whole / "labels.zarr")


def test_other_processes_get_the_mask_and_no_pixels() -> None:
    from napari_fcnseg.engine.job import make_job

    settings = SegmentSettings(model="a", channel_axis=-1, device="cpu", mask="tissue")
    tissue = make_job(stained(), seeded(), settings).tissue
    assert tissue is not None
    sent = pickle.dumps(tissue)
    assert len(sent) < 2 * tissue.low.size
    np.testing.assert_array_equal(pickle.loads(sent).low, tissue.low)
    assert copy.copy(tissue).low is tissue.low


def test_settings_go_through_json_and_copied_code() -> None:
    settings = SegmentSettings(mask="tissue")
    assert SegmentSettings.from_dict(settings.to_dict()) == settings
    assert settings.options() == {"mask": "tissue"}
    assert "mask='tissue'" in settings.to_python()
    assert "--mask tissue" in settings.to_command()
    names: dict[str, Any] = {"image": stained()}
    script = SegmentSettings(model="nuclei", mask="tissue", channel_axis=-1, device="cpu", spacing=(0.5, 0.5))
    exec(script.to_python("image"), names)
    assert not names["labels"][~tissue_mask(stained())].any()


def test_a_plan_does_not_look_for_tissue() -> None:
    counted = Counted(stained())
    image = da.from_array(counted, chunks=64)  # type: ignore[no-untyped-call]
    plan_segmentation(image, cells(), mask="tissue", axes="yxc", channel=0, device="cpu")
    assert not counted.read.any()
