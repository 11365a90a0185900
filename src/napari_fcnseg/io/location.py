"""Where an image lies: a path, or an address that zarr can read."""

from __future__ import annotations

import re
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

_SCHEME = re.compile(r"(https?|s3)://", re.IGNORECASE)


class Url(str):
    """An address, with the name that messages and images use."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.split("?")[0].rstrip("/").rpartition("/")[2]


Location: TypeAlias = Path | Url


def location_of(path: str | PathLike[str]) -> Location:
    """Return an address for ``http://``, ``https://`` and ``s3://``, and a path for everything else.

    Examples
    --------
    >>> location_of("https://example.org/images/6001240.zarr").name
    '6001240.zarr'
    """
    text = fspath(path)
    return Url(text) if _SCHEME.match(text) else Path(text)
