"""From label images to tables and polygons, block by block, whatever their size.

``pieces`` measures what lies in one block and joins what blocks found; ``tables`` makes columns
of it, ``table_files`` writes them; ``outlines`` follows the pixel edges of objects, ``geojson``
writes them for QuPath.
"""

from __future__ import annotations

from napari_fcnseg.measure.geojson import write_geojson
from napari_fcnseg.measure.table_files import write_csv, write_parquet
from napari_fcnseg.measure.tables import measure_classes, measure_objects

__all__ = ["measure_classes", "measure_objects", "write_csv", "write_geojson", "write_parquet"]
