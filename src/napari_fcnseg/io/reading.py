"""`open_image`: one door for every file format."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.lazy_image import LazyImage

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".bif", ".qptiff")
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg")


def open_image(
    path: str | PathLike[str], *, level: int | None = None, series: int | str | None = None
) -> LazyImage:
    """Open an image file without reading its pixels.

    Parameters
    ----------
    path : str or path-like
        TIFF, BigTIFF, OME-TIFF, ImageJ hyperstack, pyramidal slide in TIFF
        (``.tif .tiff .btf .tf8 .svs .ndpi .scn .bif .qptiff``); PNG
        (``.png``); JPEG (``.jpg .jpeg``); or a folder that is a Zarr array of
        version 2 or 3, an OME-Zarr image (0.1 to 0.5), one of its label
        images, or a group of several of these.
    level : int, optional
        Resolution level, 0 being the finest. Default: 0.
    series : int or str, optional
        Which image, by its index or its name, where the file holds several.
        There is no default then: the error lists them.

    Returns
    -------
    LazyImage
        Lazy pixels in the file's own data type, with axes, channel names,
        pixel sizes and units, and the shapes of all levels.

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    ImageFileError
        When the format is not known, the file is damaged or cut off, it holds
        several images and none was chosen, or the series or level is not there.

    Notes
    -----
    A pixel size that cannot be meant is left out of ``scale``: none, not
    positive, one pixel per pixel without unit, and the made-up resolutions of
    screens and printers (bare resolution tags coarser than 100 um per pixel).

    Axes of length 1 are left out of TIFF files, as most programs that write them do not
    mean them; Zarr keeps them.

    A file that does not state its axes gets the likely ones, and ``axes_stated``
    is False: TIFF pages of unknown meaning are shown as a z stack; plain Zarr
    arrays without names of dimensions as zyx (yxc when the last size is 3 or
    4), czyx, tczyx. Nothing is computed on that guess: ``segment`` and
    ``predict`` take such a file for the plain array it is, and ask for
    ``axes=`` where its dimensions are not those of the model.

    The palette of a PNG becomes colours; that of a TIFF is for display only,
    and the values stay.

    See Also
    --------
    save_labels : Writes the labels made from it, with the same pixel size.

    Examples
    --------
    >>> import tempfile, tifffile, numpy as np
    >>> from napari_fcnseg.io import open_image
    >>> path = tempfile.mkdtemp() + "/cells.tif"
    >>> tifffile.imwrite(path, np.zeros((64, 48), np.uint16))
    >>> open_image(path)
    <LazyImage 'cells.tif'; (y=64, x=48); uint16; no pixel size>
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file or folder {path} (looked in {path.absolute().parent}). Check the spelling."
        )
    if path.is_dir():
        from napari_fcnseg.io.zarr_store import open_zarr_image

        return open_zarr_image(path, level, series)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from napari_fcnseg.io.tiff import open_tiff_image

        return open_tiff_image(path, level, series)
    if suffix in RASTER_SUFFIXES:
        from napari_fcnseg.io.raster import open_raster_image

        return open_raster_image(path, level, series)
    allowed = " ".join((*TIFF_SUFFIXES, *RASTER_SUFFIXES))
    raise ImageFileError(
        f"{path.name} ends in {path.suffix or 'nothing'!r}, which is not a known image format. Allowed are "
        f"{allowed} and Zarr folders. Convert it to OME-TIFF or OME-Zarr."
    )
