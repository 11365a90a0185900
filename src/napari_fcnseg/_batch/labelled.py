"""An image with its finished labels: measured, outlined, and drawn small."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg.io import LazyImage
from napari_fcnseg.measure import measure_classes, measure_objects, write_geojson
from napari_fcnseg.measure.tables import Columns
from napari_fcnseg.models.record import ModelClass
from napari_fcnseg.models.registry import load_model
from napari_fcnseg.pictures import overlay_of

THUMBNAIL = 640  # pixels, of the longer side
_JPEG_QUALITY = 82


@dataclass(frozen=True, eq=False)
class Labelled:
    """What was segmented, and what came of it.

    Attributes
    ----------
    image : LazyImage
        The level that was segmented.
    levels : list of zarr.Array
        The labels, the finest first: as `image`, without channels.
    record : RunRecord
        Of the run.
    classes : tuple of ModelClass
        Of the model.
    """

    image: LazyImage
    levels: list[Any]
    record: RunRecord
    classes: tuple[ModelClass, ...]

    @classmethod
    def open(cls, image: LazyImage, store: Path) -> Labelled:
        """Open the label store that was made of an image."""
        import zarr

        group = zarr.open_group(store, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        record = RunRecord.from_dict(attributes["napari_fcnseg"]["record"])
        paths = [level["path"] for level in attributes["ome"]["multiscales"][0]["datasets"]]
        classes = load_model(record.settings.model).record.classes
        return cls(image, [group[path] for path in paths], record, classes)

    @property
    def axes(self) -> str:
        """One letter for each axis of the labels."""
        return str(self.record.image["axes"]).replace("c", "")

    @property
    def of_objects(self) -> bool:
        """Whether the labels number objects."""
        return self.record.objects is not None

    @property
    def object_class(self) -> ModelClass | None:
        """What the objects are, where the model knows one class only."""
        return self.classes[0] if len(self.classes) == 1 else None

    def columns(self) -> Columns:
        """Measure all objects, or the share of each class."""
        spacing = self._spacing()
        if not self.of_objects:
            names = {0: "background", **{c.value: c.name for c in self.classes}}
            table = measure_classes(self.levels[0], spacing=spacing)
            return _with_class(table, [names.get(value, "") for value in table["label"].tolist()])
        place = str(self.record.image["axes"]).find("c")
        pixels = self.image if self.image.pixels is None else self.image.pixels
        names_known = place >= 0 and len(set(self.image.channel_names)) == self.image.shape[place]
        table = measure_objects(
            self.levels[0], pixels, channel_axis=place if place >= 0 else None, spacing=spacing,
            channel_names=self.image.channel_names if names_known else None,
        )  # fmt: skip
        known = self.object_class
        return table if known is None else _with_class(table, [known.name] * len(table["label"]))

    def _spacing(self) -> tuple[float, ...] | None:
        """Return micrometres along the axes that an object extends in, if all are known."""
        settings = self.record.settings
        ndim = 3 if settings.link_z is not None else load_model(settings.model).record.ndim
        letters = "zyx"[-ndim:]
        stated = settings.spacing or {}
        given = stated if isinstance(stated, dict) else dict(zip(letters, stated, strict=True))
        sizes = [given.get(a, self.image.spacing_um(a)) for a in letters]
        return None if None in sizes else tuple(float(size) for size in sizes if size is not None)

    def write_outlines(self, path: Path, columns: Columns) -> None:
        """Write the objects as GeoJSON in pixels of the finest level."""
        known = self.object_class
        style = {} if known is None else {"class_name": known.name, "colour": known.colour}
        write_geojson(
            path, self.levels[0], columns, axes=self.axes, scale=self._scale(),
            offset=self.image.bounds_offset, name=self.image.name, compress=True, **style,
        )  # fmt: skip

    def _scale(self) -> tuple[float, float]:
        finest = self.image.levels[0]
        y, x = (_factor(finest[i], self.image.shape[i]) for i in map(self.image.axes.index, "yx"))
        return y, x

    def summary(self, columns: Columns) -> dict[str, Any]:
        """Return a few numbers for the report."""
        if not self.of_objects:
            shares = zip(columns["class"].tolist(), columns["fraction"].tolist(), strict=True)
            return {"fractions": [[name, share] for name, share in shares if name != "background"]}
        for name, unit in (("volume_um3", "µm³"), ("area_um2", "µm²"), ("area", "pixels")):
            if name in columns and len(columns[name]):
                return {"median size": float(statistics.median(columns[name].tolist())), "unit": unit}
        return {}

    def write_thumbnail(self, path: Path) -> None:
        """Write a small picture of one plane with what was found, as JPEG."""
        from PIL import Image

        image, labels = self._coarse()
        colours = {c.value: c.colour for c in self.classes}
        picture = overlay_of(
            image, labels, kind="instances" if self.of_objects else "classes", colours=colours,
            channel=self.record.settings.channel, smallest=THUMBNAIL, largest=2 * THUMBNAIL,
        )  # fmt: skip
        small = Image.fromarray(picture)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        small.save(path, format="JPEG", quality=_JPEG_QUALITY)

    def _coarse(self) -> tuple[LazyImage, NDArray[Any] | Any]:
        """Return the coarsest level that is large enough for a thumbnail, with its labels."""
        axes = self.image.axes
        for number in reversed(range(len(self.levels))):
            place = self.image.level + number
            shape = self.image.levels[place] if place < len(self.image.levels) else ()
            plain = tuple(n for a, n in zip(axes, shape, strict=bool(shape)) if a != "c")
            if plain == self.levels[number].shape and max(plain[-2:]) >= THUMBNAIL:
                return self.image.at_level(place), self.levels[number]
        return self.image, self.levels[0]


def _with_class(columns: Columns, names: list[str]) -> Columns:
    label, *_ = columns
    return {label: columns[label], "class": np.array(names, dtype=np.str_), **columns}


def _factor(fine: int, coarse: int) -> float:
    """Return how many pixels of the finest level one of a coarser has; levels are cut to whole pixels."""
    whole = round(fine / coarse)
    return whole if coarse in (fine // whole, -(-fine // whole)) else fine / coarse
