"""`save_labels` and `save_png`: check first, then one writer per format."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import AxesError, ImageFileError, InputError
from napari_fcnseg.io import label_files
from napari_fcnseg.io.atomic import check_target, written_whole
from napari_fcnseg.io.label_files import Geometry, check_range

if TYPE_CHECKING:
    import dask.array as da

    Labels: TypeAlias = NDArray[Any] | da.Array

LABEL_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".png", ".ome.zarr", ".zarr")
_AXES_BY_NDIM = {2: "yx", 3: "zyx", 4: "tzyx"}


def save_labels(
    path: str | PathLike[str], labels: Labels, like: Any = None, *, overwrite: bool = False
) -> Path:
    """Write a label image whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The ending chooses the format: ``.tif .tiff`` (uint16, ImageJ reads it;
        uint32 where a label is above 65535; BigTIFF where it must), ``.ome.tif
        .ome.tiff``, ``.png`` (two dimensions, uint8 or uint16, no pixel size),
        ``.zarr .ome.zarr`` (a label image of OME-Zarr 0.5, with coarser levels
        where it is larger than 512 pixels).
    labels : array of int or bool
        NumPy or dask, 0 to 4294967295. Its dimensions are those of `like`
        without channels; without `like` they are yx, zyx or tzyx. A dask
        array is streamed into Zarr block by block, where signed and 64-bit
        types become uint32; for the other formats it is computed. Files
        other than PNG have the axes in the order tzyx.
    like : LazyImage or similar, optional
        The image that the labels belong to; anything with ``axes``, ``scale``
        and ``units``. Pixel sizes are carried over.
    overwrite : bool, optional
        Replace what is there. Default: refuse.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        Values that are not whole, negative or above 4294967295; or `path` is
        the image `like` itself.
    AxesError
        Dimensions other than those of `like`.
    OutputExistsError
        `path` exists and `overwrite` is false.
    ImageFileError
        Unknown ending, missing folder, or labels that the format cannot hold.

    Notes
    -----
    The file is written under ``.<name>.<random>.partial`` beside the target and
    renamed at the end. A run that is killed leaves no file of the target's name.

    See Also
    --------
    open_image : Reads it back with the same pixel size.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from napari_fcnseg.io import open_image, save_labels
    >>> path = save_labels(tempfile.mkdtemp() + "/cells.tif", np.eye(3, dtype=int))
    >>> np.asarray(open_image(path)).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    path = Path(path)
    write, in_memory = _writer_of(path)
    labels = _checked_labels(labels)
    geometry = _geometry(labels, like)
    refuse_own_source(path, like)
    check_target(path, overwrite=overwrite)
    labels, geometry = _in_standard_order(labels, geometry)
    ready = _compact(labels) if in_memory or isinstance(labels, np.ndarray) else labels
    with written_whole(path, overwrite=overwrite) as partial:
        write(partial, ready, geometry, path.name)
    return path


def save_png(path: str | PathLike[str], rgb: NDArray[np.uint8], *, overwrite: bool = False) -> Path:
    """Write a colour picture, such as an overlay, as PNG, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        Ends in ``.png``.
    rgb : array of uint8, shape (height, width, 3 or 4)
        Red, green, blue and, with four samples, opacity; 0 to 255.
    overwrite : bool, optional
        Replace what is there. Default: refuse.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        Another shape or data type.
    OutputExistsError
        `path` exists and `overwrite` is false.
    ImageFileError
        Another ending, or the folder is missing.

    See Also
    --------
    save_labels : For labels, which are numbers rather than colours.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from napari_fcnseg.io import save_png
    >>> save_png(tempfile.mkdtemp() + "/overlay.png", np.zeros((4, 5, 3), np.uint8)).name
    'overlay.png'
    """
    path = Path(path)
    rgb = np.asarray(rgb)
    if path.suffix.lower() != ".png":
        raise ImageFileError(f"{path.name} does not end in '.png', the only format here. Rename it.")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] not in (3, 4) or 0 in rgb.shape:
        raise InputError(
            f"Got {rgb.dtype} of shape {rgb.shape}; a colour picture is uint8 of shape (height, width, 3 or "
            "4). Convert it, for instance with skimage.util.img_as_ubyte."
        )
    with written_whole(path, overwrite=overwrite) as partial:
        _write_picture(partial, rgb)
    return path


def _writer_of(path: Path) -> tuple[Callable[[Path, Any, Geometry, str], None], bool]:
    name = path.name.lower()
    suffix = next((s for s in LABEL_SUFFIXES if name.endswith(s)), None)
    if suffix is None or name == suffix:
        raise ImageFileError(
            f"{path.name!r} names no format for labels. Use one of these endings: {' '.join(LABEL_SUFFIXES)}."
        )
    if suffix.endswith("zarr"):
        return label_files.write_zarr, False
    if suffix == ".png":
        return _write_png, True
    return (label_files.write_ome_tiff if suffix.startswith(".ome") else label_files.write_tiff), True


def _checked_labels(labels: Any) -> Labels:
    import dask.array as da

    if not isinstance(labels, da.Array):
        labels = np.asarray(labels)
    if labels.dtype.kind not in "biu":
        raise InputError(
            f"Labels are whole numbers; got {labels.dtype}. Convert them, for instance with "
            "labels.astype('uint32')."
        )
    if 0 in labels.shape:
        raise InputError(f"The labels have the shape {labels.shape}: there is no pixel to save.")
    return labels  # type: ignore[no-any-return]


def _geometry(labels: Labels, like: Any) -> Geometry:
    if like is None:
        if labels.ndim not in _AXES_BY_NDIM:
            raise AxesError(
                f"Labels of {labels.ndim} dimensions; without `like` they may have 2 (yx), 3 (zyx) or 4 "
                "(tzyx). Pass the image as like=, or save a part."
            )
        return Geometry(_AXES_BY_NDIM[labels.ndim], {}, {})
    axes = like.axes.replace("c", "")
    if len(axes) != labels.ndim:
        raise AxesError(
            f"Labels of {labels.ndim} dimensions do not fit the axes {axes!r} that {like.axes!r} has without "
            "channels. Pass the image that they were made from."
        )
    shape = getattr(like, "shape", None)
    expected = shape and tuple(n for a, n in zip(like.axes, shape, strict=True) if a != "c")
    if expected and tuple(labels.shape) != expected:
        raise AxesError(
            f"Labels of shape {tuple(labels.shape)} do not fit the image's {expected} ({axes}). Pass the "
            "level that they were made from, so that the pixel size is right."
        )
    scale = {a: float(v) for a, v in like.scale.items() if a in axes}
    return Geometry(axes, scale, {a: str(like.units[a]) for a in scale if a in like.units})


def _in_standard_order(labels: Labels, geometry: Geometry) -> tuple[Labels, Geometry]:
    # ImageJ, OME-TIFF and OME-Zarr all want t first and x last.
    axes = "".join(a for a in "tzyx" if a in geometry.axes)
    if axes == geometry.axes:
        return labels, geometry
    order = [geometry.axes.index(a) for a in axes]
    return labels.transpose(order), Geometry(axes, geometry.scale, geometry.units)


def refuse_own_source(path: Path, like: Any) -> None:
    """Refuse labels that would replace the image they were made from."""
    source = getattr(like, "path", None)
    if source is None:
        return
    target, image = path.resolve(), Path(source).resolve()
    if target == image or target in image.parents:
        raise InputError(
            f"{path} is or holds the image itself; labels would replace it. Choose another name."
        )


def _compact(labels: Labels) -> NDArray[Any]:
    """Return the labels in memory as uint16 if they fit, else as uint32."""
    computed: NDArray[Any] = np.asarray(labels)
    check_range(int(computed.min()), int(computed.max()))
    return computed.astype(np.uint16 if computed.max() <= 65535 else np.uint32, copy=False)


def _write_png(path: Path, labels: NDArray[Any], _geometry: Geometry, name: str) -> None:
    if labels.ndim != 2 or labels.dtype != np.uint16:
        raise ImageFileError(
            f"{name}: PNG holds labels of 2 dimensions up to 65535; these have {labels.ndim} dimensions and "
            f"go up to {labels.max()}. Save them as .tif, .ome.tif or .ome.zarr."
        )
    _write_picture(path, labels.astype(np.uint8) if labels.max() <= 255 else labels)


def _write_picture(path: Path, pixels: NDArray[Any]) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG")
