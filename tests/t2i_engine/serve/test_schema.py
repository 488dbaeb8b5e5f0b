"""The OpenAPI document and the server agree: schemathesis, which makes up requests from the one, finds no fault."""

import json
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx

from tests.t2i_engine.serve.processes import Server

CAPTIONS = {"enum": ["a red bird", "this bird has yellow wings"]}
"""That a caption needs a known word is more than a schema can say."""


def fuzz(document: str, folder: Path, *options: str) -> None:
    """Fails if schemathesis finds a fault; it leaves files in `folder`."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", document, "--checks", "all", "--max-examples", "30"]
    command += ["--generation-deterministic", "--no-color", *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert found.returncode == 0, found.stdout + found.stderr


def test_no_request_makes_the_server_contradict_its_document(server: Server, tmp_path: Path) -> None:
    fuzz(f"{server.url}/openapi.json", tmp_path, "--exclude-checks", "positive_data_acceptance")


def test_what_the_document_allows_is_drawn(server: Server, tmp_path: Path) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    document["components"]["schemas"]["Caption"] = CAPTIONS
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    fuzz(str(file), tmp_path, "--url", server.url, "--mode", "positive")
