"""A model as ONNX files, run by onnxruntime with the call contract of the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import ModelOutput

from .graphs import MODALITIES, SEGMENTATION

if TYPE_CHECKING:
    import os

    import onnxruntime

# What transformers raises for a config.json that was edited.
CONFIG_ERRORS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
CONFIG_ERRORS += (StrictDataclassError,)


@dataclass
class OnnxOutput(ModelOutput):
    """
    Output of [`OnnxModel`].

    Args:
        logits (`torch.Tensor`): As of the model that was exported, float32 on the CPU.
    """

    logits: Tensor | None = None


class OnnxModel:
    """
    What `scripts/export.py --format onnx` wrote, in place of the model in a pipeline or in evaluation.

    ```python
    >>> import hf_emktd
    >>> from hf_emktd.export import OnnxModel
    >>> from transformers import pipeline

    >>> classifier = pipeline("audio-visual-classification", model=OnnxModel.from_pretrained("export"))
    ```

    Args:
        config (`PreTrainedConfig`):
            The model's.
        files (`dict[str, Path]`):
            By modality, `"both"`, `"audio"`, `"visual"`, the ONNX file that answers it.
        name_or_path (`str`, *optional*):
            Where the processor lies.

    Raises:
        ImportError: onnxruntime is not installed.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, config: PreTrainedConfig, files: dict[str, Path], name_or_path: str = "") -> None:
        require_onnxruntime()
        self.config, self.files, self.name_or_path = config, files, name_or_path
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, quantized: bool = False) -> Self:
        """
        Args:
            folder (`str` or `os.PathLike`):
                Folder that the export wrote.
            quantized (`bool`, *optional*, defaults to `False`):
                Whether to take the int8 files.

        Raises:
            ValueError: there is no such file in the folder, its config is no model's of this library, or a file does
                not fit it.
        """
        folder, format_name = Path(folder), "onnx-int8" if quantized else "onnx"
        named = {modality: folder / onnx_file(modality, quantized) for modality in MODALITIES}
        files = {modality: path for modality, path in named.items() if path.is_file()}
        if not files:
            raise ValueError(
                f"{folder} has none of {', '.join(path.name for path in named.values())}; make them with "
                f"scripts/export.py --model MODEL --format {format_name} --output_dir {folder}."
            )
        model = cls(_read_config(folder), files, str(folder))
        for modality in files:
            model._session(MODALITIES[modality])  # now, not at the first question
        return model

    def __call__(self, input_values: Tensor | None = None, pixel_values: Tensor | None = None) -> OnnxOutput:
        """Logits of a batch; any number of clips, in the shapes of `config.input_shapes`.

        Raises:
            ValueError: there is no file for this set of inputs.
        """
        given = {"input_values": input_values, "pixel_values": pixel_values}
        inputs = {name: value for name, value in given.items() if value is not None}
        logits = self._session(tuple(inputs)).run(
            None, {name: value.detach().cpu().float().numpy() for name, value in inputs.items()}
        )[0]
        return OnnxOutput(logits=torch.from_numpy(logits))

    def to(self, *args: Any, **options: Any) -> Self:
        """Stays on the CPU, whatever the pipeline would move it to."""
        return self

    def eval(self) -> Self:
        return self

    def _session(self, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
        modality = next((modality for modality, inputs in MODALITIES.items() if inputs == names), None)
        if modality not in self.files:
            raise ValueError(
                f"this export answers {', '.join(self.files)}, but was given {' and '.join(names) or 'nothing'}; "
                f"export {modality or 'that'} too: scripts/export.py --modalities {' '.join(MODALITIES)}."
            )
        if modality not in self._sessions:
            session = open_session(self.files[modality])
            check_graph(session, self.files[modality], names, self.config)
            self._sessions[modality] = session
        return self._sessions[modality]


def _read_config(folder: Path) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except CONFIG_ERRORS as error:
        raise ValueError(f"{folder}/config.json cannot be used: {' '.join(str(error).split())}") from error
    if not hasattr(config, "input_shapes"):
        raise ValueError(f"{folder}/config.json is of a {config.model_type!r}, which this library does not export.")
    return config


def check_graph(
    session: onnxruntime.InferenceSession, path: Path, names: Sequence[str], config: PreTrainedConfig
) -> None:
    """Raises `ValueError` if a graph does not take, or does not answer, what its config says."""
    wanted = {name: config.input_shapes.get(name) for name in names}
    taken = {one.name: one.shape[1:] for one in session.get_inputs()}
    answers = [one.shape[1:] for one in session.get_outputs()]
    classes = None if config.task == SEGMENTATION else [config.num_labels]
    fits = taken.keys() == wanted.keys() and all(_fits(taken[name], wanted[name]) for name in names)
    if not fits or len(answers) != 1 or classes not in (None, answers[0]):
        raise ValueError(
            f"{path} takes {taken} and answers {answers}, but its config.json says {wanted} and {classes or 'masks'}; "
            "export the model again."
        )


def _fits(taken: Sequence[int | str], wanted: Sequence[int] | None) -> bool:
    """A name stands for a size that is free."""
    return (
        wanted is not None
        and len(taken) == len(wanted)
        and all(isinstance(one, str) or one == other for one, other in zip(taken, wanted, strict=True))
    )


def onnx_file(modality: str, quantized: bool = False) -> str:
    """`model.onnx`, `model_audio.onnx`, `model_int8.onnx`, ..."""
    sense = "" if modality == "both" else f"_{modality}"
    return f"model{sense}{'_int8' if quantized else ''}.onnx"


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """
    A session on the CPU with as many threads as torch has.

    Raises:
        ValueError: the file is no ONNX model that onnxruntime can run, or its weights lie outside of its folder.
    """
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _errors_of(onnxruntime) as error:
        raise ValueError(f"{path} cannot be run: {' '.join(str(error).split())}") from error


def _errors_of(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """They have no common base."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return tuple(getattr(state, name) for name in (*names, "RuntimeException"))


def require_onnxruntime() -> Any:
    """The module onnxruntime, or an `ImportError` that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("onnxruntime runs exported models: pip install 'hf_emktd[export]'.") from error
    return onnxruntime
