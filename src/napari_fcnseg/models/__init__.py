"""Models: network, weights and card; those embedded, those on disk, those in memory."""

from napari_fcnseg.models.files import save_model, verify
from napari_fcnseg.models.model import Model, as_model
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.models.registry import list_models, load_model, model_folder, verify_model

__all__ = [
    "Model",
    "ModelClass",
    "ModelRecord",
    "OutputMap",
    "as_model",
    "list_models",
    "load_model",
    "model_folder",
    "save_model",
    "verify",
    "verify_model",
]
