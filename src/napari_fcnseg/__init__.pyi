from ._shared.control import RunControl
from ._shared.errors import Cancelled, FcnsegError
from ._shared.record import RunRecord
from ._shared.settings import SegmentSettings
from ._shared.version import __version__
from .batch import segment_batch
from .engine.proposalwise import predict_proposals
from .io import open_image, save_labels
from .measure import measure_classes, measure_objects, write_geojson
from .models import (
    Model,
    ModelRecord,
    as_model,
    export_bioimageio,
    export_onnx,
    export_program,
    import_model,
    list_models,
    load_model,
    load_pretrained,
    save_model,
)
from .networks import build_network, list_networks
from .segmentation import plan_segmentation, predict, segment, segment_recorded, segment_to_zarr
from .training.forests import train_forest, train_texton_forest

__all__ = [
    "Cancelled",
    "FcnsegError",
    "Model",
    "ModelRecord",
    "RunControl",
    "RunRecord",
    "SegmentSettings",
    "__version__",
    "as_model",
    "build_network",
    "export_bioimageio",
    "export_onnx",
    "export_program",
    "import_model",
    "list_models",
    "list_networks",
    "load_model",
    "load_pretrained",
    "measure_classes",
    "measure_objects",
    "open_image",
    "plan_segmentation",
    "predict",
    "predict_proposals",
    "save_labels",
    "save_model",
    "segment",
    "segment_batch",
    "segment_recorded",
    "segment_to_zarr",
    "train_forest",
    "train_texton_forest",
    "write_geojson",
]
