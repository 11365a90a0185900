"""Sphinx configuration. Builds offline; `tox -e docs` treats each warning as an error."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version

project = "napari-fcnseg"
author = "napari-fcnseg developers"
copyright = "2026, napari-fcnseg developers"
release = installed_version("napari-fcnseg")
version = release.split("+")[0]

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # numpydoc states the types, with shapes and ranges
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

# Other projects' inventories are fetched over the network, so only when asked for:
# FCNSEG_INTERSPHINX="numpy=ADDRESS skimage=ADDRESS"
intersphinx_mapping = {
    name: (address, None)
    for name, _, address in (
        entry.partition("=") for entry in os.environ.get("FCNSEG_INTERSPHINX", "").split()
    )
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1,
    "abort_on_example_error": True,
}
suppress_warnings = ["config.cache"]  # sphinx-gallery's configuration cannot be pickled

html_theme = "pydata_sphinx_theme"
html_title = "napari-fcnseg"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False
