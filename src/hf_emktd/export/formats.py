"""Writes a model in each format, and runs what was written."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .graphs import LogitsGraph, dynamic_shapes, example_inputs, input_names
from .onnx_model import OnnxModel, onnx_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# LayerNormalization is one operator from 17 on, Gelu from 20 on.
OPSET = 20
Runner = Callable[..., Tensor]


class ExportError(RuntimeError):
    """A format that a model cannot be written in, or that does not give what the model gives."""


@dataclass(frozen=True)
class Format:
    """
    Args:
        write: `write(model, modality, path)` makes the file.
        load: `load(path, config, modality)` gives a function of the inputs by name that returns logits.
        file_name: `file_name(modality)`.
        exact: whether the logits are those of the model but for rounding.
    """

    write: Callable[[PreTrainedModel, str, Path], None]
    load: Callable[[Path, PreTrainedConfig, str], Runner]
    file_name: Callable[[str], str]
    exact: bool = True


def write_onnx(model: PreTrainedModel, modality: str, path: Path) -> None:
    """
    ONNX of opset 20 with a free number of clips, and frames where the model has any; weights in the file up to 2 GB.

    Raises:
        ExportError: onnx or onnxscript is missing, or the model has an operation that ONNX lacks.
    """
    require("onnxscript", "onnx")
    inputs = tuple(example_inputs(model.config, modality).values())
    graph = LogitsGraph(with_plain_attention(model), modality).eval()
    try:
        with quietly():
            torch.onnx.export(
                graph,
                inputs,
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=graph.names,
                output_names=["logits"],
                dynamic_shapes=dynamic_shapes(model.config, modality),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(f"{type(model).__name__} cannot be written as ONNX: {reason}") from error
    strip_traces(path)


def write_onnx_int8(model: PreTrainedModel, modality: str, path: Path) -> None:
    """
    ONNX whose linear layers multiply in int8: weights by output channel, activations scaled as they come, so that no
    calibration is needed. Convolutions and attention stay in float32.
    """
    require("onnxruntime", "onnxscript", "onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quietly():
        plain = Path(folder) / "plain.onnx"
        write_onnx(model, modality, plain)
        quantize_dynamic(
            plain, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )


def with_plain_attention(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose attention is matrix products and a softmax, where a model has the choice: Swin's fused one leaves
    strides that ONNX has no view of."""
    model = copy.deepcopy(model)
    with quietly():  # transformers warns of models without
        model.set_attn_implementation("eager")
    return model


def strip_traces(path: Path) -> None:
    """
    Takes out of an ONNX file what is not needed to run it: each operator's place in the Python code, and the shapes of
    results, which the exporter's optimisations leave wrong here and there.
    """
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    onnx.save(model, path)


def write_torch_export(model: PreTrainedModel, modality: str, path: Path) -> None:
    """An `ExportedProgram` of PyTorch with a free number of clips, to be loaded by `torch.export.load`."""
    with quietly():
        torch.export.save(_program(model, modality), path)


def write_executorch(model: PreTrainedModel, modality: str, path: Path) -> None:
    """
    An ExecuTorch program for one clip whose supported parts run in XNNPACK.

    Raises:
        ExportError: executorch is missing.
    """
    _require_executorch()
    _name_flatc()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with quietly():
        program = to_edge_transform_and_lower(
            _program(model, modality, free=False), partitioner=[XnnpackPartitioner()]
        )
        path.write_bytes(program.to_executorch().buffer)


def load_onnx(path: Path, config: PreTrainedConfig, modality: str) -> Runner:
    model = OnnxModel(config, {modality: path})
    return lambda **inputs: model(**inputs).logits


def load_torch_export(path: Path, config: PreTrainedConfig, modality: str) -> Runner:
    with quietly():
        module, names = torch.export.load(path).module(), input_names(config, modality)
    return lambda **inputs: module(*(inputs[name] for name in names))


def load_executorch(path: Path, config: PreTrainedConfig, modality: str) -> Runner:
    _require_executorch()
    from executorch.runtime import Runtime

    method, names = Runtime.get().load_program(path).load_method("forward"), input_names(config, modality)
    # it is made for one clip
    return lambda **inputs: torch.cat(
        [
            method.execute([inputs[name][row : row + 1].contiguous() for name in names])[0].clone()
            for row in range(len(inputs[names[0]]))
        ]
    )


FORMATS = {
    "onnx": Format(write_onnx, load_onnx, onnx_file),
    "onnx-int8": Format(write_onnx_int8, load_onnx, lambda modality: onnx_file(modality, True), exact=False),
    "torch-export": Format(
        write_torch_export, load_torch_export, lambda modality: Path(onnx_file(modality)).with_suffix(".pt2").name
    ),
    "executorch": Format(
        write_executorch, load_executorch, lambda modality: Path(onnx_file(modality)).with_suffix(".pte").name
    ),
}


def _program(model: PreTrainedModel, modality: str, free: bool = True) -> torch.export.ExportedProgram:
    inputs = example_inputs(model.config, modality, batch=2 if free else 1)
    shapes = dynamic_shapes(model.config, modality) if free else None
    return torch.export.export(LogitsGraph(model, modality).eval(), tuple(inputs.values()), dynamic_shapes=shapes)


def require(*modules: str) -> None:
    missing = [name for name in modules if not _importable(name)]
    if missing:
        raise ExportError(f"{' and '.join(missing)} not installed: pip install 'hf_emktd[export]'.")


def _require_executorch() -> None:
    if not _importable("executorch"):
        raise ExportError(
            "executorch is not installed: pip install 'executorch>=1.3,<1.4', the release for torch 2.12, in an "
            "environment of its own: it pins versions of other packages. See docs/inference.md."
        )


def _name_flatc() -> None:
    """ExecuTorch looks on PATH for a compiler that it brings along, and finds it in an activated environment only."""
    import executorch

    own = Path(next(iter(executorch.__path__)), "data", "bin", "flatc")
    if shutil.which("flatc") is None and own.is_file():
        os.environ.setdefault("FLATC_EXECUTABLE", str(own))


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


@contextmanager
def quietly() -> Iterator[None]:
    """Exporters tell of every step and of operators of packages that are not there."""
    previous: Any = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
