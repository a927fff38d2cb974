"""Models on the Hub: asked for once before they are loaded, and compared with their checksum after."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, HfApi, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id
from transformers.utils import logging

from ..whole_files import sha256_of

# of one question; huggingface_hub asks an unreachable Hub six times for every file of a model
SECONDS_TO_ANSWER = 10.0
# options of `from_pretrained` that say where the files of a model are
WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
# of these, what does not hold for the model that an adapter belongs to
OF_ONE_REPOSITORY = ("revision", "subfolder")
SHA256 = re.compile("[0-9a-f]{64}")

logger = logging.get_logger(__name__)


class NoSuchModelError(ValueError):
    """There is neither a folder nor a Hub model of a name."""


def where_from(name_or_path: str | Path, **given: Any) -> dict[str, Any]:
    """
    Options of `from_pretrained` for a model: those that were given, and of one on a Hub that cannot be reached, that
    it is taken from the cache.

    Args:
        name_or_path: folder or Hub id.
        given: of the options [`WHERE`], those that a caller has.

    Raises:
        [`NoSuchModelError`]: if there is neither a folder nor a Hub model of that name.
        ValueError: if it can neither be reached nor is in the cache.
    """
    if Path(name_or_path).exists():
        return given
    name = str(name_or_path)
    if not _is_hub_id(name):
        raise NoSuchModelError(f"there is no folder {name!r}, and models on the Hub have names such as 'org/model'")
    if given.get("local_files_only"):
        return given
    api = HfApi(token=given.get("token"))
    try:
        api.model_info(name, timeout=SECONDS_TO_ANSWER)
    except RepositoryNotFoundError as error:
        raise NoSuchModelError(
            f"there is no folder {name!r}, and no model of that name on {api.endpoint} that your token may see: check "
            "the name, or log in with `hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        logger.warning(f"{api.endpoint} is in trouble ({error}); trying on.")
    except (httpx.TransportError, ConnectionError) as error:
        if not isinstance(_cached_config(name, **given), str):
            raise ValueError(
                f"there is no folder {name!r}, and {api.endpoint} cannot be reached ({error}): download it elsewhere "
                f"with `hf download {name}` and name the folder"
            ) from error
        logger.warning(f"{api.endpoint} cannot be reached ({error}); {name} is taken from the cache.")
        return given | {"local_files_only": True}
    return given


def _cached_config(
    name: str, subfolder: str = "", revision: str | None = None, cache_dir: str | None = None, **_: Any
) -> Any:
    """Path of a model's config in the cache; no text where there is none."""
    file = (PurePosixPath(subfolder) / "config.json").as_posix()
    return try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)


def has_file(name: str, file: str, **where: Any) -> bool:
    """
    Whether a Hub model has a file. Only the Hub's own answer, now or when the model was cached, says that it has not,
    or, where one is offline on purpose, the cache.

    Args:
        where: what [`where_from`] gives.

    Raises:
        ValueError: if the Hub does not answer.
    """
    try:
        hf_hub_download(name, file, **where)
    except RemoteEntryNotFoundError:
        return False
    except (httpx.HTTPError, OSError) as error:  # HfHubHTTPError is an HTTPError
        if is_offline_mode() or try_to_load_from_cache(name, file) is _CACHED_NO_EXIST:
            return False
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(
            f"{HfApi().endpoint} does not say whether {name} has {file} ({reason}): try again, or "
            "set HF_HUB_OFFLINE=1 to go on with what is in the cache"
        ) from error
    return True


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def check_download(name_or_path: str | Path, **where: Any) -> None:
    """
    Compares cached weights of a Hub model with their checksum, by which the cache names them.

    Args:
        name_or_path: folder, of which nothing is compared, or Hub id.
        where: what [`where_from`] gives.

    Raises:
        ValueError: naming the files that differ; they are removed from the cache.
    """
    config = None if Path(name_or_path).exists() else _cached_config(str(name_or_path), **where)
    if not isinstance(config, str):
        return
    weights = [path for path in Path(config).parent.glob("*.safetensors") if SHA256.fullmatch(path.resolve().name)]
    damaged = [path for path in weights if sha256_of(path) != path.resolve().name]
    for path in damaged:
        path.resolve().unlink()
        path.unlink()
    if damaged:
        names = ", ".join(path.name for path in damaged)
        raise ValueError(f"{names} came damaged from the Hub and was removed from the cache: try again")
