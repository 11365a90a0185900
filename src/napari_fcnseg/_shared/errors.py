"""Every exception the package raises on purpose.

Each one derives from :class:`FcnsegError` and from the built-in that a
caller would catch anyway::

    FcnsegError
    ├── InputError (ValueError)              image, labels or option unusable
    │   └── AxesError                        dimensions do not fit the model
    ├── TilingError (ValueError)             a plan that cannot be exact or cannot fit
    ├── NetworkError (ValueError)            unknown network or impossible option
    ├── ModelError
    │   ├── UnknownModelError (LookupError)  no model of that name
    │   └── ModelFileError (ValueError)      damaged, foreign or unsafe model file
    ├── ImageFileError (ValueError)          a file that cannot be read or written as asked
    ├── OutputExistsError (FileExistsError)  would overwrite, and was not told to
    ├── ResumeError (ValueError)             a stopped run that cannot go on as asked, or is still running
    ├── DeviceError (RuntimeError)           a device that is not there
    ├── LabelOverflowError (OverflowError)   more objects than the label type holds
    ├── MissingPackageError (ImportError)    an optional package is not installed
    └── Cancelled                            the user stopped the run
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FcnsegError(Exception):
    """Base of all errors of this package."""


class InputError(FcnsegError, ValueError):
    """An image, a label array or an option that cannot be used."""


class AxesError(InputError):
    """The dimensions of an image do not fit the model."""


class TilingError(FcnsegError, ValueError):
    """A tiling that would not be exact or cannot fit."""


class NetworkError(FcnsegError, ValueError):
    """An unknown network or an option that a network cannot take."""


class ModelError(FcnsegError):
    """A model cannot be used."""


class UnknownModelError(ModelError, LookupError):
    """No model of that name is known."""


class ModelFileError(ModelError, ValueError):
    """A model file is damaged, foreign or unsafe."""


class ImageFileError(FcnsegError, ValueError):
    """A file cannot be read or written as asked."""


class OutputExistsError(FcnsegError, FileExistsError):
    """The output exists and overwriting was not asked for."""


class ResumeError(FcnsegError, ValueError):
    """A stopped run cannot go on as asked, or another process is still at it."""


class DeviceError(FcnsegError, RuntimeError):
    """The device does not exist on this machine."""


class LabelOverflowError(FcnsegError, OverflowError):
    """There are more objects than the label type can number."""


class MissingPackageError(FcnsegError, ImportError):
    """An optional package that this needs is not installed."""


class Cancelled(FcnsegError):  # noqa: N818 - to be stopped is no error
    """The user stopped the run; nothing half-written was kept."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or ``""``."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
