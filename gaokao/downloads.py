"""A base from Hugging Face, a mirror of it, or ModelScope; a download that is interrupted goes on where it stopped."""

import hashlib
import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from gaokao.config import HUGGINGFACE, MODELSCOPE
from gaokao.errors import Interrupted, UserError, disk_full, first_line

# What a model needs to be loaded: never *.bin or *.pt, which can run code when they are read; *.py only where asked for.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "LICENSE*"]
KEPT = "what has arrived is kept, and the same command goes on where it stopped"


def download(
    name: str, hub: str, revision: str | None, trust_remote_code: bool = False, say: Callable[[str], None] = print
) -> Path:
    """The local folder of a model on a hub, after fetching what is not there yet.

    Args:
        name: owner/name on the hub.
        hub: `huggingface`, `modelscope`, or the address of a mirror of Hugging Face.
        revision: branch, tag or commit; `None` for the default.
        trust_remote_code: fetch the model's Python files as well.
        say: prints a line of progress.

    Raises:
        UserError: the download failed; with the ways around.
        Interrupted: Ctrl-C.
    """
    fetch = _modelscope() if hub == MODELSCOPE else _huggingface(None if hub == HUGGINGFACE else hub, say)
    files = [*HUB_FILES, "*.py"] if trust_remote_code else HUB_FILES
    try:
        return Path(fetch(name, revision, files))
    except KeyboardInterrupt:
        raise Interrupted(f"in the download of {name}; {KEPT}") from None
    # The clients raise dozens of types, and those of their transports (a refused proxy, a connection that breaks off in
    # the middle of a file) have nothing in common but Exception; whichever it is, the remedy is the same.
    except Exception as error:
        if disk_full(error):
            raise UserError(
                f"model.base = {name}: the disk is full ({first_line(error)}); {KEPT}. Make room, or set the variable HF_HOME "
                "(ModelScope: MODELSCOPE_CACHE) to a folder on another disk"
            ) from error
        ways = (
            "set model.hub: huggingface"
            if hub == MODELSCOPE
            else "set model.hub: modelscope (pip install modelscope; reached from mainland China) or to the address of a "
            "mirror, such as https://hf-mirror.com"
        )
        raise UserError(
            f"model.base = {name}: cannot be downloaded from {hub} ({first_line(error)}). Check the name, the network and the "
            f"proxy, and run the same command again: {KEPT}. Or {ways}, or download it elsewhere and set model.base to the "
            "folder"
        ) from error


Fetch = Callable[[str, str | None, list[str]], str]


def _modelscope() -> Fetch:
    """Its own client, which goes on in the middle of a file."""
    try:
        import modelscope
    except ImportError:
        raise UserError("model.hub = modelscope needs its client: pip install modelscope") from None
    return lambda name, revision, files: str(
        modelscope.snapshot_download(name, revision=revision, allow_patterns=files)
    )


def _huggingface(endpoint: str | None, say: Callable[[str], None]) -> Fetch:
    """Its own client, after the large files: it would begin one anew that was interrupted.

    https://github.com/huggingface/huggingface_hub/issues/4196
    """
    import huggingface_hub

    def fetch(name: str, revision: str | None, files: list[str]) -> str:
        _fetch_large(name, revision, files, endpoint, say)
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files, endpoint=endpoint)

    return fetch


class _Large(NamedTuple):
    """A large file of a repository, and where the hub's cache keeps it once it is whole."""

    url: str
    size: int
    blob: Path
    target: Path
    """Where it goes: the blob, or its place in the snapshot where the disk knows no links, so that it is there once."""

    @property
    def part(self) -> Path:
        """What has arrived of it."""
        return self.blob.with_name(f"{self.blob.name}.part")

    @property
    def arrived(self) -> int:
        """Bytes of it."""
        return self.part.stat().st_size if self.part.exists() else 0


def _fetch_large(
    name: str, revision: str | None, files: list[str], endpoint: str | None, say: Callable[[str], None]
) -> None:
    """Put the large files of a repository into the hub's cache, over plain HTTP, which mirrors have as well."""
    try:
        missing = _missing(name, revision, files, endpoint)
    # Without a network, or with a wrong name, the client finds what is cached or says what is wrong.
    except Exception:  # noqa: BLE001
        return
    if not missing:
        return
    arrived, total = (sum(sizes) / 1e9 for sizes in zip(*((one.arrived, one.size) for one in missing), strict=True))
    where = f"goes on at {arrived:.2f} of {total:.2f} GB" if arrived else f"{total:.2f} GB"
    say(f"download  {name}: {where}; Ctrl-C keeps what has arrived")
    for one in missing:
        one.blob.parent.mkdir(parents=True, exist_ok=True)
        # Another process that wants the same base waits, and finds the file.
        with FileLock(one.part.with_suffix(".lock")):
            if not one.target.exists():
                _fetch_one(one)


def _missing(name: str, revision: str | None, files: list[str], endpoint: str | None) -> list[_Large]:
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name

    api = HfApi(endpoint=endpoint)
    commit = api.model_info(name, revision=revision).sha
    cached = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    blobs, linked = cached / "blobs", are_symlinks_supported(HF_HUB_CACHE)
    found = []
    for entry in api.list_repo_tree(name, recursive=True, revision=commit):
        large = getattr(entry, "lfs", None) is not None and any(fnmatch(entry.path, pattern) for pattern in files)
        if not large or isinstance(try_to_load_from_cache(name, entry.path, revision=commit), str):
            continue
        url = hf_hub_url(name, entry.path, revision=commit, endpoint=endpoint)
        about = get_hf_file_metadata(url, endpoint=endpoint)
        if about.etag and about.size and not (blobs / about.etag).exists():
            blob = blobs / about.etag
            found.append(
                _Large(url, about.size, blob, blob if linked else cached / "snapshots" / str(commit) / entry.path)
            )
    return found


def _fetch_one(file: _Large) -> None:
    """The rest of a file; one that went on is compared with its SHA-256, for two halves could be of different files."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if file.arrived > file.size:
        file.part.unlink()
    before = file.arrived
    with file.part.open("ab") as stream:
        http_get(file.url, stream, resume_size=before, headers=build_hf_headers(), expected_size=file.size)
    if before and re.fullmatch("[0-9a-f]{64}", file.blob.name):
        with file.part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != file.blob.name:
            file.part.unlink()
            raise OSError(f"{file.url} arrived damaged and is fetched from its beginning the next time")
    file.target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file.part, file.target)
