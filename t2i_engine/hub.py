"""Bundles on the Hugging Face hub: pushed as one commit, pulled into the hub's own cache and checked there.

An address is `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION` with a branch, a tag or a commit. Only a commit is permanent.
huggingface_hub's environment variables (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, …) apply here too.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from t2i_engine.bundle import HUB, Bundle
from t2i_engine.engine import Engine
from t2i_engine.errors import BundleError, MissingExtra, OptionError, OutputError, UserError, quoted
from t2i_engine.formats import all_formats
from t2i_engine.manifest import MANIFEST
from t2i_engine.model_card import PICTURES, model_card
from t2i_engine.pictures import grid
from t2i_engine.reference import read_reference

SEEDS = range(4)
MOST_CAPTIONS = 8
CARD = "README.md"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_ADDRESS = re.compile(rf"{HUB}({_NAME}/{_NAME})(?:@((?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
_ANYWHERE = {CARD, ".gitattributes"}  # created by the hub's page with a new repository

_log = logging.getLogger(__name__)


def pull(address: str) -> Bundle:
    """Opens `hf:OWNER/NAME[@REVISION]`, checking every file; downloads those that are not in the hub's cache.

    Without a network, or with HF_HUB_OFFLINE=1, opens the cached bundle. A damaged file in the cache is downloaded
    again. Raises `MissingExtra` without the extra `hub`, and `BundleError` if the address is malformed, there is no
    bundle at it, the hub cannot be reached, or a file does not match the manifest.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise BundleError(
            f"{quoted(address)} is not a bundle on the hub; hf:OWNER/NAME or hf:OWNER/NAME@REVISION expected"
        )
    repository, revision = match.groups()
    _need_library(address)
    from huggingface_hub import resolve_revision

    with _one_line(address, BundleError):
        commit = resolve_revision(repository, revision=revision).resolved
        pinned = f"{HUB}{repository}@{commit}"
        bundle = _opened(repository, commit)
        for file in bundle.manifest.files:
            _download(repository, commit, file)
            if not _is_whole(bundle, file):
                _download(repository, commit, file, again=True)
                if not _is_whole(bundle, file):
                    raise BundleError(f"{pinned}: {file} does not match its manifest; push the bundle again")
    if address != pinned:
        _log.info("%s is now at %s; give that to pin it", address, pinned)
    return bundle


def push(bundle: Bundle, repository: str, private: bool = False) -> str:
    """Uploads a bundle with a model card and pictures as one commit; returns its address, with the commit.

    Creates the repository, `OWNER/NAME`, if it does not exist; a new one is private if `private`. Replaces an earlier
    bundle in it, but nothing else. Raises `MissingExtra` without the extra `hub`, `OptionError` for a malformed name,
    `OutputError` if the hub refuses, cannot be reached or holds something else there, and what drawing raises.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise OptionError(f"{quoted(repository)} is not a repository; OWNER/NAME expected")
    _need_library("t2i-engine push")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise OutputError("pushing needs a hub token with write access: run hf auth login, or set HF_TOKEN")
    files: dict[str, Path | bytes] = {file: bundle.path(file) for file in bundle.manifest.files}
    files[MANIFEST] = bundle.folder / MANIFEST
    captions, files[PICTURES] = _drawn(bundle)
    files[CARD] = model_card(bundle, repository, captions, SEEDS).encode()
    api = HfApi(library_name="t2i-engine", library_version=version("t2i-engine"))
    with _one_line(HUB + repository, OutputError):
        api.create_repo(repository, private=private or None, exist_ok=True)
        found = api.model_info(repository)
        held = {file.rfilename for file in found.siblings or ()}
        if MANIFEST not in held and held - _ANYWHERE:
            raise OutputError(
                f"{HUB}{repository} holds {quoted(min(held - _ANYWHERE))} but no bundle; choose a new name"
            )
        if private and not found.private:
            raise OutputError(
                f"{HUB}{repository} already exists and is public; make it private on its page, or choose a new name"
            )
        stale = held.intersection(file for row in all_formats() for file in row.all_files) - files.keys()
        commit = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(file, content) for file, content in files.items()),
                *(CommitOperationDelete(file) for file in sorted(stale)),
            ],
            commit_message=f"Push bundle {bundle.name}",
            parent_commit=found.sha,
        )
    return f"{HUB}{repository}@{commit.oid}"


def _need_library(what: str) -> None:
    try:
        import httpx2  # noqa: F401  # huggingface_hub raises its errors
        from huggingface_hub import resolve_revision  # noqa: F401  # another package may have installed an older one
    except ImportError:
        raise MissingExtra(what, "the package huggingface_hub, 2.0 or later", "hub") from None


def _drawn(bundle: Bundle) -> tuple[list[str], bytes]:
    """The captions that the bundle's training sampled, or those of its reference, and a grid of pictures as PNG."""
    captions = (bundle.sample_captions or [str(caption) for caption in read_reference(bundle).captions])[:MOST_CAPTIONS]
    with Engine.open(bundle.folder) as engine, TemporaryDirectory() as scratch:
        pictures = grid(list(engine.generate_all(captions, SEEDS)), len(SEEDS))
        return captions, pictures.save(Path(scratch) / "pictures.png").read_bytes()


def _download(repository: str, commit: str, file: str, again: bool = False) -> Path:
    """The path of a file in the hub's cache, downloaded if it is missing, or `again` if it is damaged."""
    from huggingface_hub import hf_hub_download, is_offline_mode
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if again and is_offline_mode():
        raise BundleError(
            f"{file} of {HUB}{repository}@{commit} is damaged in the hub's cache; unset HF_HUB_OFFLINE once"
        )
    try:
        return Path(hf_hub_download(repository, file, revision=commit, force_download=again))
    except RemoteEntryNotFoundError:
        raise BundleError(
            f"{HUB}{repository}@{commit} is not a bundle, it has no {file}; run t2i-engine push BUNDLE {repository}"
        ) from None


def _opened(repository: str, commit: str) -> Bundle:
    folder = _download(repository, commit, MANIFEST).parent
    try:
        return Bundle.open(folder)
    except BundleError:
        with suppress(ValueError):
            json.loads((folder / MANIFEST).read_bytes())
            raise  # it is whole, but of another schema
        return Bundle.open(_download(repository, commit, MANIFEST, again=True).parent)


def _is_whole(bundle: Bundle, file: str) -> bool:
    try:
        bundle.path(file)
    except BundleError:
        return False
    return True


@contextmanager
def _one_line(address: str, kind: type[UserError]) -> Iterator[None]:
    """Turns what huggingface_hub raises into an error of this `kind` that says what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise kind(f"{address}: there is no such revision; give a branch, a tag or a commit") from None
    except errors.RepositoryNotFoundError:
        raise kind(
            f"{address} is not on {constants.ENDPOINT}, or is private; check the name, or run hf auth login"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise kind(f"{address} cannot be reached while HF_HUB_OFFLINE is set; unset it") from None
    except (errors.LocalEntryNotFoundError, errors.RevisionResolutionError):
        why, cure = (
            ("HF_HUB_OFFLINE is set", "unset it once")
            if constants.is_offline_mode()
            else (f"{constants.ENDPOINT} cannot be reached", "check the network")
        )
        raise kind(f"{address} is not in the hub's cache, and {why}; {cure}") from None
    except errors.HfHubHTTPError as error:
        status, said = error.response.status_code, error.server_message or error.response.reason_phrase
        cure = "run hf auth login with a token that may do this" if status in (401, 403) else "try again later"
        raise kind(f"{address}: the hub answered {status} ({said}); {cure}") from None
    except (httpx2.HTTPError, errors.XetDownloadError, OSError, RuntimeError, ValueError) as error:
        raise kind(f"{address}: {error.__cause__ or error}; try again: complete files are kept") from None
