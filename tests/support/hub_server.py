"""A Hugging Face Hub on the loopback interface: real HTTP, for the real huggingface_hub client.

It answers as huggingface.co does for the routes that opening a model, downloading it and loading a dataset use, and
fails on request:

    with HubServer() as hub:
        hub.add("models", "org/gated", {"config.json": b"{}"}, gated=True, readers={"alice"})
        hub.tokens["hf_alice"] = "alice"
        hub.fail("auth-check", 429, times=1, headers={"Retry-After": "1"})
        os.environ["HF_ENDPOINT"] = hub.url
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CUT = -1  # of a Fault: the connection ends without an answer
LARGE = (".safetensors", ".bin", ".parquet", ".pth")  # stored in LFS on the real Hub: another kind of ETag
ROUTES = [
    ("auth_check", r"/api/(models|datasets)/(.+)/auth-check"),
    ("may_write", r"/api/(models|datasets)/(.+)/auth-check/write"),
    ("preupload", r"/api/(models|datasets)/(.+)/preupload/(.+)"),
    ("commit", r"/api/(models|datasets)/(.+)/commit/(.+)"),
    ("branch", r"/api/(models|datasets)/(.+)/branch/(.+)"),
    ("lfs_batch", r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    ("tree", r"/api/(models|datasets)/(.+)/tree/([^/]+)(?:/(.*))?"),
    ("paths_info", r"/api/(models|datasets)/(.+)/paths-info/([^/]+)"),
    ("info", r"/api/(models|datasets)/(.+)/revision/([^/]+)"),
    ("info", r"/api/(models|datasets)/([^/]+/[^/]+|[^/]+)"),
    ("resolve", r"/(datasets/)?([^/]+/[^/]+|[^/]+)/resolve/([^/]+)/(.+)"),
]


@dataclass
class Repo:
    kind: str
    name: str
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)  # the users who may read it, where not everyone may
    branches: dict[str, Repo] = field(default_factory=dict)  # beside main, by name
    commits: list[str] = field(default_factory=list)  # their titles

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted((n, self.etag(n)) for n in self.files)).encode()).hexdigest()

    def at(self, revision: str) -> Repo | None:
        """The repository as it is on a branch, or at the last commit of one."""
        found = {"main": self, self.sha: self}
        for name, branch in self.branches.items():
            found |= {name: branch, branch.sha: branch}
        return found.get(revision)

    def is_writable(self, user: str | None) -> bool:
        return user is not None and self.name.startswith(f"{user}/")

    def etag(self, name: str) -> str:
        data = self.files[name]
        if name.endswith(LARGE):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, name: str) -> dict:
        size = len(self.files[name])
        entry = {"type": "file", "path": name, "size": size, "oid": self.etag(name)[:40]}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": self.etag(name), "size": size, "pointerSize": 130}
        return entry

    def info(self) -> dict:
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": self.sha,
            "gated": "manual" if self.gated else False,
            "private": self.private,
            "disabled": False,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.files],
        }


@dataclass
class Fault:
    part: str  # of the method and path, "GET /org/model/resolve/main/config.json"
    status: int  # CUT, or 0: never answer, or fall silent after `sent` bytes of the file
    times: int | None
    sent: int
    headers: dict[str, str]
    message: str


class HubServer:
    """The server, in threads of this process, from `with` to its end. `requests` holds what it was asked."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens: dict[str, str] = {}  # token -> user
        self.narrow_tokens: set[str] = set()  # fine-grained, without the permission to read gated repositories
        self.reading_tokens: set[str] = set()  # that may not write
        self.lfs: dict[str, bytes] = {}  # what was uploaded, by sha256
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, token
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def add(self, kind: str, name: str, files: Mapping[str, bytes] | Path, **access) -> Repo:
        """Add a repository of `kind` "models" or "datasets" that holds `files`, or a folder's files."""
        if isinstance(files, Path):
            paths = [p for p in sorted(files.rglob("*")) if p.is_file()]
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in paths}
        repo = Repo(kind, name, dict(files), **access)
        self.repos[kind, name] = repo
        return repo

    def fail(
        self, part: str, status: int, times: int | None = None, message: str = "", sent: int = 0, **headers: str
    ) -> None:
        """Answer requests with `part` in their method and path with `status`, the first `times` of them.

        Status 0 keeps them waiting for ever, once the first `sent` bytes of the file are out; CUT ends the connection.
        """
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(part, status, times, sent, headers, message))

    def asked(self, part: str, method: str = "GET") -> int:
        """How many requests had `part` in their path."""
        return sum(m == method and part in path for m, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with self.hub.lock:
            self.hub.requests.append((self.command, path, token))
            fault = next((f for f in self.hub.faults if f.part in f"{self.command} {path}" and f.times != 0), None)
            if fault and fault.times:
                fault.times -= 1
        self.silent_after = fault.sent if fault and fault.status == 0 else 0
        if fault and fault.status == CUT:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if fault and fault.status == 0 and not fault.sent:
            self.hub.closing.wait()
            self.close_connection = True
        elif fault and not fault.sent:
            self._refuse(fault.status, fault.message or "Scripted failure", **fault.headers)
        elif token and token not in self.hub.tokens:
            self._refuse(401, "Invalid credentials in Authorization header")
        elif path == "/api/whoami-v2":
            self._whoami(token)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body), token)
        elif match := re.fullmatch("/upload/([0-9a-f]{64})", path):
            self._upload(match[1], body)
        else:
            self._route(path, token, body)

    def _whoami(self, token: str | None) -> None:
        if not token:
            return self._refuse(401, "Invalid username or password.")
        role = "read" if token in self.hub.reading_tokens else "write"
        auth = {"type": "access_token", "accessToken": {"displayName": "laptop", "role": role}}
        self._json({"type": "user", "name": self.hub.tokens[token], "auth": auth, "orgs": []})

    def _route(self, path: str, token: str | None, body: bytes) -> None:  # noqa: PLR0911 (a refusal each)
        matches = [(action, match) for action, pattern in ROUTES if (match := re.fullmatch(pattern, path))]
        if not matches:
            return self._refuse(404, "Not Found")
        action, match = matches[0]
        kind, name, *rest = match.groups()
        kind = "datasets" if (kind or "").startswith("datasets") else "models"
        repo, user = self.hub.repos.get((kind, name)), self.hub.tokens.get(token or "")
        if repo is None or (repo.private and user not in repo.readers):
            if token:
                return self._refuse(404, "Repository not found", X_Error_Code="RepoNotFound")
            return self._refuse(401, "Invalid username or password.")
        if repo.gated and action in ("auth_check", "resolve"):  # its description and list of files are for everyone
            page = f"{self.hub.url}/{name}"
            if token in self.hub.narrow_tokens:
                settings = "Please enable access to public gated repositories in your fine-grained token settings"
                return self._refuse(403, f"{settings} to view this repository.")
            if not user:
                text = f"Access to model {name} is restricted. You must have access to it and be authenticated."
                return self._refuse(401, text, X_Error_Code="GatedRepo")
            if user not in repo.readers:
                text = f"Access to model {name} is restricted and you are not in the authorized list."
                return self._refuse(403, f"{text} Visit {page} to ask for access.", X_Error_Code="GatedRepo")
        if action in ("may_write", "preupload", "commit", "branch", "lfs_batch"):
            if token in self.hub.reading_tokens or not repo.is_writable(user):
                return self._refuse(403, "You don't have the rights to write to this repository.")
        elif rest and action != "auth_check":
            revision = repo.at(rest[0])
            if revision is None:
                return self._refuse(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
            repo = revision
        getattr(self, f"_{action}")(repo, rest, body)

    def _auth_check(self, repo: Repo, rest: list[str], body: bytes) -> None:
        self._send(200, b"OK", "text/plain")

    def _info(self, repo: Repo, rest: list[str], body: bytes) -> None:
        info = repo.info()
        if "blobs=true" in self.path.lower():
            info["siblings"] = [{**file, "size": len(repo.files[file["rfilename"]])} for file in info["siblings"]]
        self._json(info)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _create(self, asked: dict, token: str | None) -> None:
        user = self.hub.tokens.get(token or "")
        kind, owner = asked.get("type", "model") + "s", asked["organization"] or user
        name = f"{owner}/{asked['name']}"
        if token in self.hub.reading_tokens or owner != user:
            return self._refuse(403, "You don't have the rights to create a repository under this namespace.")
        if (kind, name) in self.hub.repos:
            return self._refuse(409, "You already created this repo")
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.add(kind, name, {".gitattributes": b"*.parquet filter=lfs"}, private=private, readers={user})
        self._json({"url": f"{self.hub.url}/{kind}/{name}", "name": name, "id": "1"})

    def _may_write(self, repo: Repo, rest: list[str], body: bytes) -> None:
        self._send(200, b"OK", "text/plain")

    def _branch(self, repo: Repo, rest: list[str], body: bytes) -> None:
        if rest[0] in repo.branches:
            return self._refuse(409, "Reference already exists")
        repo.branches[rest[0]] = Repo(repo.kind, repo.name, dict(repo.files))
        self._json({})

    def _preupload(self, repo: Repo, rest: list[str], body: bytes) -> None:
        if (at := repo.at(rest[0])) is None:
            return self._refuse(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        files = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            oid = at.etag(file["path"]) if file["path"] in at.files else None
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _lfs_batch(self, repo: Repo, rest: list[str], body: bytes) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}}}
            objects.append({**one, **({} if one["oid"] in self.hub.lfs else upload)})
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._refuse(400, "Content does not match its digest")
        self.hub.lfs[oid] = body
        self._send(200, b"", "text/plain")

    def _commit(self, repo: Repo, rest: list[str], body: bytes) -> None:
        if (at := repo.at(rest[0])) is None:
            return self._refuse(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        files, title = dict(at.files), ""
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", at.sha) != at.sha:
                    return self._refuse(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            else:
                del files[value["path"]]
        at.files = files
        repo.commits.append(title)
        page = f"{self.hub.url}/{repo.kind}/{repo.name}/commit/{at.sha}"
        self._json({"commitUrl": page, "commitOid": at.sha, "pullRequestUrl": None})

    def _tree(self, repo: Repo, rest: list[str], body: bytes) -> None:
        folder = f"{rest[1]}/" if rest[1] else ""
        names = [name for name in repo.files if name.startswith(folder)]
        if folder and not names:
            return self._refuse(404, f"{rest[1]} does not exist", X_Error_Code="EntryNotFound")
        folders = {name[:i] for name in names for i in range(len(folder), len(name)) if name[i] == "/"}
        if "recursive=true" not in self.path.lower():
            names, folders = ([p for p in paths if "/" not in p.removeprefix(folder)] for paths in (names, folders))
        entries = [repo.entry(name) for name in names]
        entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        self._json(entries)

    def _paths_info(self, repo: Repo, rest: list[str], body: bytes) -> None:
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = re.findall(r"paths=([^&]*)", unquote(body.decode()))
        self._json([repo.entry(path) for path in paths if path in repo.files])

    def _resolve(self, repo: Repo, rest: list[str], body: bytes) -> None:
        name = rest[1]
        if name not in repo.files:
            return self._refuse(404, "Entry not found", X_Error_Code="EntryNotFound")
        data, headers = repo.files[name], {"X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        if name.endswith(LARGE):
            headers["X-Linked-Etag"], headers["X-Linked-Size"] = f'"{repo.etag(name)}"', str(len(data))
        headers["ETag"], status = f'"{repo.etag(name)}"', 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), int(match[2] or len(data) - 1)
            headers["Content-Range"], status = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}", 206
            data = data[start : end + 1]
        self._send(status, data, "application/octet-stream", headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _refuse(self, status: int, message: str, **headers: str) -> None:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["X-Error-Message"] = message
        self._send(status, json.dumps({"error": message}).encode(), "application/json", headers)

    def _send(self, status: int, data: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: self.silent_after or None])
        if self.silent_after:
            self.hub.closing.wait()
            self.close_connection = True
