"""
Imports torchaudio, and says in one message what to install where it does not fit torch. transformers imports it
wherever it is installed, so a wrong pair would break every import with a message about a library or a symbol.
"""

from importlib import metadata

try:
    import torchaudio  # noqa: F401
except (ImportError, OSError, RuntimeError) as error:
    versions = {name: metadata.version(name) for name in ("torch", "torchaudio")}
    raise ImportError(
        f"torch {versions['torch']} and torchaudio {versions['torchaudio']} do not go together ({error}). Install a "
        "pair that was built together, both from one index: pip install 'torch>=2.11,<2.13' 'torchaudio>=2.11,<2.12'."
    ) from error
