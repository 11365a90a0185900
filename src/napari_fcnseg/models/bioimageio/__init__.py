"""The BioImage Model Zoo, both ways: its packages run like any model, and models become packages."""

from napari_fcnseg.models.bioimageio.reading import read_package
from napari_fcnseg.models.bioimageio.writing import export_bioimageio

__all__ = ["export_bioimageio", "read_package"]
