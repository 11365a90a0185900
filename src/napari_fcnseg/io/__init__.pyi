from .lazy_image import LazyImage
from .reading import open_image
from .writing import save_labels, save_png

__all__ = ["LazyImage", "open_image", "save_labels", "save_png"]
