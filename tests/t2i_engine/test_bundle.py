import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import t2i_engine.bundle
from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.errors import BundleError, OutputError, UserError
from t2i_engine.formats import Differences
from t2i_engine.manifest import MANIFEST, FileEntry, Manifest, Parity, graphs_of
from t2i_engine.schema import SchemaError
from t2i_engine.tokenizer import Tokenizer
from tests.tiny_model import SIZES, WORDS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=10), values, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle in a folder of the test's own."""
    return shutil.copytree(tiny_bundle, tmp_path / "copied")


def _change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def test_opened_bundle_tells_sizes_formats_and_words(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.name == "tiny"
    assert bundle.sizes == SIZES
    assert "onnx" in [row.name for row in bundle.formats]
    assert bundle.tokenizer().words == WORDS


def test_manifest_round_trip(tiny_bundle: Path) -> None:
    manifest = replace(
        Bundle.open(tiny_bundle).manifest,
        parity={"onnx": Parity(Differences(0.0, 1e-6, 1), Differences(1e-5, 1e-4, 1), cases=3)},
        provenance={"steps": 3, "metrics": {"fid": 13.5}, "notes": [1, None]},
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_manifest_holds_its_license_if_it_has_one(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert b'"license"' not in manifest.to_json()
    licensed = Manifest.from_json(replace(manifest, license="research only").to_json())
    assert Bundle(tiny_bundle, licensed).license == "research only"
    for wrong in ("", "two\nlines", "\x1b[2J", "x" * 501):
        with pytest.raises(ValueError, match="one line of 500 characters expected"):
            replace(manifest, license=wrong)


def test_manifest_holds_the_contract_of_both_graphs(tiny_bundle: Path) -> None:
    graphs = json.loads((tiny_bundle / MANIFEST).read_bytes())["graphs"]
    assert graphs["text_encoder"]["inputs"][0] == {"name": "tokens", "dtype": "int64", "shape": ["B", "T"]}
    assert graphs["generator"]["outputs"][1] == {"name": "pixels", "dtype": "uint8", "shape": ["B", 32, 32, 3]}


def test_generator_without_conditioning_augmentation_has_no_condition_noise() -> None:
    names = [tensor.name for tensor in graphs_of(replace(SIZES, conditioning_augmentation=False))["generator"].inputs]
    assert names == ["noise", "sentence"]


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": 16},
        {"resolution": 48},
        {"resolution": 1 << 20},
        {"base_channels": 0},
        {"noise_width": -1},
        {"sentence_width": 7},
        {"vocabulary_size": 10**9},
    ],
)
def test_sizes_out_of_bounds_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(SIZES, **changes)


def test_embedded_bundle_is_found_by_name(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t2i_engine.bundle, "EMBEDDED", tiny_bundle.parent)
    assert Bundle.open("tiny").folder == tiny_bundle


@pytest.mark.parametrize("name", ["tinny", "missing/folder", "n\0l", "x" * 5000, "\udcff", ""])
def test_unknown_bundle_is_an_error_that_lists_those_there_are(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(t2i_engine.bundle, "EMBEDDED", tiny_bundle.parent)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"available: tiny|one of: tiny|bundle\.json"):
        Bundle.open(name)


def test_unknown_bundle_is_an_error_that_suggests_the_nearest(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(t2i_engine.bundle, "EMBEDDED", tiny_bundle.parent)
    with pytest.raises(BundleError, match=r"unknown bundle 'tinny' \(did you mean 'tiny'\?\)"):
        Bundle.open("tinny")


def test_missing_file_is_named(copied: Path) -> None:
    (copied / "generator.onnx").unlink()
    with pytest.raises(BundleError, match=r"generator\.onnx is missing"):
        Bundle.open(copied).path("generator.onnx")


def test_truncated_file_is_named(copied: Path) -> None:
    content = (copied / "generator.onnx").read_bytes()
    (copied / "generator.onnx").write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"generator\.onnx is truncated"):
        Bundle.open(copied).path("generator.onnx")


@pytest.mark.parametrize("alter", [lambda content: content + b"!", lambda content: content[:-1] + b"\0"])
def test_altered_file_is_named(copied: Path, alter: Callable[[bytes], bytes]) -> None:
    content = (copied / "vocabulary.json").read_bytes()
    (copied / "vocabulary.json").write_bytes(alter(content))
    with pytest.raises(BundleError, match=r"vocabulary\.json is altered"):
        Bundle.open(copied).tokenizer()


def test_file_that_links_out_of_the_bundle_is_refused(copied: Path) -> None:
    outside = (copied / "generator.onnx").rename(copied.parent / "generator.onnx")
    (copied / "generator.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match=r"generator\.onnx is a link to a file outside the bundle"):
        Bundle.open(copied).path("generator.onnx")


@pytest.mark.parametrize("blobs", ["models--me--tiny/blobs", "blobs/ab"], ids=["of the repository", "shared"])
def test_file_in_the_hubs_cache_may_link_to_its_blobs(tiny_bundle: Path, tmp_path: Path, blobs: str) -> None:
    folder, blob = tmp_path / "models--me--tiny" / "snapshots" / "0123", tmp_path / blobs / "4567"
    shutil.copytree(tiny_bundle, folder)
    blob.parent.mkdir(parents=True)
    (folder / "generator.onnx").rename(blob)
    (folder / "generator.onnx").symlink_to(blob)
    assert Bundle.open(folder).read("generator.onnx") == blob.read_bytes()
    elsewhere = blob.rename(tmp_path / "elsewhere")
    (folder / "generator.onnx").unlink()
    (folder / "generator.onnx").symlink_to(elsewhere)
    with pytest.raises(BundleError, match=r"generator\.onnx is a link to a file outside the bundle"):
        Bundle.open(folder).path("generator.onnx")


def test_file_that_is_not_listed_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"lists no file '\.\./secret'"):
        Bundle.open(tiny_bundle).path("../secret")


def test_newer_schema_is_an_error_that_says_to_upgrade(copied: Path) -> None:
    _change_manifest(copied, lambda content: content.update(schema=3))
    with pytest.raises(BundleError, match="schema is 3, this t2i-engine reads 2: update"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(resolution="64"), "model.resolution is '64', a whole number"),
        (lambda content: content["model"].update(resolution=48), "a power of two, 32 or more"),
        (lambda content: content["model"].pop("noise_width"), "model.noise_width is missing"),
        (lambda content: content["model"].update(noise_width=9), "its graphs do not match its model"),
        (
            lambda content: content["files"].update({"../x": content["files"]["vocabulary.json"]}),
            "'../x' is not allowed",
        ),
        (lambda content: content["files"].pop("vocabulary.json"), "'vocabulary.json' is used but not listed"),
        (lambda content: content["files"]["vocabulary.json"].update(sha256="0"), "64 hexadecimal digits"),
        (lambda content: content["tokenizer"].update(rule="spaces"), "the tokenizer's rule is 'spaces'"),
        (lambda content: content.update(colour="red"), "colour is not a known field"),
        (lambda content: content.update(schema="1x"), "its schema is '1x', 2 expected"),
        (lambda content: content.clear(), "its schema is 'None', 2 expected"),
    ],
)
def test_broken_manifest_is_an_error_that_names_the_field(
    copied: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _change_manifest(copied, change)
    with pytest.raises(BundleError) as raised:
        Bundle.open(copied)
    assert message in raised.value.message
    assert str(copied / MANIFEST) in raised.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": NaN}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(copied: Path, content: bytes) -> None:
    (copied / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json cannot be used"):
        Bundle.open(copied)


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no bundle\.json; give an exported bundle's folder"):
        Bundle.open(tmp_path)


@given(st.data())
def test_any_change_to_a_manifest_gives_a_bundle_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, data: st.DataObject
) -> None:
    content = json.loads((tiny_bundle / MANIFEST).read_bytes())
    place = content
    while True:
        keys = st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        key = data.draw(keys)
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(json_values)
    folder = tmp_path_factory.getbasetemp() / "mutated"
    shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(content).replace("Infinity", "1e999"))
    with contextlib.suppress(UserError):
        bundle = Bundle.open(folder)
        assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest
        for file in bundle.manifest.files:
            bundle.path(file)
        bundle.tokenizer()


def test_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    vocabulary = Tokenizer([*WORDS, "owl"]).to_json()
    manifest = Manifest("mixed", SIZES, {"vocabulary.json": FileEntry.of(vocabulary)})
    write_bundle(tmp_path / "mixed", manifest, {"vocabulary.json": vocabulary})
    with pytest.raises(BundleError, match="they belong to different models"):
        Bundle.open(tmp_path / "mixed").tokenizer()


def _manifest(content: bytes) -> Manifest:
    vocabulary = Tokenizer(WORDS).to_json()
    records = {"vocabulary.json": FileEntry.of(vocabulary), "extra.bin": FileEntry.of(content)}
    return Manifest("written", SIZES, records)


def _write(folder: Path, content: bytes) -> Bundle:
    write_bundle(folder, _manifest(content), {"vocabulary.json": Tokenizer(WORDS).to_json(), "extra.bin": content})
    return Bundle.open(folder)


def test_written_bundle_replaces_the_previous_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    _write(tmp_path / "bundle", b"old")
    assert _write(tmp_path / "bundle", b"new").read("extra.bin") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_same_content_writes_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        _write(tmp_path / folder, b"same")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_files_can_be_given_as_paths(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    files: dict[str, bytes | Path] = {"vocabulary.json": Tokenizer(WORDS).to_json(), "extra.bin": tmp_path / "source"}
    write_bundle(tmp_path / "bundle", _manifest(b"content"), files)
    assert Bundle.open(tmp_path / "bundle").read("extra.bin") == b"content"


@pytest.mark.parametrize("call", range(1, 3))
def test_writing_that_is_killed_at_a_rename_leaves_the_previous_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    _write(tmp_path / "bundle", b"old")
    rename, calls = Path.rename, 0

    def killed(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "bundle", b"new")
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "bundle").read("extra.bin") == b"old"
    assert _write(tmp_path / "bundle", b"new").read("extra.bin") == b"new"


def test_folder_that_holds_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="exists and is not a bundle"):
        _write(tmp_path / "home", b"new")
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write the bundle"):
        _write(tmp_path / "file" / "bundle", b"new")


def test_files_that_differ_from_the_manifest_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the manifest lists"):
        write_bundle(tmp_path / "bundle", _manifest(b""), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "message"),
    [(b"NaN", "NaN is not JSON"), (b"-Infinity", "-Infinity is not JSON"), (b"1e999", "'1e999' is too large")],
)
def test_manifest_refuses_numbers_that_it_could_not_write(tiny_bundle: Path, number: bytes, message: str) -> None:
    content = (tiny_bundle / MANIFEST).read_bytes().replace(b'"steps": 0', b'"steps": ' + number)
    with pytest.raises(SchemaError, match=message):
        Manifest.from_json(content)
