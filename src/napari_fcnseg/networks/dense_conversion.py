"""A classifier made dense: one vector of scores for every window instead of one for the image.

A linear layer on a map of k by k cells is a convolution of k by k, and mean
pooling of the whole map is pooling of a window. What the head answered to a
map of the trained size, its dense form answers at every window of a larger
one, exactly.

That is a window of the *map*. A window of the *image* is more: a classifier
that pads with zeros pads at the border of the crop that it is given, where the
dense form sees the image go on. No network that shares its work between
windows can equal the classifier on every crop, unless nothing is padded.
:func:`unpadded` makes such a network, and its every cell equals what it gives
for the crop alone.

References
----------
.. [1] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for
       Semantic Segmentation", CVPR 2015, arXiv:1411.4038, section 3.1.
"""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.field import trace
from napari_fcnseg.networks.geometry import CONVOLUTIONS, MAX_POOLS, MEAN_POOLS, Same, layer_geometry
from napari_fcnseg.networks.layers import CONV, Crop

MEAN_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def as_convolution(linear: nn.Linear, kernel: int, ndim: int) -> nn.Module:
    """Return the convolution that computes a linear layer at every window.

    Parameters
    ----------
    linear : torch.nn.Linear
        Takes a flattened map of ``channels`` by ``kernel`` by ... cells.
    kernel : int
        Side of that map.
    ndim : int
        Number of its spatial axes.

    Returns
    -------
    torch.nn.Module
        An unpadded convolution, whose weights are those of `linear`, shape
        ``(out_features, channels, kernel, ...)``.

    Raises
    ------
    NetworkError
        If the inputs of `linear` are not a multiple of the cells.
    """
    channels, rest = divmod(linear.in_features, kernel**ndim)
    if rest:
        raise NetworkError(
            f"a linear layer of {linear.in_features} inputs does not see maps of "
            f"{' x '.join([str(kernel)] * ndim)} cells; their product must divide the inputs."
        )
    with torch.device("meta"):  # the weights come below
        convolution = CONV[ndim](channels, linear.out_features, kernel, bias=linear.bias is not None)
    weights = {"weight": linear.weight.detach().reshape(convolution.weight.shape)}
    if linear.bias is not None:
        weights["bias"] = linear.bias.detach()
    convolution.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    return convolution.train(linear.training)


class DenseClassifier(nn.Module):
    """A classifier whose head is a convolution; made by :func:`convolutionize`.

    Parameters
    ----------
    classifier : torch.nn.Module
        From :func:`~napari_fcnseg.networks.backbones.build_classifier`. It
        stays as it is; the dense form has its own copy of the weights.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.network = copy.deepcopy(classifier)
        self.window: int = classifier.window
        ndim = _spatial_axes(classifier)
        pooled = classifier.bins == 1
        self.pool = MEAN_POOL[ndim](self.window, stride=1) if pooled else nn.Identity()
        head = self.network.get_submodule(classifier.head_name)
        setattr(self.network, classifier.head_name, _dense_head(head, classifier.bins, ndim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n, classes, *windows)`` of images ``(n, in_channels, *spatial)``."""
        cells = self.network.feature_map(x)
        _check_cells(cells, self.window)
        return self.network.head(self.pool(cells))  # type: ignore[no-any-return]


def _spatial_axes(network: nn.Module) -> int:
    first = next(layer for layer in network.modules() if isinstance(layer, CONVOLUTIONS))
    return len(first.kernel_size)


def _dense_head(head: nn.Module, bins: int, ndim: int) -> nn.Module:
    if isinstance(head, nn.Linear):
        return as_convolution(head, bins, ndim)
    layers = []
    for layer in head.children():
        if isinstance(layer, nn.Linear):
            layer, bins = as_convolution(layer, bins, ndim), 1
        layers.append(layer)
    return nn.Sequential(*layers)


def _check_cells(cells: Any, window: int) -> None:
    if isinstance(cells, fx.Proxy):  # while the network is traced, there are no sizes
        return
    # In an export, sides are symbols, which must not be compared.
    sides = [side for side in cells.shape[2:] if isinstance(side, int)]
    if any(side < window for side in sides):
        raise NetworkError(
            f"the image gives a map of {' x '.join(map(str, sides))} cells, but the head looks at {window} "
            "in each direction; give an image at least as large as those the classifier was trained on."
        )


def convolutionize(classifier: nn.Module) -> DenseClassifier:
    """Turn a classifier into a network that gives scores for every window.

    Parameters
    ----------
    classifier : torch.nn.Module
        From :func:`~napari_fcnseg.networks.backbones.build_classifier`, with
        weights of any origin. It is not changed.

    Returns
    -------
    DenseClassifier
        For images of the trained size, as 224 pixels, the classifier's scores,
        shape ``(n, classes, 1, 1)``. For larger ones a cell for every window
        of the feature map: exactly what the head gives for that window. Cells
        lie as many pixels apart as the network's stride.

    Raises
    ------
    NetworkError
        If `classifier` is none of ours, or an image is too small.

    See Also
    --------
    unpadded : Without padding, cells equal crops of the image too.
    classify_windows : The classifier on every crop, slowly.

    Examples
    --------
    >>> from napari_fcnseg.networks.backbones import build_classifier
    >>> classifier = build_classifier("alexnet", classes=5, width=1 / 32).eval()
    >>> dense = convolutionize(classifier)
    >>> dense(torch.zeros(1, 3, 224, 288)).shape
    torch.Size([1, 5, 1, 3])
    """
    if not all(hasattr(classifier, name) for name in ("feature_map", "head", "window", "bins", "head_name")):
        raise NetworkError(
            f"{type(classifier).__name__} does not say where its head begins; "
            "give a classifier of build_classifier."
        )
    return DenseClassifier(classifier)


def classify_windows(
    classifier: nn.Module, images: torch.Tensor, *, size: int = 224, stride: int = 32, batch: int = 8
) -> torch.Tensor:
    """Run a classifier on every crop of an image: the sliding window that dense networks replaced.

    Parameters
    ----------
    classifier : torch.nn.Module
        Takes crops ``(n, channels, size, ...)`` and returns ``(n, classes)``.
    images : torch.Tensor, shape (n, channels, *spatial)
        Not smaller than `size`.
    size, stride : int
        Side of the crops and the step from one to the next, in pixels.
    batch : int
        Crops at a time.

    Returns
    -------
    torch.Tensor, shape (n, classes, *windows)
        Cell ``i`` is that of the crop that begins at ``i * stride``.

    Raises
    ------
    NetworkError
        If the image is smaller than a crop.
    """
    if min(images.shape[2:]) < size:
        raise NetworkError(
            f"an image of {' x '.join(map(str, images.shape[2:]))} pixels has no crop of {size}; "
            "give a larger one."
        )
    ndim = images.ndim - 2
    crops = images
    for axis in range(2, images.ndim):
        crops = crops.unfold(axis, size, stride)
    cells = crops.shape[2 : 2 + ndim]
    crops = crops.movedim(1, 1 + ndim).flatten(0, ndim)
    scores = torch.cat([classifier(part) for part in torch.split(crops, batch)])
    return scores.reshape(len(images), *cells, -1).movedim(-1, 1)


def unpadded(network: nn.Module) -> fx.GraphModule:
    """Return a copy of a network in which nothing is padded.

    Where branches of a block meet, the longer is cropped to the shorter, so
    that pixels still meet those they met before.

    Parameters
    ----------
    network : torch.nn.Module
        Such as :func:`convolutionize` gives; of convolutions, poolings and
        layers that treat each pixel by itself.

    Returns
    -------
    torch.fx.GraphModule
        Each pixel of its output equals what it gives for the crop of the image
        that this pixel depends on. It has the same weights under the same
        names, and needs larger images, by what was padded.

    Raises
    ------
    NoRuleError
        If the layers cannot be walked.
    """
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS + MAX_POOLS + MEAN_POOLS):
            layer.padding = (0,) * _axes(layer)
        if isinstance(layer, MAX_POOLS):
            layer.ceil_mode = False
    aligned = _Aligned(network, trace(network))
    return fx.GraphModule(network, aligned.graph)


def _axes(layer: nn.Module) -> int:
    """Return the number of spatial axes from the name of a layer, which pools do not store."""
    return int(type(layer).__name__[-2])


class _Aligned:
    """Inserts crops into a graph, so that what meets lies on one another."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        self.network, self.graph = network, graph
        self.layers = dict(network.named_modules())
        self.ndim = _spatial_axes(network)
        self.places: dict[fx.Node, tuple[Fraction, Fraction]] = {}
        for node in list(graph.nodes):
            self._place(node)

    def _place(self, node: fx.Node) -> None:
        """Note the image pixels per pixel of a map, and where its pixel 0 lies."""
        sources = node.all_input_nodes
        if not sources:
            self.places[node] = Fraction(1), Fraction(0)
            return
        origin = max(self.places[source][1] for source in sources)
        for source in sources:
            if self.places[source][1] < origin:
                self._crop(source, node, origin - self.places[source][1])
        rate = self.places[sources[0]][0]
        rule = Same()
        if node.op == "call_module":
            rule = layer_geometry(self.layers[str(node.target)], self.ndim)[0]  # type: ignore[assignment]
        self.places[node] = rate * rule.rate, origin + rate * rule.shift

    def _crop(self, source: fx.Node, reader: fx.Node, distance: Fraction) -> None:
        """Crop what leads to `source` by a distance in image pixels, as late as whole pixels allow."""
        while (distance / self.places[source][0]).denominator > 1:
            reader, source = source, source.all_input_nodes[0]
        margin = int(distance / self.places[source][0])
        name = f"crop_{len([layer for layer in self.network.children() if isinstance(layer, Crop)])}"
        self.network.add_module(name, Crop(margin))
        with self.graph.inserting_before(reader):
            cropped = self.graph.call_module(name, (source,))
        reader.replace_input_with(source, cropped)
