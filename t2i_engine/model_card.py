"""The README.md of a bundle on the Hugging Face hub: what its manifest says, pictures, and how to draw with it."""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from t2i_engine.bundle import HUB, Bundle
from t2i_engine.info import bundle_rows, differences

PICTURES = "card/pictures.png"  # a bundle's own files are never in a subfolder
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
"""The hub's identifiers for licences that a manifest may name; to the hub, any other licence is `other`."""


def model_card(bundle: Bundle, repository: str, captions: Sequence[str], seeds: Sequence[int]) -> str:
    """The card of `repository` (OWNER/NAME), whose `PICTURES` show each caption once per seed, one row per caption."""
    address, caption = f"{HUB}{repository}", " ".join(captions[0].split())
    resolution = bundle.sizes.resolution
    return f"""---
{_metadata(bundle)}
---

# {bundle.name}

Draws pictures of {resolution} × {resolution} pixels from captions, in a single pass. This is a bundle for t2i-engine:
graphs for several runtimes, each compared with PyTorch before it was written.

![Pictures]({PICTURES})

*Seeds {seeds[0]} to {seeds[-1]} of {" · ".join(map(_plain, captions))}; one row per caption, as drawn.*

## How to use

```bash
pip install "t2i-engine[cpu,hub]"
t2i-engine generate {shlex.quote(caption)} --bundle {address}
t2i-engine serve {address}
```

```python
from t2i_engine import Engine

with Engine.open("{address}") as engine:
    engine.generate({json.dumps(caption, ensure_ascii=False)}, seed=0).save("picture.png")
```

`{address}@COMMIT` pins a commit. Every file is checked against the SHA-256 in `bundle.json`, which also names the
graphs' inputs and outputs; the ONNX files run without t2i-engine too.

## What it is

{_table(("", ""), bundle_rows(bundle))}

## Formats

Differences are the largest from PyTorch in fp32 (pixels in levels of 255).

{_table(("format", "backend", "precision", "differences"), _formats(bundle))}

Written by t2i-engine {version("t2i-engine")} from the bundle's manifest.
"""


def _metadata(bundle: Bundle) -> str:
    """The metadata by which the hub lists a model, as YAML."""
    tags = ["gan", *(["onnx"] if any(row.backend == "onnxruntime" for row in bundle.formats) else [])]
    lines = ["pipeline_tag: text-to-image", "library_name: t2i-engine", f"tags: [{', '.join(tags)}]"]
    if bundle.license:
        name = bundle.license.lower()
        lines.append(f"license: {name if name in LICENSES else 'other'}")
    return "\n".join(lines)


def _formats(bundle: Bundle) -> Iterator[tuple[str, ...]]:
    for row in bundle.formats:
        found = ", ".join(f"{name} {text}" for name, text in differences(bundle, row).items())
        yield row.name, row.backend, row.precision, found or "built, not run"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(map(_plain, row)) for row in (head, *rows)]
    return "\n".join(f"| {line} |" for line in [lines[0], " | ".join("---" for _ in head), *lines[1:]])


def _plain(text: str) -> str:
    """Text as one line that Markdown shows as it is."""
    line = " ".join(text.split()).translate({ord(mark): f"\\{mark}" for mark in "\\|`*_[]"})
    return line.replace("&", "&amp;").replace("<", "&lt;")
