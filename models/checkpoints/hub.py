"""Addresses of the Hugging Face Hub, hf://owner/name[@revision][/file], as files on this machine.

What is fetched is kept in the Hub's own cache, and found there without a network. huggingface_hub is optional.
"""

import re
from pathlib import Path
from typing import Any

PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+?))?/?")
_WANTED = ["*.json", "*.safetensors", "*.npz", "*.yaml"]


def local(path: str | Path) -> Path:
    """The path as it is, `~` expanded; of an address of the Hub, the folder or file in the cache, fetched if need be.

    Raises ValueError for a malformed address or without huggingface_hub, FileNotFoundError for what the Hub does not
    have or, without a network, the cache, OSError for other failures of the network.
    """
    if not str(path).startswith(PREFIX):
        return Path(path).expanduser()
    repo, revision, file = parsed(str(path))
    hub = library()
    try:
        found = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=[file] if file else _WANTED))
    except hub.errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{path}: {repo} has no revision {revision}") from None
    except hub.errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no {repo} at {hub.constants.ENDPOINT}, or it is private: hf auth login"
        ) from None
    except hub.errors.LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"{path} is not in the cache, {hub.constants.HF_HUB_CACHE}, and {hub.constants.ENDPOINT} cannot be reached"
        ) from None
    except (hub.errors.HfHubHTTPError, OSError) as error:
        raise OSError(f"{path}: {str(error).splitlines()[0]}") from error
    if file and not (found / file).is_file():
        raise FileNotFoundError(f"{path}: {repo} has no file {file}")
    return found / file if file else found


def local_table(path: str | Path) -> Path:
    """The file of a solver table at a path or an address; of a folder or a whole repository, its only one.

    Raises what `local` does, FileNotFoundError unless a folder has one such file.
    """
    found = local(path)
    if not found.is_dir():
        return found
    files = sorted(found.glob("*.safetensors"))
    if len(files) != 1:
        named = ", ".join(file.name for file in files) or "none"
        raise FileNotFoundError(f"{path} must have one table, FILE.safetensors, or be its address, and has {named}")
    return files[0]


def parsed(address: str) -> tuple[str, str | None, str | None]:
    """(owner/name, revision, file) of an address; the last two may be None. Raises ValueError if it is malformed."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"an address of the Hub is hf://owner/name[@revision][/file], got {address}")
    return match[1], match[2], match[3]


def library() -> Any:
    """The module huggingface_hub. Raises ValueError if it is not installed."""
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise ValueError("addresses that begin with hf:// need huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub
