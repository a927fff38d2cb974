"""Models on the Hub: asked for once before they are loaded, and compared with their checksum after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import httpx, validate_repo_id
from transformers.utils import logging

from ..whole_files import sha256_of

# of one question; huggingface_hub asks an unreachable Hub six times for every file of a model
SECONDS_TO_ANSWER = 10.0
SHA256 = re.compile("[0-9a-f]{64}")

logger = logging.get_logger(__name__)


def where_from(name_or_path: str | Path) -> dict[str, Any]:
    """
    Options of `from_pretrained` for a model: of one on a Hub that cannot be reached, that it is taken from the cache.

    Raises:
        ValueError: if there is neither a folder nor a Hub model of that name, or it can neither be reached nor is in
            the cache.
    """
    if Path(name_or_path).exists():
        return {}
    name = str(name_or_path)
    if not _is_hub_id(name):
        raise ValueError(f"there is no folder {name!r}, and models on the Hub have names such as 'org/model'")
    api = HfApi()
    try:
        api.model_info(name, timeout=SECONDS_TO_ANSWER)
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {name!r}, and no model of that name on {api.endpoint} that your token may see: check "
            "the name, or log in with `hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        logger.warning(f"{api.endpoint} is in trouble ({error}); trying on.")
    except (httpx.TransportError, ConnectionError) as error:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise ValueError(
                f"there is no folder {name!r}, and {api.endpoint} cannot be reached ({error}): download it elsewhere "
                f"with `hf download {name}` and name the folder"
            ) from error
        logger.warning(f"{api.endpoint} cannot be reached ({error}); {name} is taken from the cache.")
        return {"local_files_only": True}
    return {}


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def check_download(name_or_path: str | Path) -> None:
    """
    Compares cached weights of a Hub model with their checksum, by which the cache names them.

    Raises:
        ValueError: naming the files that differ; they are removed from the cache.
    """
    config = None if Path(name_or_path).exists() else try_to_load_from_cache(str(name_or_path), "config.json")
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
