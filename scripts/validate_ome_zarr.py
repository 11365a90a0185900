"""Write labels as OME-Zarr, and let two programs that are not ours judge them.

    tox -e validate

Both check the metadata against the specification of OME-Zarr 0.5.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import yaozarrs
import zarr
from ome_zarr_models.v05.image_label import ImageLabel

from napari_fcnseg.io import LazyImage, save_labels

SHAPES = {"yx": (40, 50), "tyx": (3, 40, 50), "zyx": (4, 40, 50)}


def _problems(path: Path) -> list[str]:
    found = []
    for name, check in (
        ("ome-zarr-models", lambda: ImageLabel.from_zarr(zarr.open_group(path, mode="r"))),
        ("yaozarrs", lambda: yaozarrs.validate_zarr_store(str(path))),
    ):
        try:
            check()
        except Exception as exc:  # each has its own kind
            found.append(f"{name}: {exc}")
    return found


with tempfile.TemporaryDirectory() as folder:
    failed = False
    for axes, shape in SHAPES.items():
        space = axes.replace("t", "")
        like = LazyImage(
            da.zeros(shape), axes, scale=dict.fromkeys(space, 0.5), units=dict.fromkeys(space, "micrometer")
        )
        written = save_labels(Path(folder, f"{axes}.ome.zarr"), np.ones(shape, np.uint16), like)
        problems = _problems(written)
        print(f"{axes}: {'; '.join(problems) or 'valid'}")
        failed |= bool(problems)
sys.exit(failed)
