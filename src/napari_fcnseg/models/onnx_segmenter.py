"""A network in an ONNX file as the engine sees it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ModelFileError, TilingError
from napari_fcnseg._shared.optional import need
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.networks.field import Field, WithField

OPAQUE = "its layers lie in an ONNX file, where nothing says how far they look"


class OnnxSegmenter(WithField):
    """Meets :class:`~napari_fcnseg._shared.protocols.Segmenter` for an ONNX file.

    Parameters
    ----------
    source : bytes or str
        The file, or its path if its weights lie in another one beside it.
    in_channels, out_channels : int
        Channels of the image and maps of the output.
    input_axes, output_axes : str
        Order of the axes, of the letters ``b c z y x``; without ``b`` or ``c``
        the file has no such axis.
    field : Field
        Stride, halo and border, as far as they are known.
    sizes : sequence of (int, int)
        Lengths that each spatial axis may have: the least, and the step to the
        next; a step of 0 for a fixed length.

    Raises
    ------
    MissingPackageError
        If ONNX Runtime is not installed.
    ModelFileError
        If the file cannot be read.
    """

    padding_mode = "reflect"
    progressive = False
    float32_reason = "is computed in the precision of its ONNX file"

    def __init__(
        self,
        source: bytes | str,
        *,
        in_channels: int,
        out_channels: int,
        input_axes: str,
        output_axes: str,
        field: Field,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        self.source = source
        self.in_channels, self.out_channels = in_channels, out_channels
        self.input_axes, self.output_axes = input_axes, output_axes
        self.field, self.sizes = field, tuple(sizes)
        self.ndim = len(self.sizes)
        self.device = torch.device("cpu")
        self._session  # noqa: B018 - a damaged file is refused now, not at the first tile

    @functools.cached_property
    def _session(self) -> Any:
        onnxruntime = need("onnxruntime", "bioimageio", "an ONNX model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; the rest is about how the graph was simplified
        wanted = ("CUDAExecutionProvider",) * (self.device.type == "cuda") + ("CPUExecutionProvider",)
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            session = onnxruntime.InferenceSession(self.source, options, providers=providers)
        except Exception as error:  # ONNX Runtime has an exception for each way a file can be wrong
            raise ModelFileError(f"ONNX Runtime cannot read the weights: {_first_line(error)}") from error
        if len(session.get_inputs()) != 1:
            names = ", ".join(part.name for part in session.get_inputs())
            raise ModelFileError(
                f"the ONNX file takes {len(session.get_inputs())} inputs ({names}); one is supported."
            )
        return session

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the file anew.
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def on(self, device: torch.device | str, dtype: torch.dtype) -> OnnxSegmenter:
        """Return this segmenter, or one like it, for a device; the precision is that of the file."""
        if torch.device(device) == self.device:
            return self
        other = copy.copy(self)
        other.device = torch.device(device)
        return other

    def predict(self, batch: torch.Tensor, keep: Box | None = None) -> torch.Tensor:
        """Return scores of a batch ``(n, in_channels, *spatial)``, float32, on the CPU.

        Parameters
        ----------
        batch : torch.Tensor
            Normalised pixels.
        keep : Box, optional
            The box of the output to return; all of it by default.

        Raises
        ------
        TilingError
            If the file does not take images of this size.
        """
        self._check_size(tuple(batch.shape[2:]))
        pixels = batch.cpu().numpy()
        scores = np.concatenate([self._run(pixels[i : i + 1]) for i in range(len(pixels))])
        inside = tuple(slice(a, b) for a, b in keep) if keep else ()
        return torch.from_numpy(np.ascontiguousarray(scores[:, :, *inside], np.float32))

    def _run(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the scores of one image, both with the axes (1, channels, *spatial)."""
        taken, session = self._session.get_inputs()[0], self._session
        values = arranged(image, self.input_axes).astype(_DTYPES.get(taken.type, np.float32), copy=False)
        try:
            found = session.run(None, {taken.name: values})[0]
        except Exception as error:
            raise TilingError(
                f"the ONNX model failed on an image of shape {values.shape}: {_first_line(error)}"
            ) from error
        if found.ndim != len(self.output_axes):
            raise ModelFileError(
                f"the ONNX model gives an array of {found.ndim} axes where {self.output_axes!r} is stated."
            )
        scores = restored(found, self.output_axes, self.ndim)
        if scores.shape[1] != self.out_channels:
            raise ModelFileError(
                f"the ONNX model gives {scores.shape[1]} channels, but {self.out_channels} are stated."
            )
        return scores

    def _check_size(self, shape: tuple[int, ...]) -> None:
        for length, (least, step) in zip(shape, self.sizes, strict=True):
            if length < least or (length - least) % step if step else length != least:
                allowed = " x ".join(f"{n} + n * {s}" if s else str(n) for n, s in self.sizes)
                raise TilingError(
                    f"this model takes images of {allowed} pixels, not {' x '.join(map(str, shape))}; "
                    "leave tile_shape= out, or give one that fits."
                )


_DTYPES = {
    "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _standard(ndim: int) -> str:
    return "bc" + "zyx"[-ndim:]


def arranged(image: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return an image ``(1, channels, *spatial)`` with its axes in another order.

    Parameters
    ----------
    image : ndarray
        Axes ``b c z y x``, as many spatial ones as it has.
    axes : str
        The order wanted; ``b`` and ``c`` may be left out where their length is 1.
    """
    have = _standard(image.ndim - 2)
    missing = [letter for letter in have if letter not in axes]
    ordered = image.transpose([have.index(letter) for letter in (*missing, *axes)])
    return np.ascontiguousarray(ordered.reshape(ordered.shape[len(missing) :]))


def restored(array: NDArray[Any], axes: str, ndim: int) -> NDArray[Any]:
    """Return an array with the given axes as ``(1, channels, *spatial)``; the reverse of :func:`arranged`."""
    have = [letter for letter in _standard(ndim) if letter not in axes] + list(axes)
    array = array.reshape((1,) * (len(have) - array.ndim) + array.shape)
    return array.transpose([have.index(letter) for letter in _standard(ndim)])
