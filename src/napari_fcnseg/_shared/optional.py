"""Packages that only some features need, and what to install where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from napari_fcnseg._shared.errors import MissingPackageError


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        Such as ``"onnxruntime"``.
    extra : str
        The extra of this package that installs it.
    purpose : str
        What needs it, as the error says it.

    Raises
    ------
    MissingPackageError
        If it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {module} ({error}); install it: pip install 'napari-fcnseg[{extra}]'"
        ) from error
