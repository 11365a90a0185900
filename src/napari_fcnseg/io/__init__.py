"""One lazy image out of many file formats, and label images back into them.

``reading`` opens (``tiff``, ``raster``, ``zarr_store`` do it for their formats),
``writing`` saves, ``atomic`` makes sure that what has its final name is complete.
"""

from __future__ import annotations

from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.io.reading import open_image
from napari_fcnseg.io.writing import save_labels, save_png

__all__ = ["LazyImage", "open_image", "save_labels", "save_png"]
