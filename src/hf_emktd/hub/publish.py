"""Saving a model as an ordinary Hugging Face directory, whole or not at all, and pushing it to the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.utils import HfHubHTTPError, httpx
from peft import PeftModel

from ..whole_files import written_whole
from .model_card import write_card

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from .distillation_summary import DistillationSummary

# What a training run leaves beside the model: checkpoints with optimiser states, logs, pickles, and reports that name
# folders of the machine it ran on; and what a killed process left under hidden names.
_NOT_PUSHED = ["checkpoint-*", "runs/*", "*.bin", "*.pt", "*.pth", ".*", "*/.*"]
_NOT_PUSHED += ["results.json", "evaluation.json", "clips.json", "trainer_state.json"]
# an older save in more, or fewer, shards, or an adapter, would be loaded in place of a new one
_WEIGHTS = ("model*.safetensors*", "adapter_*")


class PublishError(RuntimeError):
    """A push that the Hub refused or that did not reach it."""


def save_for_hub(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    directory: str | os.PathLike[str],
    summary: DistillationSummary,
) -> Path:
    """Saves model, processor, card and `distillation.json` into `directory`.

    All is written into a hidden directory beside it first and then moved: a save that is killed while it writes leaves
    `directory` as it was, one that is killed while it moves leaves it without a `config.json`, so that nobody loads a
    mixture. Other files in it, such as checkpoints, stay. In distributed training call it on the main process only.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            The unwrapped model; of one with adapters only these are saved, with the name of the model below.
        processor (`ProcessorMixin`):
            Its processor.
        directory (`str` or `os.PathLike`):
            Where to; made if absent.
        summary ([`DistillationSummary`]):
            What the card says.

    Returns:
        `Path`: the directory.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; a model is saved as a directory. Choose another name.")
    with written_whole(directory, _WEIGHTS) as unfinished:
        model.save_pretrained(unfinished)
        if isinstance(model, PeftModel):
            model.config.save_pretrained(unfinished)  # the classes that the adapter was trained for
        processor.save_pretrained(unfinished)
        write_card(summary, unfinished)
    return directory


def push_to_hub(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
) -> CommitInfo:
    """Uploads a saved model, creating the repository, and the branch, where they do not exist.

    Checkpoints, logs, pickles (`*.bin`, `*.pt`, `*.pth`) and the run's own reports stay behind.

    Args:
        directory (`str` or `os.PathLike`):
            A directory written by [`save_for_hub`].
        repo_id (`str`):
            `"user/name"`, or `"name"` for the token's user.
        private (`bool`, *optional*, defaults to `False`):
            Whether a repository that is created is private; an existing one stays as it is.
        token (`str`, *optional*):
            A token with write access; by default the one of `hf auth login` or `HF_TOKEN`.
        revision (`str`, *optional*):
            Branch to push to, by default `main`.
        commit_message (`str`, *optional*, defaults to `"Upload model"`):
            The commit's message.

    Returns:
        [`~huggingface_hub.CommitInfo`]: `str()` of it is the commit's address.

    Raises:
        FileNotFoundError: `directory` holds no model.
        PublishError: the Hub refused or could not be reached.
    """
    if not (Path(directory) / "config.json").is_file():
        raise FileNotFoundError(f"{directory} has no config.json: save the model there first, with `save_for_hub`.")
    return _push(directory, repo_id, "model", private, token, revision, commit_message)


def push_shards(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload clips",
) -> CommitInfo:
    """Uploads a folder of [`~data.write_shards`] as a data set. Arguments and errors as [`push_to_hub`]; the report
    with reasons, which name folders of this machine, stays behind."""
    if not (Path(directory) / "shards.json").is_file():
        raise FileNotFoundError(f"{directory} has no shards.json: write the shards first, with `write_shards`.")
    return _push(directory, repo_id, "dataset", private, token, revision, commit_message)


def _push(
    directory: str | os.PathLike[str],
    repo_id: str,
    repo_type: str,
    private: bool,
    token: str | None,
    revision: str | None,
    commit_message: str,
) -> CommitInfo:
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=directory,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=_NOT_PUSHED,
        )
    except (httpx.HTTPError, ConnectionError, RuntimeError) as error:  # RuntimeError: a large file's upload failed
        raise PublishError(
            f"could not push {directory} to {repo_id} at {api.endpoint}: {error}\n{_way_out(error, repo_id)}"
        ) from error


def _way_out(error: Exception, repo_id: str) -> str:
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status == 401:
        return "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
    if status == 403:
        return f"The token may not write to {repo_id}: use one with write access, or a name of your own."
    if status == 404:
        return "Check the name and the revision, and that the token may see the repository."
    return "Nothing local was lost: push again later; files that arrived are not sent twice."
