"""Bundle: a folder with a model's graphs, vocabulary and manifest, checked when opened and written atomically."""

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from t2i_engine.errors import BundleError, OutputError, listed, quoted, unknown
from t2i_engine.files import check_file, is_hub_snapshot
from t2i_engine.formats import Format, all_formats
from t2i_engine.manifest import MANIFEST, Graph, Manifest, ModelSizes, OldSchemaError, graphs_of
from t2i_engine.schema import SchemaError
from t2i_engine.tokenizer import Tokenizer

HUB = "hf:"
EMBEDDED = Path(__file__).parent / "bundles"

_LARGEST_MANIFEST = 16 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. The manifest is checked; a file is checked against its SHA-256 when it is first used."""

    folder: Path
    manifest: Manifest
    _checked: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def open(cls, name_or_folder: str | Path) -> "Bundle":
        """Opens an embedded bundle by name, any by folder, or one on the hub by `hf:OWNER/NAME@REVISION` (hub.py).

        A name takes precedence over a folder of that name (write ./NAME for the folder). Raises `BundleError` if there
        is no bundle, or its manifest is broken or has another schema; from the hub, what `hub.pull` raises.
        """
        if isinstance(name_or_folder, str) and name_or_folder.startswith(HUB):
            from t2i_engine.hub import pull

            return pull(name_or_folder)
        folder = _locate(name_or_folder)
        file = folder / MANIFEST
        try:
            if file.stat().st_size > _LARGEST_MANIFEST:
                raise BundleError(f"{file} is too large to be a manifest; export the bundle again")
            manifest = Manifest.from_json(file.read_bytes())
        except FileNotFoundError:
            raise BundleError(f"{quoted(str(folder))} has no {MANIFEST}; give an exported bundle's folder") from None
        except OSError as error:
            raise BundleError(f"{file} cannot be read ({error.strerror}); give another bundle") from None
        except OldSchemaError as error:
            command = f"t2i-engine migrate {shlex.quote(str(folder))}"
            raise BundleError(f"{file} was written by an earlier version: {error}; run {command}") from None
        except SchemaError as error:
            raise BundleError(f"{file} cannot be used: {error}") from None
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        """The bundle's name in its manifest."""
        return self.manifest.name

    @property
    def license(self) -> str | None:
        """The terms under which the model may be used, in one printable line; None if the manifest states none."""
        return self.manifest.license

    @property
    def sizes(self) -> ModelSizes:
        """The model's sizes."""
        return self.manifest.model

    @property
    def graphs(self) -> dict[str, Graph]:
        """Inputs and outputs of both graphs."""
        return graphs_of(self.sizes)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that were verified, or built where they could not run, in the table's order."""
        listed_formats = self.manifest.parity.keys() | self.manifest.unverified.keys()
        files = self.manifest.files.keys()
        return tuple(row for row in all_formats() if row.name in listed_formats and row.all_files <= files)

    def path(self, file: str) -> Path:
        """The path of a file, checked. Raises `BundleError` if it is missing, truncated or altered."""
        entry = self.manifest.files.get(file)
        if entry is None:
            raise BundleError(
                f"bundle {self.name!r} lists no file {quoted(file)}; it has: {listed(self.manifest.files)}"
            )
        path = self.folder / file
        if file not in self._checked:
            check_file(path, entry.size, entry.sha256)
            self._checked.add(file)
        return path

    def read(self, file: str) -> bytes:
        """The content of a file, checked against its SHA-256."""
        return self.path(file).read_bytes()

    def tokenizer(self, exact_words: bool = False) -> Tokenizer:
        """The bundle's tokenizer; with `exact_words`, one that never reads an unknown word as a known one.

        Raises `BundleError` if the vocabulary, the near words and the model do not match.
        """
        file, near_file = self.manifest.tokenizer.vocabulary, self.manifest.tokenizer.near_words
        tokenizer = Tokenizer.from_json(self.read(file), str(self.folder / file), self.sample_captions)
        if len(tokenizer.words) != self.sizes.vocabulary_size:
            raise BundleError(
                f"{self.folder / file} has {len(tokenizer.words)} words, but the model has "
                f"{self.sizes.vocabulary_size}: they belong to different models; export the bundle again"
            )
        if near_file and not exact_words:
            return tokenizer.with_near_words(self.read(near_file), str(self.folder / near_file))
        return tokenizer

    @property
    def sample_captions(self) -> list[str]:
        """The captions that training drew samples of, if the provenance lists them."""
        config = self.manifest.provenance.get("config")
        captions = config.get("sample_captions") if isinstance(config, dict) else None
        return [caption for caption in captions if isinstance(caption, str)] if isinstance(captions, list) else []


def embedded_names() -> list[str]:
    """Names of the bundles shipped with the package."""
    return sorted(manifest.parent.name for manifest in EMBEDDED.glob(f"*/{MANIFEST}"))


def check_target(folder: Path) -> None:
    """Raises `OutputError` if `folder` cannot be written, or if it holds anything but an older bundle."""
    try:
        _restore(folder)
        if is_hub_snapshot(folder):
            raise OutputError(
                f"{folder} belongs to the hub's cache; change a copy: cp -rL {shlex.quote(str(folder))} DIR"
            )
        if Path.cwd().is_relative_to(folder.resolve()):
            raise OutputError(f"{folder} is the current folder or a parent of it; choose a new folder")
        nearest = next(parent for parent in folder.absolute().parents if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write the bundle {folder} ({nearest} cannot be written); choose another folder")
        if folder.exists():
            _check_replaceable(folder)
    except OSError as error:
        raise OutputError(f"cannot write the bundle {folder} ({error.strerror}); choose another folder") from None


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Path:
    """Writes a bundle atomically and returns its folder: a crash at any moment leaves the previous one.

    `files` holds the content of every file listed in the manifest. The bundle is written next to `folder` and swapped
    in. Raises `OutputError` as `check_target` does, or if writing fails.
    """
    if files.keys() != manifest.files.keys():
        raise ValueError(f"files {sorted(files)} given, the manifest lists {sorted(manifest.files)}")
    partial, previous = _sibling(folder, "partial"), _sibling(folder, "previous")
    try:
        check_target(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (partial / name).write_bytes(content)
            else:
                shutil.copyfile(content, partial / name)
            check_file(partial / name, manifest.files[name].size, manifest.files[name].sha256)
        (partial / MANIFEST).write_bytes(manifest.to_json())
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write the bundle {folder} ({error.strerror}); choose another folder") from None
    return folder


def _locate(name_or_folder: str | Path) -> Path:
    name = str(name_or_folder)
    if isinstance(name_or_folder, str) and name in embedded_names():
        return EMBEDDED / name
    folder = Path(name_or_folder)
    try:
        _restore(folder)
        if folder.is_dir():
            return folder
        if os.sep in name or folder.is_file():
            known = listed(embedded_names())
            raise BundleError(f"{quoted(name)} is not a folder; give a bundle's folder, or one of: {known}")
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL
        pass
    raise BundleError(f"{unknown('bundle', name, embedded_names())}; or give a bundle's folder")


def _sibling(folder: Path, role: str) -> Path:
    absolute = folder.absolute()
    return absolute.with_name(f".{absolute.name}.{role}")


def _restore(folder: Path) -> None:
    """Completes a swap interrupted between its two renames, the only moment at which the folder does not exist."""
    if folder.name and not folder.exists() and (_sibling(folder, "previous") / MANIFEST).is_file():
        _sibling(folder, "previous").rename(folder)


def _check_replaceable(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    if MANIFEST not in names:
        raise OutputError(f"{folder} exists and is not a bundle; choose a new folder")
    try:
        replaced = {MANIFEST, *Manifest.from_json((folder / MANIFEST).read_bytes()).files}
    except OldSchemaError as error:
        raise OutputError(f"{folder} is a bundle of an earlier version: {error}; or choose a new folder") from None
    except SchemaError as error:
        raise OutputError(f"{folder / MANIFEST} is not a bundle's manifest ({error}); choose a new folder") from None
    kept = [name for name in names if name not in replaced]
    if kept:
        raise OutputError(
            f"{folder} holds {quoted(kept[0])}, which is not part of the bundle; move it, or choose a new folder"
        )
