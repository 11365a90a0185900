"""Networks that take an image of any size and return scores of just that size."""

from __future__ import annotations

import torch
from torch import nn


def mirrored(x: torch.Tensor, axis: int, before: int, after: int) -> torch.Tensor:
    """Extend `x` along `axis` by its mirror image, again and again where the padding is the longer.

    The edge pixel is not repeated, as ``numpy.pad(mode="reflect")`` has it.
    :func:`torch.nn.functional.pad` takes no padding longer than the image.
    """
    # In an export the lengths are symbols, which must not be compared.
    if isinstance(after, int) and not (before or after):
        return x
    length = x.shape[axis]
    period = torch.sym_max(2 * length - 2, 1)  # type: ignore[no-untyped-call]
    place = torch.arange(length + before + after, device=x.device) - before
    # Not "%", which no export to ONNX knows with an open size.
    place = place - torch.div(place, period, rounding_mode="floor") * period
    return x.index_select(axis, torch.minimum(place, period - place))


def _first(y: torch.Tensor, axis: int, length: int | torch.SymInt) -> torch.Tensor:
    """Return the first pixels along an axis."""
    if isinstance(length, int):
        return y.narrow(axis, 0, length)
    # Unlike a slice, this leaves an export no question whether there is anything to cut.
    return y.index_select(axis, torch.arange(length, device=y.device))  # type: ignore[call-overload]


class AnySize(nn.Module):
    """Base of networks whose output has the size of their input, whatever that is.

    A network proper works on certain sizes only: multiples of its stride, or
    what is left when its unpadded convolutions have taken their border. Called
    with any other image, it mirrors the image once, at the bottom and right
    and by `margin` on all sides, computes :meth:`scores` and cuts the result.
    It is what tiled runs do to the whole image, so both give the same.

    Parameters
    ----------
    step : int
        Fitting lengths are ``offset`` plus a multiple of it.
    margin : (int, int)
        Pixels that the network loses before and after.
    smallest : int
        Least fitting length, margin apart.
    offset : int
        1 for networks whose corners are aligned, 0 for all others.
    """

    def __init__(
        self, *, step: int, margin: tuple[int, int] = (0, 0), smallest: int = 1, offset: int = 0
    ) -> None:
        super().__init__()
        self.step, self.margin, self.smallest, self.offset = step, margin, smallest, offset

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images ``(n, in_channels, *spatial)`` of fitting size.

        Straight layers only: the receptive field is derived by walking them.
        """
        raise NotImplementedError

    def fitting(self, length: int) -> int:
        """Return the next fitting length, without margin."""
        length = torch.sym_max(length, self.smallest)  # type: ignore[no-untyped-call]
        steps = (length - self.offset + self.step - 1) // self.step
        return steps * self.step + self.offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *spatial)`` of images ``(n, in_channels, *spatial)`` of any size."""
        shape = x.shape[2:]
        before, after = self.margin
        for axis, length in enumerate(shape, start=2):
            x = mirrored(x, axis, before, self.fitting(length) - length + after)
        y = self.scores(x)
        for axis, length in enumerate(shape, start=2):
            y = _first(y, axis, length)
        return y
