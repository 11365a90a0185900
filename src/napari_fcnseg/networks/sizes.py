"""How large the output of a convolution, a pooling or a transposed convolution is.

References
----------
.. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep
       learning", arXiv:1603.07285.
"""

from __future__ import annotations

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.geometry import Transposed, Window


def _at_least_one(size: int, length: int) -> int:
    if size < 1:
        raise NetworkError(
            f"{length} pixels are too few for this layer, whose output would have {size}; "
            "give a longer input, more padding or a smaller kernel."
        )
    return size


def conv_output_size(
    length: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False
) -> int:
    """Return the output length of a convolution or pooling along one axis.

    Parameters
    ----------
    length : int
        Pixels of the input.
    kernel, stride, padding, dilation : int
        Of the layer; `padding` is added at both ends.
    ceil : bool
        A last window that is not full counts, in poolings with ``ceil_mode=True``.

    Returns
    -------
    int
        ``(length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1`` without `ceil`.

    Raises
    ------
    NetworkError
        If nothing is left.

    References
    ----------
    Guide [1]_, relationship 6.

    Examples
    --------
    >>> conv_output_size(4, 3, stride=2, padding=1)
    2
    """
    return _at_least_one(Window(kernel, stride, padding, dilation, ceil).size(length), length)


def transposed_output_size(
    length: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> int:
    """Return the output length of a transposed convolution along one axis.

    Parameters
    ----------
    length : int
        Pixels of the input.
    kernel, stride, padding, dilation, output_padding : int
        Of the layer; `padding` is taken off at both ends, `output_padding` added at the last.

    Returns
    -------
    int
        ``stride * (length - 1) + dilation * (kernel - 1) + 1 - 2 * padding + output_padding``.

    Raises
    ------
    NetworkError
        If nothing is left.

    References
    ----------
    Guide [1]_, relationship 14.

    Examples
    --------
    >>> transposed_output_size(2, 3, stride=2, padding=1)
    3
    >>> transposed_output_size(2, 3, stride=2, padding=1, output_padding=1)
    4
    """
    rule = Transposed(kernel, stride, padding, dilation, output_padding)
    return _at_least_one(rule.size(length), length)
