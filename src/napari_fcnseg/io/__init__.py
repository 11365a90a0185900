"""One lazy image out of many file formats, and label images back into them.

``reading`` opens (``tiff``, ``raster``, ``zarr_store`` do it for their formats),
``writing`` saves, ``atomic`` makes sure that what has its final name is complete.
"""

import lazy_loader as _lazy

# The names, listed once, are in __init__.pyi; readers and writers load when one is used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
