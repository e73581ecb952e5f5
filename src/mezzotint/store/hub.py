"""Models from a hub, by the names OWNER/NAME and OWNER/NAME/FILE, through huggingface_hub and its cache.

What is in the cache is read from there without a network. Of a repository only what is read here is fetched: one file
of weights for each part, not every precision and every framework of it. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mezzotint.store.facts import read_json
from mezzotint.store.layout import REST, is_model_folder
from mezzotint.types import UserError

Found = TypeVar("Found")

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w. /-]+)?")
WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>[a-z]\w*))?(-\d+-of-\d+)?\.(?P<format>safetensors|bin)"
)
SINGLE = (".safetensors", ".ckpt")
TIMEOUT = 10
"""Seconds that the hub has for an answer."""
UNREAD = ("safety_checker", "feature_extractor", "image_encoder")
"""Folders of a repository that drawing from words has no use for."""


def is_hub_name(name: str) -> bool:
    """Whether it has the form OWNER/NAME or OWNER/NAME/FILE."""
    return NAME.fullmatch(name) is not None and ".." not in name


def fetched(name: str, *, half: bool = False) -> Path:
    """The folder, or the file, that a hub name stands for, from the cache or else fetched into it.

    `half` prefers weights of 16 bits where a repository has both. Raises UserError where there is no such model, where
    it is not in the cache and there is no network, or where it holds nothing that is read here.
    """
    owner, repository, *file = name.split("/", 2)
    repo = f"{owner}/{repository}"
    from huggingface_hub import hf_hub_download, snapshot_download

    cached = _cached(repo, *file)
    if cached is not None:
        return cached
    files = _online(repo, lambda: _listed(repo))
    if file:
        if file[0] not in files:
            raise UserError(f"{repo} on the hub has no file {file[0]}: check the name.")
        return Path(_online(repo, lambda: hf_hub_download(repo, file[0])))
    wanted = chosen(files, half=half)
    if not wanted:
        raise UserError(
            f"{repo} on the hub has neither a diffusers folder nor a checkpoint file: choose another model."
        )
    if "model_index.json" not in wanted:
        if len(wanted) > 1:
            raise UserError(f"{repo} on the hub has several checkpoints: give one of {_several(repo, wanted)}.")
        return Path(_online(repo, lambda: hf_hub_download(repo, wanted[0])))
    return Path(_online(repo, lambda: snapshot_download(repo, allow_patterns=wanted)))


def check_known(repo: str) -> None:
    """Raise UserError where a repository OWNER/NAME of transformers is neither in the cache nor found on the hub."""
    _online(repo, lambda: _cached(repo, "config.json") or _listed(repo))


def chosen(files: Iterable[str], *, half: bool = False) -> list[str]:
    """What to fetch of a repository's files: of a diffusers folder what is read, else the checkpoints at its top."""
    names = sorted(files)
    if "model_index.json" not in names:
        return [name for name in names if "/" not in name and name.endswith(SINGLE)]
    keep = ["model_index.json"] + [name for name in names if name in ("mezzotint.json", REST)]
    parts: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if len(path.parts) == 2 and path.parts[0] not in UNREAD:
            parts.setdefault(path.parts[0], []).append(name)
    for members in parts.values():
        keep += [name for name in members if name.endswith((".json", ".txt")) and not name.endswith("index.json")]
        keep += _weights(members, half=half)
    return keep


def _weights(members: list[str], *, half: bool) -> list[str]:
    """One set of weights of a part, with the index of its shards: safetensors before pickles, then by precision."""
    sets: dict[tuple[int, int, str], list[str]] = {}
    for name in members:
        found = WEIGHTS.fullmatch(PurePosixPath(name).name)
        if found is not None and (found["variant"] or "fp32") in ("fp32", "fp16", "bf16"):
            wide = found["variant"] in (None, "fp32")
            key = (int(found["format"] == "bin"), int(wide == half), found["variant"] or "")
            sets.setdefault(key, []).append(name)
    if not sets:
        return []
    (pickled, _, variant), best = min(sets.items())
    ending = "bin" if pickled else "safetensors"
    indices = [name for name in members if re.search(rf"\.{ending}\.", name) and name.endswith("index.json")]
    indices += [name for name in members if name.endswith(f".{ending}.index.{variant}.json")]
    own = [name for name in indices if (f".{variant}." in name) == bool(variant)]
    return best + [name for name in own if any("-of-" in shard for shard in best)]


def _cached(repo: str, file: str = "") -> Path | None:
    """The repository's folder in the cache, where all that is read of it is there; or its one checkpoint, or a file."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if file != "":
            return Path(hf_hub_download(repo, file, local_files_only=True))
        folder = Path(snapshot_download(repo, local_files_only=True))
    except OSError:
        return None
    if is_model_folder(folder):
        index = read_json(folder / "model_index.json")
        parts = [part for part, entry in index.items() if isinstance(entry, list) and entry[1:] not in ([], [None])]
        there = [part for part in parts if part not in UNREAD]
        return folder if all(_filled(folder / part) for part in there) else None
    singles = [path for path in folder.iterdir() if path.name.endswith(SINGLE)]
    return singles[0] if len(singles) == 1 else None


def _filled(folder: Path) -> bool:
    """Whether a part's folder holds its weights, all shards of them, or is of a kind that has none."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if path.exists()}
    if not (folder / "config.json").exists():
        return bool(names)
    shards = [re.fullmatch(r".*-(\d+)-of-(\d+)\.\w+", name) for name in names]
    counts = [int(shard[2]) for shard in shards if shard]
    whole = any(WEIGHTS.fullmatch(name) and "-of-" not in name for name in names)
    return whole or (bool(counts) and len(counts) >= max(counts))


def _listed(repo: str) -> list[str]:
    """The files of a repository, asked for once: other calls try an unreachable hub for half a minute."""
    from huggingface_hub import HfApi

    return [entry.rfilename for entry in HfApi().model_info(repo, timeout=TIMEOUT).siblings or []]


def _online(repo: str, ask: Callable[[], Found]) -> Found:
    """What the hub answers. Raises UserError where it refuses or cannot be reached."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return ask()
    except GatedRepoError as error:
        raise UserError(f"{repo} on the hub wants its terms accepted first: do so there, and log in.") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"There is no model {repo!r} here or on the hub: check the name, or log in to it.") from error
    except Exception as error:  # Its client's own errors are of another library in every major version.
        if isinstance(error, EntryNotFoundError | HfHubHTTPError) and not isinstance(error, FileNotFoundError):
            raise UserError(f"The hub did not give {repo}: {' '.join(str(error).split())[:200]}") from error
        raise UserError(
            f"{repo} is no folder or file here and not in the hub's cache, and the hub cannot be reached: check the "
            "name and the network."
        ) from error


def _several(repo: str, files: list[str]) -> str:
    shown = ", ".join(f"{repo}/{name}" for name in files[:4])
    return shown + (f" and {len(files) - 4} more" if len(files) > 4 else "")
