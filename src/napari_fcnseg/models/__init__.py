"""Models: network, weights and card; those embedded, those on disk, those in memory."""

from napari_fcnseg.models.bioimageio import export_bioimageio
from napari_fcnseg.models.export import export_onnx, export_program
from napari_fcnseg.models.files import save_model, verify
from napari_fcnseg.models.model import Model, as_model
from napari_fcnseg.models.pretrained import PRETRAINED, PretrainedRecord, load_pretrained
from napari_fcnseg.models.published import import_model
from napari_fcnseg.models.record import ModelClass, ModelRecord, OutputMap
from napari_fcnseg.models.registry import list_models, load_model, model_folder, verify_model

__all__ = [
    "PRETRAINED",
    "Model",
    "ModelClass",
    "ModelRecord",
    "OutputMap",
    "PretrainedRecord",
    "as_model",
    "export_bioimageio",
    "export_onnx",
    "export_program",
    "import_model",
    "list_models",
    "load_model",
    "load_pretrained",
    "model_folder",
    "save_model",
    "verify",
    "verify_model",
]
