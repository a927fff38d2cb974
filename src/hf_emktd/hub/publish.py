"""Saving a model as an ordinary Hugging Face directory, whole or not at all, and pushing it to the Hub."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import HfHubHTTPError, httpx
from peft import PeftModel
from transformers.utils import logging

from ..whole_files import written_whole
from .model_card import write_card

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, ProcessorMixin

    from .distillation_summary import DistillationSummary

# What a training run leaves beside the model: checkpoints with optimiser states, logs, pickles, and reports that name
# folders of the machine it ran on; and all with hidden names, such as a killed process's, but for `.eval_results/`.
_NOT_PUSHED = ["checkpoint-*", "runs/*", "*.bin", "*.pt", "*.pth", ".[!e]*", ".e[!v]*", "*/.*"]
_NOT_PUSHED += ["results.json", "evaluation.json", "clips.json", "trainer_state.json"]
# an older save in more, or fewer, shards, or an adapter, would be loaded in place of a new one
_WEIGHTS = ("model*.safetensors*", "adapter_*")


# what a Hub answers in trouble that may pass: asked too often, another commit at the same moment, out of order
RETRIED = (409, 412, 429, 500, 502, 503, 504)
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
LONGEST_WAIT = 300.0

logger = logging.get_logger(__name__)


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
    return _push(directory, repo_id, "model", private, token, revision, commit_message, _NOT_PUSHED, by="push_to_hub")


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
    return _push(
        directory, repo_id, "dataset", private, token, revision, commit_message, _NOT_PUSHED, by="push_shards"
    )


def push_checkpoint(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    path_in_repo: str | None = None,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Training in progress",
) -> CommitInfo:
    """Uploads a checkpoint of a run: its model, or with `path_in_repo` all that a run goes on from, to that folder.
    Other arguments and errors as [`push_to_hub`]."""
    left = [*_NOT_PUSHED, "objectives.safetensors"] if path_in_repo is None else ["training_args.bin"]
    return _push(directory, repo_id, "model", private, token, revision, commit_message, left, path_in_repo)


def prepare_repository(
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Creates a repository, and the branch, where they do not exist: a push that will be refused is refused before the
    work. Returns its full id; arguments and errors as [`push_to_hub`]."""
    api = HfApi(token=token)
    return _insisted(lambda: _create(api, repo_id, repo_type, private, revision), "prepare", repo_id, api)


def _push(
    directory: str | os.PathLike[str],
    repo_id: str,
    repo_type: str,
    private: bool,
    token: str | None,
    revision: str | None,
    commit_message: str,
    left: list[str],
    path_in_repo: str | None = None,
    by: str = "push_checkpoint",
) -> CommitInfo:
    api = HfApi(token=token)

    def upload() -> CommitInfo:
        return api.upload_folder(
            repo_id=_create(api, repo_id, repo_type, private, revision),
            repo_type=repo_type,
            folder_path=directory,
            path_in_repo=path_in_repo,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=[*left],  # upload_folder adds its own to the list
        )

    again = f'`python -c "from hf_emktd.hub.publish import {by}; {by}({str(directory)!r}, {repo_id!r})"`'
    return _insisted(upload, f"push {directory} to", repo_id, api, again)


def _create(api: HfApi, repo_id: str, repo_type: str, private: bool, revision: str | None) -> str:
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
    return repo_id


def _insisted(ask: Callable[[], Any], told: str, repo_id: str, api: HfApi, again: str = "the same command") -> Any:
    """
    The answer of `ask`, which may be repeated: what arrived is not sent twice. It is repeated where the trouble may
    pass; huggingface_hub does so for large files itself.
    """
    waits = iter(RETRY_SECONDS)
    while True:
        try:
            return ask()
        # RuntimeError: a large file's upload failed
        except (httpx.HTTPError, ConnectionError, RuntimeError, HFValidationError) as error:
            wait = next(waits, None) if _may_pass(error) else None
            reason = _without_token(str(error), api)
            if wait is None:
                way_out = _way_out(error, repo_id, again)
                raise PublishError(f"could not {told} {repo_id} at {api.endpoint}: {reason}\n{way_out}") from error
            wait = max(wait, _asked_to_wait(error))
            logger.warning(f"could not {told} {repo_id}: {reason}; once more in {wait:g} seconds.")
        time.sleep(wait)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in RETRIED
    return isinstance(error, httpx.HTTPError | ConnectionError)


def _asked_to_wait(error: Exception) -> float:
    """Seconds, of a Hub that is asked too often."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(asked), LONGEST_WAIT) if asked.isdecimal() else 0.0


def _without_token(text: str, api: HfApi) -> str:
    """In one line, whatever a server sends back."""
    token, text = api.token or get_token(), " ".join(text.split())
    return text.replace(token, "...") if isinstance(token, str) and token else text


def _way_out(error: Exception, repo_id: str, again: str) -> str:
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status == 401:
        return "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
    if status == 403:
        return f"The token may not write to {repo_id}: use one with write access, or a name of your own."
    if status == 404 or isinstance(error, HFValidationError):
        return "Check the name and the revision, and that the token may see the repository."
    return f"Nothing local was lost: push again later, with {again}; files that arrived are not sent twice."
