from .comparison import ExportedFile, Measurement, RunnerModel, comparison_table, export_model, measure
from .formats import FORMATS, OPSET, ExportError
from .graphs import MODALITIES, own_modalities
from .onnx_model import OnnxModel, OnnxOutput
from .preprocessing import write_preprocessing

__all__ = [
    "FORMATS",
    "MODALITIES",
    "OPSET",
    "ExportError",
    "ExportedFile",
    "Measurement",
    "OnnxModel",
    "OnnxOutput",
    "RunnerModel",
    "comparison_table",
    "export_model",
    "measure",
    "own_modalities",
    "write_preprocessing",
]
