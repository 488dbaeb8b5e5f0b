"""A bundle as a web page that draws on the visitor's machine, from any static host (docs/deploying.md, "Web").

The page is the server's (t2i_engine/serve/page) with another `source.js`, in which pictures are drawn by ONNX Runtime
Web instead of fetched.
"""

import gzip
import json
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import t2i_engine
from export.deploy.folder import check_folder, write_folder
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, BundleError, quoted
from t2i_engine.files import sha256
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, find
from t2i_engine.reference import read_reference
from t2i_engine.table import size

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIMES = {
    "webgpu": {"module": "ort.webgpu.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.asyncify.wasm"},
    "wasm": {"module": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"},
}
"""By device, the files that it needs from the package's folder `dist`."""
DIGESTS = {
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}

PAGES = (Path(t2i_engine.__file__).parent / "serve" / "page", Path(__file__).parent / "page")
"""The server's page, and the files that this page replaces or adds."""


class _File(NamedTuple):
    """A file that the page's worker loads: its path in the folder, and its content."""

    path: str
    content: bytes

    def listed(self) -> dict[str, str | int]:
        """As site.js lists it: by its SHA-256 too, so that no cache confuses it with an older one."""
        return {"url": f"{self.path}?{sha256(self.content)[:12]}", "size": len(self.content)}


def deploy_web(name_or_folder: str | Path, folder: Path, runtime: Path | None, progress: Callable[[str], None]) -> Path:
    """Writes the page of a bundle to a new or empty folder, and returns it.

    `runtime` is a folder with the files of ONNX Runtime Web: the unpacked npm package, or its `dist`; without one, npm
    fetches them. Raises a `UserError` if they are missing or of another version, if the bundle has no format `onnx` or
    no reference, or if the folder cannot be written.
    """
    bundle = Bundle.open(name_or_folder)
    check_folder(folder)
    model, reference = _model(bundle, shlex.quote(str(name_or_folder)))
    if runtime is None:
        progress(f"npm fetches {PACKAGE} {VERSION}")
    dist = _fetched() if runtime is None else _read(runtime)
    runtimes = {device: _runtime(dist, **names) for device, names in RUNTIMES.items()}
    pages = {file.name: file.read_bytes() for page in PAGES for file in sorted(page.iterdir()) if file.is_file()}
    site = {
        "name": bundle.name,
        "size": f"{bundle.sizes.resolution}x{bundle.sizes.resolution}",
        "license": bundle.license,
        "noise_width": bundle.sizes.noise_width,
        "sentence_width": bundle.sizes.sentence_width,
        "condition_noise": bundle.sizes.conditioning_augmentation,
        "reference": reference,
        "model": {name: file.listed() for name, file in model.items()},
        "runtimes": {device: {role: file.listed() for role, file in one.items()} for device, one in runtimes.items()},
        # With digests, so that this file, which browsers check, changes whenever one of these does.
        "shell": {
            name.replace("index.html", "./"): sha256(page)[:12] for name, page in pages.items() if name != "sw.js"
        },
    }
    files = {file.path: file.content for files in (model, *runtimes.values()) for file in files.values()}
    written = write_folder(folder, pages | files | {"site.js": f"self.SITE = {json.dumps(site, indent=2)};\n".encode()})
    for device, title in (("wasm", "WebAssembly"), ("webgpu", "WebGPU")):
        bytes_loaded = sum(len(file.content) for file in (*model.values(), *runtimes[device].values()))
        progress(f"a first visit loads {size(bytes_loaded)} with {title}")
    return written


def _model(bundle: Bundle, shown: str) -> tuple[dict[str, _File], dict[str, object]]:
    """The bundle's files by role, and a caption and seed whose pixels are the file `reference`."""
    row, words = find("onnx"), bundle.manifest.tokenizer
    if row not in bundle.formats:
        command = f"t2i-engine export {shown} --formats onnx"
        raise BundleError(f"bundle {bundle.name!r} has no format onnx, which browsers run: {command}")
    reference = read_reference(bundle)
    files = {
        "text_encoder": _File("model/text_encoder.onnx", bundle.read(row.files[TEXT_ENCODER])),
        "generator": _File("model/generator.onnx", bundle.read(row.files[GENERATOR])),
        "vocabulary": _File("model/vocabulary.json", bundle.read(words.vocabulary)),
        "reference": _File("model/reference.bin", reference.pixels[-1].tobytes()),
    }
    if words.near_words:
        files["near_words"] = _File("model/near_words.json", bundle.read(words.near_words))
    return files, {"caption": str(reference.captions[-1]), "seed": int(reference.seeds[-1])}


def _runtime(dist: Mapping[str, bytes], module: str, wasm: str) -> dict[str, _File]:
    """A device's files. WebAssembly is compressed here, because not every static host does that."""
    compressed = gzip.compress(dist[wasm], compresslevel=6, mtime=0)  # the suffix is not .gz, which some hosts unpack
    return {"module": _File(f"runtime/{module}", dist[module]), "wasm": _File(f"runtime/{wasm}.gzip", compressed)}


def _read(folder: Path) -> dict[str, bytes]:
    """The runtime's files from the unpacked package or its `dist`, checked. Raises `BackendError`."""
    dist = folder / "dist"
    try:
        dist = dist if dist.is_dir() else folder
        return _checked({name: (dist / name).read_bytes() for name in DIGESTS})
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        shown = quoted(str(getattr(error, "filename", None) or folder), 200)
        raise BackendError(
            f"{shown} cannot be read ({getattr(error, 'strerror', None) or error}); as --runtime, give the folder of "
            f"{PACKAGE} {VERSION}, as npm installs it"
        ) from None


def _fetched() -> dict[str, bytes]:
    """The runtime's files from npm, checked. Raises `BackendError` if npm is missing or fails."""
    npm, package = shutil.which("npm"), f"{PACKAGE}@{VERSION}"
    elsewhere = f"run npm pack {package} elsewhere, unpack it, and give its folder as --runtime"
    if npm is None:
        raise BackendError(f"npm, which fetches {package}, is not installed: install Node.js, or {elsewhere}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--prefer-offline"]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if ran.returncode:
            reason = " ".join(line.removeprefix("npm error ") for line in ran.stderr.splitlines()[:4])
            raise BackendError(f"npm cannot fetch {package} ({reason[:200].strip()}); try again, or {elsewhere}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as packed:
            members = {name: packed.extractfile(f"package/dist/{name}") for name in DIGESTS}
            return _checked({name: member.read() for name, member in members.items() if member})


def _checked(dist: dict[str, bytes]) -> dict[str, bytes]:
    for name, digest in DIGESTS.items():
        if sha256(dist.get(name, b"")) != digest:
            raise BackendError(f"{name} is not the one of {PACKAGE} {VERSION}: its SHA-256 differs; fetch it again")
    return dist
