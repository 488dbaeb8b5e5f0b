"""The Hugging Face hub, against a stub of its HTTP API: push, pull, and everything that may be wrong."""

import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from t2i_engine.bundle import Bundle, write_bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.errors import BundleError, MissingExtra, OptionError, OutputError
from t2i_engine.hub import push
from t2i_engine.manifest import MANIFEST
from tests.t2i_engine.hub_stub import TOKEN, HubStub, Repository

CAPTION = "a red bird"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStub]:
    """The stub, and huggingface_hub imported anew: it reads the environment when it is imported."""
    modules = {name: module for name, module in sys.modules.items() if _is_the_hubs(name)}

    stub = HubStub()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HF_")]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", stub.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        _replace_modules({})
        yield stub
    _replace_modules(modules)
    stub.shutdown()
    stub.server_close()


def _is_the_hubs(module: str) -> bool:
    return module.partition(".")[0] == "huggingface_hub"


def _replace_modules(modules: dict[str, ModuleType]) -> None:
    for name in list(filter(_is_the_hubs, sys.modules)):
        del sys.modules[name]
    sys.modules.update(modules)


@pytest.fixture
def hub(started: HubStub, monkeypatch: pytest.MonkeyPatch) -> HubStub:
    """The stub, nothing asked of it yet, and a token; downloads are retried at once."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    started.requests.clear()
    started.breaks.clear()
    return started


@pytest.fixture
def name(hub: HubStub, plain_bundle: Path) -> str:
    """A repository of the test's own, which holds the bundle; the cache holds nothing of it."""
    name = f"me/tiny-{len(hub.repositories)}"
    repository = hub.repositories[name] = Repository()
    repository.commit({file.name: file.read_bytes() for file in plain_bundle.iterdir()})
    return name


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def failure(*arguments: str) -> str:
    """The one line of a command that ends with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if HF_HUB_OFFLINE=1 had been set when huggingface_hub was imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_what_is_pushed_draws_the_same_pictures_when_it_is_pulled(hub: HubStub, plain_bundle: Path) -> None:
    result = run("push", str(plain_bundle), "me/whole")
    address = f"hf:me/whole@{hub.repositories['me/whole'].head}"
    assert result.stdout == f"{address}\n"
    with Engine.open(plain_bundle) as here, Engine.open(address) as there:
        assert there.bundle.manifest == here.bundle.manifest
        np.testing.assert_array_equal(there.generate(CAPTION).pixels, here.generate(CAPTION).pixels)


def test_push_is_one_commit_and_the_same_bundle_makes_none(hub: HubStub, plain_bundle: Path) -> None:
    bundle = Bundle.open(plain_bundle)
    first = push(bundle, "me/once", private=True)
    repository = hub.repositories["me/once"]
    assert repository.private
    assert len(repository.commits) == 2  # and the one that made the repository
    assert push(bundle, "me/once") == first
    assert len(repository.commits) == 2
    assert {MANIFEST, "README.md", "card/pictures.png", *bundle.manifest.files} <= repository.files.keys()


def test_a_bundle_replaces_the_former_one_and_nothing_else(hub: HubStub, plain_bundle: Path) -> None:
    former = {MANIFEST: b"{}", "generator.fp16.onnx": b"former", "notes.txt": b"mine"}
    hub.repositories["me/grown"] = Repository()
    hub.repositories["me/grown"].commit(former)
    push(Bundle.open(plain_bundle), "me/grown")
    files = hub.repositories["me/grown"].files
    assert files["notes.txt"] == b"mine"
    assert files[MANIFEST] == (plain_bundle / MANIFEST).read_bytes()
    assert "generator.fp16.onnx" not in files


def test_card_tells_what_the_manifest_does(hub: HubStub, plain_bundle: Path, tmp_path: Path) -> None:
    provenance = {
        "dataset": {"source": "cub|<b>", "pictures": 8855},
        "metrics": {"evaluations": [{"data": "cub", "captions": 9, "fid": {"value": 38.79, "pictures": 9}}]},
        "config": {"sample_captions": [CAPTION, "a blue bird"]},
    }
    manifest = replace(Bundle.open(plain_bundle).manifest, provenance=provenance, license="research only")
    folder = write_bundle(tmp_path / "bundle", manifest, {file: plain_bundle / file for file in manifest.files})
    push(Bundle.open(folder), "me/card")
    files = hub.repositories["me/card"].files
    _, head, card = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "pipeline_tag": "text-to-image",
        "library_name": "t2i-engine",
        "license": "other",
        "tags": ["gan", "onnx"],
    }
    for part in (
        "| license | research only |",
        "| data | cub\\|&lt;b>, 8,855 pictures |",
        "| FID | 38.8 (9 pictures) |",
        "| onnx | onnxruntime | fp32 | sentence ",
        "*Seeds 0 to 3 of a red bird · a blue bird;",
        "t2i-engine generate 'a red bird' --bundle hf:me/card\n",
        'Engine.open("hf:me/card")',
        "![Pictures](card/pictures.png)",
    ):
        assert part in card
    assert Image.open(io.BytesIO(files["card/pictures.png"])).size == (4 * 32, 2 * 32)


def test_known_license_is_named_as_the_hub_does(hub: HubStub, plain_bundle: Path, tmp_path: Path) -> None:
    manifest = replace(Bundle.open(plain_bundle).manifest, license="Apache-2.0")
    folder = write_bundle(tmp_path / "bundle", manifest, {file: plain_bundle / file for file in manifest.files})
    push(Bundle.open(folder), "me/apache")
    assert b"\nlicense: apache-2.0\n" in hub.repositories["me/apache"].files["README.md"]


def test_a_branch_is_followed_and_its_commit_told(hub: HubStub, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "t2i_engine")
    repository = hub.repositories[name]
    first = repository.head
    Bundle.open(f"hf:{name}")
    assert caplog.messages == [f"hf:{name} is now at hf:{name}@{first}; give that to pin it"]
    manifest = json.loads(repository.files[MANIFEST])
    repository.commit(repository.files | {MANIFEST: json.dumps(manifest | {"name": "second"}).encode()})
    assert Bundle.open(f"hf:{name}@main").name == "second"
    caplog.clear()
    assert Bundle.open(f"hf:{name}@{first}").name == "tiny"
    assert caplog.messages == []


def test_pinned_bundle_in_the_cache_needs_no_request(hub: HubStub, name: str) -> None:
    address = f"hf:{name}@{hub.repositories[name].head}"
    Bundle.open(address)
    hub.requests.clear()
    Bundle.open(address)
    assert hub.requests == []


def test_deployed_bundle_is_pinned_to_its_commit(hub: HubStub, name: str, tmp_path: Path) -> None:
    commit = hub.repositories[name].head
    for address in (f"hf:{name}", f"hf:{name}@main"):
        out = tmp_path / address[-4:]
        assert run("deploy", "ray", address, "--out", str(out)).exit_code == 0
        assert f'Pictures.bind("hf:{name}@{commit}", ' in (out / "app.py").read_text("utf-8")
        assert not (out / "bundle").exists()


def test_bundle_in_the_cache_opens_offline(hub: HubStub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Bundle.open(f"hf:{name}")
    offline(monkeypatch)
    hub.requests.clear()
    with Engine.open(f"hf:{name}", backend="onnxruntime") as engine:
        assert engine.generate(CAPTION).bundle == "tiny"
    assert hub.requests == []


def test_bundle_that_is_not_in_the_cache_does_not_open_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    line = failure("info", f"hf:{name}")
    assert line == f"Error: hf:{name} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it once\n"


def test_without_network_the_cache_is_used(hub: HubStub, name: str, plain_bundle: Path) -> None:
    Bundle.open(f"hf:{name}")
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    script = "import sys; from t2i_engine.bundle import Bundle; print(Bundle.open(sys.argv[1]).name)"
    command = [sys.executable, "-c", script, f"hf:{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "tiny\n", done.stderr


def test_without_network_and_cache_the_error_is_one_line() -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "t2i_engine", "info", "hf:me/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: hf:me/nowhere is not in the hub's cache, and http://127.0.0.1:9 cannot be reached; check the network\n"
    )


def test_download_that_breaks_off_goes_on_where_it_stopped(
    hub: HubStub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is not a whole chunk is lost
    hub.breaks["generator.onnx"] = 1
    Bundle.open(f"hf:{name}")
    arrived = len(hub.repositories[name].files["generator.onnx"]) // 2
    ranges = [line.rpartition(" ")[2] for line in hub.requests if "generator.onnx bytes=" in line]
    assert ranges == [f"bytes={arrived - arrived % 1000}-"]


def test_after_a_failed_download_what_is_complete_is_kept(hub: HubStub, name: str) -> None:
    hub.breaks["text_encoder.onnx"] = 1000
    line = failure("info", f"hf:{name}")
    assert line.startswith(f"Error: hf:{name}: ")
    assert line.endswith("try again: complete files are kept\n")
    cache = Path(os.environ["HF_HOME"]) / "hub"
    assert list(cache.rglob("*.incomplete")) == []
    hub.breaks.clear()
    hub.requests.clear()
    assert run("info", f"hf:{name}").exit_code == 0
    downloads = {line.rpartition("/")[2] for line in hub.requests if line.startswith("GET /me")}
    assert "text_encoder.onnx" in downloads
    assert "generator.onnx" not in downloads


def test_file_that_was_tampered_with_is_refused(hub: HubStub, name: str) -> None:
    repository = hub.repositories[name]
    content = repository.files["generator.onnx"]
    commit = repository.commit(repository.files | {"generator.onnx": content[:-1] + bytes([content[-1] ^ 1])})
    assert failure("generate", CAPTION, "--bundle", f"hf:{name}") == (
        f"Error: hf:{name}@{commit}: generator.onnx does not match its manifest; push the bundle again\n"
    )


def test_file_that_is_damaged_in_the_cache_is_downloaded_again(
    hub: HubStub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"hf:{name}@{hub.repositories[name].head}"
    blob = (Bundle.open(address).folder / "generator.onnx").resolve()
    blob.write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        offline(patch)
        assert "damaged in the hub's cache; unset HF_HUB_OFFLINE once" in failure("info", address)
    assert Bundle.open(address).read("generator.onnx") == hub.repositories[name].files["generator.onnx"]


def test_manifest_that_is_damaged_in_the_cache_is_downloaded_again(hub: HubStub, name: str) -> None:
    address = f"hf:{name}@{hub.repositories[name].head}"
    (Bundle.open(address).folder / MANIFEST).resolve().write_bytes(b"{")
    assert Bundle.open(address).name == "tiny"


def test_migration_does_not_change_the_hubs_cache(hub: HubStub, name: str) -> None:
    folder = Bundle.open(f"hf:{name}").folder
    assert "belongs to the hub's cache; migrate a copy: cp -rL" in failure("migrate", str(folder))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"README.md": b"a language model"}, f"is not a bundle, it has no {MANIFEST}; run t2i-engine push BUNDLE"),
        ({MANIFEST: b'{"bundle": "an app"}'}, "cannot be used: its schema is 'None', 2 expected"),
    ],
)
def test_repository_that_is_not_a_bundle_is_refused(
    hub: HubStub, name: str, files: dict[str, bytes], line: str
) -> None:
    hub.repositories[name].commit(files)
    assert line in failure("info", f"hf:{name}")


def test_bundle_that_lacks_a_file_is_refused(hub: HubStub, name: str) -> None:
    files = hub.repositories[name].files
    hub.repositories[name].commit({file: files[file] for file in files if file != "vocabulary.json"})
    assert "it has no vocabulary.json" in failure("info", f"hf:{name}")


def test_unknown_repository_or_revision_says_what_to_do(name: str) -> None:
    assert "or is private; check the name, or run hf auth login" in failure("info", "hf:me/unknown")
    assert "there is no such revision; give a branch, a tag or a commit" in failure("info", f"hf:{name}@v9")


def test_private_bundle_opens_only_with_a_token(hub: HubStub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[name].private = True
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        assert "private; check the name, or run hf auth login" in failure("info", f"hf:{name}")
    assert Bundle.open(f"hf:{name}").name == "tiny"


@pytest.mark.parametrize(
    "address", ["hf:", "hf:birds", "hf:/birds", "hf:me/birds/x", "hf:me/birds@", "hf:me/b@../../x", "hf:me/b@a b"]
)
def test_malformed_address_is_refused_before_the_hub_is_asked(hub: HubStub, address: str) -> None:
    with pytest.raises(BundleError, match="hf:OWNER/NAME or hf:OWNER/NAME@REVISION expected"):
        Bundle.open(address)
    assert hub.requests == []


@pytest.mark.parametrize("installed", [None, ModuleType("huggingface_hub")], ids=["none", "too old"])
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, plain_bundle: Path, installed: ModuleType) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", installed)
    cure = r'needs the package huggingface_hub, 2\.0 or later: pip install "t2i-engine\[hub\]"'
    with pytest.raises(MissingExtra, match=cure):
        Bundle.open("hf:me/birds")
    with pytest.raises(MissingExtra, match=cure):
        push(Bundle.open(plain_bundle), "me/birds")


def test_copy_in_the_cache_is_not_changed(name: str) -> None:
    bundle = Bundle.open(f"hf:{name}")
    files = {file: bundle.path(file) for file in bundle.manifest.files}
    with pytest.raises(OutputError, match=r"belongs to the hub's cache; change a copy: cp -rL "):
        write_bundle(bundle.folder, bundle.manifest, files)
    assert Bundle.open(bundle.folder).read("generator.onnx")


@pytest.mark.parametrize("repository", ["birds", "me/", "me/birds/x", "hf:me/birds", "-me/birds"])
def test_push_wants_owner_and_name(plain_bundle: Path, repository: str) -> None:
    with pytest.raises(OptionError, match="OWNER/NAME expected"):
        push(Bundle.open(plain_bundle), repository)


def test_push_without_a_token_asks_nothing_of_the_hub(
    hub: HubStub, plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "needs a hub token" in failure("push", str(plain_bundle), "me/birds")
    assert hub.requests == []


def test_push_with_a_token_that_may_not_write_leaves_the_repository(
    hub: HubStub, name: str, plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "refuses_commits", True)
    before = hub.repositories[name].head
    assert failure("push", str(plain_bundle), name) == (
        f"Error: hf:{name}: the hub answered 403 (Forbidden); run hf auth login with a token that may do this\n"
    )
    assert hub.repositories[name].head == before


def test_push_offline_is_refused(plain_bundle: Path, hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    assert "cannot be reached while HF_HUB_OFFLINE is set; unset it" in failure("push", str(plain_bundle), "me/birds")
    assert hub.requests == []


def test_push_does_not_overwrite_another_model(hub: HubStub, plain_bundle: Path) -> None:
    other = hub.repositories["me/llama"] = Repository()
    other.commit({"README.md": b"", "config.json": b"{}"})
    assert "holds 'config.json' but no bundle; choose a new name" in failure("push", str(plain_bundle), "me/llama")
    assert len(other.commits) == 1


def test_push_does_not_publish_what_was_to_be_private(hub: HubStub, name: str, plain_bundle: Path) -> None:
    assert "already exists and is public; make it private" in failure("push", str(plain_bundle), name, "--private")
    assert len(hub.repositories[name].commits) == 1


def test_damaged_bundle_is_not_pushed(hub: HubStub, plain_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(plain_bundle).manifest
    folder = write_bundle(tmp_path / "bundle", manifest, {file: plain_bundle / file for file in manifest.files})
    (folder / "vocabulary.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match=r"vocabulary\.json is truncated"):
        push(Bundle.open(folder), "me/birds")
    assert hub.requests == []
