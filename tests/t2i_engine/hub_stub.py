"""The Hugging Face hub's HTTP API, as far as pushing and pulling models needs it, on this machine.

Written after what huggingface_hub 2.4 sends and expects. A repository keeps every commit's files; large files are
uploaded through the LFS batch endpoint, as on the hub.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_stub"
LARGE = 1024  # bytes from which a file is uploaded in LFS mode


@dataclass
class Repository:
    """Files by commit, oldest first."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        """Makes `files` the newest commit, and returns its name."""
        content = [str(len(self.commits)), *sorted(files), *(hashlib.sha1(files[name]).hexdigest() for name in files)]
        name = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[name] = dict(files)
        return name


class HubStub(ThreadingHTTPServer):
    """A hub whose repositories, requests and faults a test can reach."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []  # method, path and range
        self.breaks: dict[str, int] = {}  # file -> how many of its downloads break off in the middle
        self.refuses_commits = False
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
        wanted = self.headers.get("Range")
        self.server.requests.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
        for method, pattern, answer in (
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:\?.*)?", self._info),
            ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", lambda: self._send({"errors": [], "warnings": []})),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/main", self._preupload),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/([0-9a-f]{64})", self._put),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/main", self._commit),
        ):
            if re.fullmatch(method, self.command) and (match := re.fullmatch(pattern, self.path)):
                return answer(*match.groups())
        return self._refuse(404, "NoSuchEndpoint")

    def _chunks(self) -> bytes:
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return content

    def _info(self, name: str, revision: str | None) -> None:
        if found := self._find(name, revision or "main"):
            repository, commit = found
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            self._send({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def _file(self, name: str, revision: str, file: str) -> None:
        if not (found := self._find(name, revision)):
            return None
        repository, commit = found
        content = repository.commits[commit].get(file)
        if content is None:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        self._head(206 if start else 200, len(rest), headers)
        if self.command == "GET":
            if self.server.breaks.get(file, 0):
                self.server.breaks[file] -= 1
                rest, self.close_connection = rest[: len(rest) // 2], True
            self.wfile.write(rest)
        return None

    def _create(self) -> None:
        if self._may_write():
            asked = json.loads(self.body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repositories:
                return self._send({"error": "You already created this model repo", "url": self._page(name)}, 409)
            made = self.server.repositories[name] = Repository(private=asked.get("visibility") == "private")
            made.commit({".gitattributes": b"* text=auto"})
            self._send({"url": self._page(name)})
        return None

    def _preupload(self, name: str) -> None:
        files = self.server.repositories[name].files
        modes = [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if asked["size"] >= LARGE else "regular",
                "shouldIgnore": False,
                "oid": _oid(files[asked["path"]]) if asked["path"] in files else None,
            }
            for asked in json.loads(self.body)["files"]
        ]
        self._send({"files": modes})

    def _batch(self, _: str) -> None:
        objects = [
            asked
            if asked["oid"] in self.server.uploads
            else asked | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"}}}
            for asked in json.loads(self.body)["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._refuse(400, "WrongHash")
        self.server.uploads[oid] = self.body
        return self._send({})

    def _commit(self, name: str) -> None:
        if self.server.refuses_commits:
            return self._refuse(403, "Forbidden")
        if self._may_write():
            repository = self.server.repositories[name]
            files = dict(repository.files)
            for line in map(json.loads, self.body.splitlines()):
                value = line["value"]
                if line["key"] == "header" and value.get("parentCommit") not in (None, repository.head):
                    return self._refuse(412, "Conflict")
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    files[value["path"]] = self.server.uploads[value["oid"]]
                if line["key"] == "deletedFile":
                    del files[value["path"]]
            made = repository.commit(files)
            self._send({"success": True, "commitOid": made, "commitUrl": f"{self._page(name)}/commit/{made}"})
        return None

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self._has_token()):
            self._refuse(401, "RepoNotFound")
        elif revision == "main":
            return repository, repository.head
        elif revision in repository.commits:
            return repository, revision
        else:
            self._refuse(404, "RevisionNotFound")
        return None

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_write(self) -> bool:
        if not self._has_token():
            self._refuse(401, "InvalidToken")
        return self._has_token()

    def _page(self, name: str) -> str:
        return f"{self.server.url}/{name}"

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send({"error": code}, status, {"X-Error-Code": code, **(headers or {})})

    def _send(self, answer: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(answer).encode()
        self._head(status, len(content), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: int, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _oid(content: bytes) -> str:
    """What the hub compares an upload with, to skip a file that has not changed."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
