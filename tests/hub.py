"""A Hugging Face hub on 127.0.0.1 for the real clients: models and data sets with commits, gates, limits and bad lines.

What a client sends and reads is the hub's protocol as huggingface_hub, transformers, datasets and mteb speak it: `info`
at a revision, `tree`, `paths-info`, and `resolve` with ETag, commit, ranges and the size and hash of large files.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 10_000  # bytes from which a file counts as kept apart (LFS), with its SHA-256 as ETag


@dataclass
class Repository:
    """Files by commit, where the branches stand, and how the hub treats who asks."""

    kind: str  # model or dataset
    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    limited: int = 0  # so many of the next requests are answered with 429
    dropped: int = 0  # so many of the next downloads end in the middle


class Hub:
    """The repositories of a running server, what was asked of it, and where it is."""

    def __init__(self, endpoint: str):
        self.endpoint = endpoint
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[str] = []

    def commit(self, name: str, files: Path | dict[str, bytes], kind: str = "model", branch: str = "main",
               sha: str | None = None) -> str:
        """Add a commit of all `files` (a folder, or path -> bytes) and move `branch` there; returns its hash.

        sha: the hash that a client will ask for.
        """
        if isinstance(files, Path):
            files = {str(p.relative_to(files)): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        one = self.repositories.setdefault((kind, name), Repository(kind, name))
        text = json.dumps([len(one.commits), *((k, hashlib.sha1(v).hexdigest()) for k, v in sorted(files.items()))])
        sha = sha or hashlib.sha1(text.encode()).hexdigest()
        one.commits[sha], one.refs[branch] = files, sha
        return sha


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers on a free port of 127.0.0.1 until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing: a test reads `Hub.asked`."""

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        hub = self.server.hub
        hub.asked.append(f"{self.command} {split.path}")
        parts = [unquote(part) for part in split.path.strip("/").split("/")]
        api = parts[0] == "api"
        kind = "dataset" if "datasets" in parts[:2] else "model"
        parts = parts[(1 if api else 0) + (1 if parts[1 if api else 0] in ("datasets", "models") else 0):]
        one = hub.repositories.get((kind, "/".join(parts[:2])))
        rest = parts[2:]
        if one is None:
            return self._error(401 if len(parts) < 3 else 404, "RepoNotFound", "Repository not found")
        if one.limited:
            one.limited -= 1
            return self._error(429, "", "Too many requests")
        if one.gated:
            signed = self.headers.get("Authorization")
            if not api or rest[:1] in (["tree"], ["paths-info"]):
                return self._error(403 if signed else 401, "GatedRepo", "Access to this repository is restricted")
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        sha = one.refs.get(revision, revision)
        if sha not in one.commits:
            return self._error(404, "RevisionNotFound", f"Revision not found: {revision}")
        files = one.commits[sha]
        if what == "revision":
            return self._json({"id": one.name, "_id": sha[:24], "sha": sha, "private": False, "gated": one.gated,
                               "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                               "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
                               "siblings": [{"rfilename": name} for name in files]}, sha)
        if what == "tree":
            query = parse_qs(split.query)
            deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            return self._tree(files, "/".join(rest[2:]), deep, sha)
        if what == "paths-info":
            return self._paths(files, body, sha)
        if what in ("resolve", "raw"):
            return self._file(one, files, "/".join(rest[2:]), sha)
        return self._error(404, "", f"nothing here: {self.path}")

    def _tree(self, files, folder, deep, sha):
        inside = {name: data for name, data in files.items() if not folder or name.startswith(folder + "/")}
        if folder and not inside:
            return self._error(404, "EntryNotFound", f"no {folder}")
        start = len(folder) + 1 if folder else 0
        folders = sorted({name[:start] + "/".join(steps[:n]) for name in inside
                          for steps in [name[start:].split("/")] for n in range(1, len(steps))
                          if deep or n == 1})
        rows = [_folder(name) for name in folders]
        rows += [_entry(name, data) for name, data in inside.items() if deep or "/" not in name[start:]]
        return self._json(rows, sha)

    def _paths(self, files, body, sha):
        text = body.decode()
        paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        rows = []
        for path in [paths] if isinstance(paths, str) else paths:
            if path in files:
                rows.append(_entry(path, files[path]))
            elif any(name.startswith(path + "/") for name in files):
                rows.append(_folder(path))
        return self._json(rows, sha)

    def _file(self, one, files, path, sha):
        if path not in files:
            return self._error(404, "EntryNotFound", f"no {path}")
        data = files[path]
        entry = _entry(path, data)
        headers = {"ETag": f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"', "X-Repo-Commit": sha,
                   "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        status, asked = 200, self.headers.get("Range")
        if asked and self.command == "GET":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) if first else len(data) - int(last)
            end = min(int(last) + 1, len(data)) if first and last else len(data)
            if begin >= len(data):
                return self._error(416, "", "range not satisfiable")
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            status, data = 206, data[begin:end]
        self._head(status, headers | {"Content-Length": str(len(data))})
        if self.command == "HEAD":
            return None
        if one.dropped and len(data) > 1:
            one.dropped -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        self.wfile.write(data)
        return None

    def _json(self, value, sha):
        data = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "X-Repo-Commit": sha, "Content-Length": str(len(data))})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status, code, message):
        data = json.dumps({"error": message}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), "X-Error-Message": message}
        self._head(status, headers | ({"X-Error-Code": code} if code else {}))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(path, data):
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    row = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if len(data) >= LARGE:
        row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return row


def _folder(path):
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
