from ._shared.errors import Cancelled, FcnsegError
from ._shared.record import RunRecord
from ._shared.settings import SegmentSettings
from ._shared.version import __version__
from .io import open_image, save_labels
from .models import Model, ModelRecord, as_model, list_models, load_model, save_model
from .segmentation import predict, segment, segment_recorded

__all__ = [
    "Cancelled",
    "FcnsegError",
    "Model",
    "ModelRecord",
    "RunRecord",
    "SegmentSettings",
    "__version__",
    "as_model",
    "list_models",
    "load_model",
    "open_image",
    "predict",
    "save_labels",
    "save_model",
    "segment",
    "segment_recorded",
]
