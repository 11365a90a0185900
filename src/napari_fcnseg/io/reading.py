"""`open_image`: one door for every file format."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.io.location import Location, Url, location_of

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".bif", ".qptiff")
# TIFF, but put together from regions or fields in ways of its maker's: for OpenSlide, where it is.
STITCHED_SUFFIXES = (".ndpi", ".scn", ".bif")
SLIDE_SUFFIXES = (".mrxs", ".svslide", ".vms", ".vmu")
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg")
HDF5_SUFFIXES = (".h5", ".hdf5")
MICROSCOPE_SUFFIXES = (".czi", ".lif", ".nd2")
FILE_SUFFIXES = (*TIFF_SUFFIXES, *SLIDE_SUFFIXES, *RASTER_SUFFIXES, *HDF5_SUFFIXES, *MICROSCOPE_SUFFIXES)


def open_image(
    path: str | PathLike[str], *, level: int | None = None, series: int | str | None = None
) -> LazyImage:
    """Open an image file without reading its pixels.

    Parameters
    ----------
    path : str or path-like
        TIFF, BigTIFF, OME-TIFF, ImageJ hyperstack, pyramidal slide in TIFF
        (``.tif .tiff .btf .tf8 .svs .ndpi .scn .bif .qptiff``); other slides
        (``.mrxs .svslide .vms .vmu``, extra ``slides``); PNG (``.png``); JPEG
        (``.jpg .jpeg``); HDF5 (``.h5 .hdf5``) and microscope files (``.czi
        .lif .nd2``), extra ``formats``; a folder that is a Zarr array of
        version 2 or 3, an OME-Zarr image (0.1 to 0.5), one of its label
        images, or a group of several of these; an ``http://``, ``https://`` or
        ``s3://`` address of such a folder, extra ``remote``; or a folder of
        TIFF files, one plane each.
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
        Reading pixels raises it too; the message names the chunk or tile.
    MissingPackageError
        When the format needs an extra that is not installed.

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

    The slide itself is the default series of a slide, whatever pictures of
    its label lie beside it. TIFF slides are read by tifffile, which gives the
    same pixels as OpenSlide and takes a fraction of its time. OpenSlide comes
    first for ``.ndpi``, ``.scn`` and ``.bif`` where it is installed, as only it
    knows how their regions lie; between them it gives white.

    Files of a folder of planes are sorted as people count (2 before 10) and
    shown as z.

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
    where = location_of(path)
    image = _open(where, level, series)
    if 0 in image.shape:
        raise ImageFileError(
            f"{where} has the shape {image.shape} ({image.axes}): there is no pixel in it. Choose another "
            "image."
        )
    return replace(image, reopen=partial(_reopened, where, series))


def _reopened(where: Location, series: int | str | None, level: int) -> LazyImage:
    return open_image(where, level=level, series=series)


def _open(where: Location, level: int | None, series: int | str | None) -> LazyImage:
    if isinstance(where, Url):
        from napari_fcnseg.io.zarr_store import open_zarr_image

        return open_zarr_image(where, level, series)
    _check_there(where)
    return _open_folder(where, level, series) if where.is_dir() else _open_file(where, level, series)


def _check_there(path: Path) -> None:
    if path.exists():
        return
    if path.is_symlink():
        raise ImageFileError(
            f"{path} is a symbolic link that leads nowhere or round in a circle. Remove it, or give the path "
            "of the image itself."
        )
    raise FileNotFoundError(
        f"There is no file or folder {path} (looked in {path.absolute().parent}). Check the spelling."
    )


def _open_folder(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    from napari_fcnseg.io.planes import open_planes_image, plane_files
    from napari_fcnseg.io.zarr_store import is_zarr, open_zarr_image

    if is_zarr(path):
        return open_zarr_image(path, level, series)
    files = plane_files(path)
    if not files:
        raise ImageFileError(
            f"{path} is a folder, but not Zarr (it has none of zarr.json, .zarray, .zgroup), and holds no "
            "TIFF files. Give the path of a file, or of the folder that holds one of these."
        )
    return open_planes_image(path, files, level, series)


def _open_file(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    # Imported one by one: each brings libraries that the others do without.
    suffix = path.suffix.lower()
    if suffix in SLIDE_SUFFIXES or (suffix in STITCHED_SUFFIXES and _known_to_openslide(path)):
        from napari_fcnseg.io.slides import open_slide_image

        return open_slide_image(path, level, series)
    if suffix in TIFF_SUFFIXES:
        return _open_tiff(path, level, series)
    if suffix in RASTER_SUFFIXES:
        from napari_fcnseg.io.raster import open_raster_image

        return open_raster_image(path, level, series)
    if suffix in HDF5_SUFFIXES:
        from napari_fcnseg.io.hdf5 import open_hdf5_image

        return open_hdf5_image(path, level, series)
    if suffix in MICROSCOPE_SUFFIXES:
        from napari_fcnseg.io.microscopes import open_microscope_image

        return open_microscope_image(path, level, series)
    raise ImageFileError(
        f"{path.name} ends in {path.suffix or 'nothing'!r}, which is not a known image format. Allowed are "
        f"{' '.join(FILE_SUFFIXES)} and Zarr folders. Convert it to OME-TIFF or OME-Zarr."
    )


def _known_to_openslide(path: Path) -> bool:
    from napari_fcnseg.io.slides import recognised

    return recognised(path)


def _open_tiff(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    from napari_fcnseg.io.tiff import open_tiff_image
    from napari_fcnseg.io.tiff_pixels import ForeignLayoutError

    try:
        return open_tiff_image(path, level, series)
    except ForeignLayoutError:
        if not _known_to_openslide(path):
            raise
        from napari_fcnseg.io.slides import open_slide_image

        return open_slide_image(path, level, series)
