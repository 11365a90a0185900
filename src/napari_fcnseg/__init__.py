"""Exact segmentation of images of any size with fully convolutional networks."""

import lazy_loader as _lazy

# The names, listed once, are in __init__.pyi; nothing heavy loads before one is used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
