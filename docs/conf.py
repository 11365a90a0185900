"""Sphinx configuration. Builds offline; `tox -e docs` treats each warning as an error."""

from __future__ import annotations

import inspect
import os
import re
import sys
from importlib.metadata import version as installed_version
from typing import Any

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
# sphinx-gallery's configuration cannot be pickled; a source may be listed without being cited in the text.
suppress_warnings = ["config.cache", "ref.citation"]

html_theme = "pydata_sphinx_theme"
html_title = "napari-fcnseg"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False

_STAR = re.compile(r"(?<![`\w*\\])\*(?=[\w(])(?![^`]*``[^`]*$)")
_LISTED = re.compile(r"^\.\. \[(\d+)\]((?:.*\n(?:   +.*\n?)*))", re.M)


def _with_references(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Show the sources that a docstring cites from the list of its module, which names them once."""
    text = "\n".join(lines)
    if what == "module":
        lines[:] = re.sub(r"\[(\d+)\]_", r"[\1]", re.sub(r"^\.\. \[(\d+)\]", r"\1.", text, flags=re.M)).split(
            "\n"
        )
        return
    own = {number for number, _ in _LISTED.findall(text + "\n")}
    cited = sorted(set(re.findall(r"\[(\d+)\]_", text)) - own)
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    listed = dict(_LISTED.findall(inspect.cleandoc((module and module.__doc__) or "") + "\n"))
    found = [line for n in cited if n in listed for line in f".. [{n}]{listed[n]}".rstrip().split("\n")]
    if found and "References" not in lines:
        place = lines.index("Examples") if "Examples" in lines else len(lines)
        lines[place:place] = ["", "References", "----------", ""]
    if found:
        after = lines.index("References") + 2
        titles = [i for i in range(after, len(lines) - 1) if re.fullmatch("-{3,}", lines[i + 1])]
        place = titles[0] if titles else len(lines)
        lines[place:place] = ["", *found, ""]
    # "*spatial" in a type is no emphasis.
    lines[:] = [_STAR.sub(r"\*", line) if re.match(r"\w", line) else line for line in lines]


def setup(app: Any) -> None:
    """Run before numpydoc, which gives each list of sources names of its own."""
    app.connect("autodoc-process-docstring", _with_references, priority=100)
