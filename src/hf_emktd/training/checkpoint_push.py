"""Checkpoints pushed to the Hub while training goes on."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..hub.publish import PublishError, push_checkpoint
from ..whole_files import unfinished_beside

logger = logging.get_logger(__name__)


class CheckpointPushes:
    """
    Pushes what `hub_strategy` asks for, one checkpoint after the other, in a thread.

    Every strategy but `end` pushes the model of a checkpoint to the top of the repository; `checkpoint` also all that
    a run goes on from, to `last-checkpoint/`, and `all_checkpoints` to folders of their own. A checkpoint that is
    saved while another is on its way is passed over, unless `hub_always_push` is on. A push that fails is said, and
    training goes on.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "push")
        self._running: list[Future] = []

    def start(self, args: TrainingArguments, checkpoint: str, repo_id: str) -> None:
        """Takes `checkpoint` as it is now; it may be deleted while it is pushed."""
        self._running = [push for push in self._running if not push.done()]
        if self._running and not args.hub_always_push:
            return
        copy = unfinished_beside(Path(checkpoint))
        shutil.copytree(checkpoint, copy, copy_function=_link)
        self._running.append(self._thread.submit(_push, args, copy, Path(checkpoint).name, repo_id))

    def finish(self) -> None:
        """Waits for the pushes that are on their way."""
        for push in self._running:
            push.result()
        self._running = []


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _push(args: TrainingArguments, copy: Path, name: str, repo_id: str) -> None:
    options = {"token": args.hub_token, "revision": args.hub_revision, "private": bool(args.hub_private_repo)}
    folders = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: name}
    try:
        push_checkpoint(copy, repo_id, commit_message=f"Training in progress, {name}", **options)
        if args.hub_strategy in folders:
            told = f"Training in progress, all of {name}"
            push_checkpoint(copy, repo_id, path_in_repo=folders[args.hub_strategy], commit_message=told, **options)
    except PublishError as error:
        logger.warning(f"{name} was not pushed, training goes on: {error}")
    finally:
        shutil.rmtree(copy, ignore_errors=True)
