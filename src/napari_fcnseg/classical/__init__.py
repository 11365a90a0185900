"""Segmenters without a network: forests over pixel features, and patch classifiers."""

from napari_fcnseg.classical.random_forest import RandomForestSegmenter
from napari_fcnseg.classical.rebuilding import FORESTS, forest_from_config
from napari_fcnseg.classical.sliding_window import SlidingWindow
from napari_fcnseg.classical.texton_forest import TextonForestSegmenter

__all__ = ["FORESTS", "RandomForestSegmenter", "SlidingWindow", "TextonForestSegmenter", "forest_from_config"]
