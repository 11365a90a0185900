"""The version that was installed."""

from importlib.metadata import version

__version__ = version("napari-fcnseg")
