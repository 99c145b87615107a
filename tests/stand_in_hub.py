"""A Hugging Face hub on the loopback interface, which serves folders as repositories.

It speaks what `huggingface_hub` asks for: repository info, tree, paths-info and resolve, with
entity tags, byte ranges and, for weights, a redirect to another path of this server, as the public
hub does. A repository is ``ROOT/models/OWNER/NAME`` or ``ROOT/datasets/OWNER/NAME``. Its only
commit is what its files hash to; any other commit that a client names is served as if it were one,
because recipes pin commits of the public hub. A repository with a file ``.gated`` is gated.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = re.compile(r"[0-9a-f]{40}")
LARGE = (".safetensors", ".bin", ".parquet", ".arrow", ".gz", ".model")
"""Endings that the public hub keeps in its large-file storage."""

API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(/.*)?)?"
)
RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class _Missing(Exception):
    """Answered by 404; its argument is the hub's error code."""


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        try:
            if path.startswith("/large/"):
                self._send_file(self.root / path.removeprefix("/large/"), {})
            elif found := API.fullmatch(path):
                self._json(self._api(found[1], found[2], found[3], (found[4] or "")[1:], body))
            elif found := RESOLVE.fullmatch(path):
                self._resolve(found[1] or "models", found[2], found[3], found[4])
            else:
                raise _Missing("EntryNotFound")
        except _Missing as missing:
            self._send(404, b"{}", {"X-Error-Code": str(missing)})

    def _api(self, kind: str, name: str, what: str | None, rest: str, body: bytes) -> Any:
        folder = self._folder(kind, name)
        if what in (None, "revision"):
            files = [{"rfilename": each["path"]} for each in entries(folder) if "size" in each]
            return {
                "id": name,
                "sha": commit(folder, rest or "main"),
                "siblings": files,
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        if what == "refs":
            main = {
                "name": "main",
                "ref": "refs/heads/main",
                "targetCommit": commit(folder, "main"),
            }
            return {"branches": [main], "tags": [], "converts": []}
        revision, _, inside = rest.partition("/")
        commit(folder, revision)
        found = entries(folder)
        if what == "tree":
            deep = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
            start = f"{inside}/" if inside else ""
            below = [each for each in found if each["path"].startswith(start)]
            if not below:
                raise _Missing("EntryNotFound")
            return [each for each in below if deep or "/" not in each["path"][len(start) :]]
        wanted = paths_of(body)
        return [each for each in found if each["path"] in wanted]

    def _resolve(self, kind: str, name: str, revision: str, inside: str) -> None:
        folder = self._folder(kind, name)
        headers = {"X-Repo-Commit": commit(folder, revision)}
        file = folder / inside
        if not file.is_file():
            raise _Missing("EntryNotFound")
        if file.suffix in LARGE:
            port = self.server.server_address[1]
            headers |= {
                "X-Linked-Etag": f'"{digest(file)}"',
                "X-Linked-Size": str(file.stat().st_size),
                # Another host, as the public hub's: clients treat a relative redirect as a rename.
                "Location": f"http://localhost:{port}/large/{kind}/{name}/{inside}",
            }
            self._send(302, b"", headers)
        else:
            self._send_file(file, headers)

    def _folder(self, kind: str, name: str) -> Path:
        folder = self.root / kind / name
        if not folder.is_dir():
            raise _Missing("RepoNotFound")
        if (folder / ".gated").exists():
            raise _Missing("GatedRepo")
        return folder

    def _send_file(self, file: Path, headers: dict[str, str]) -> None:
        content = file.read_bytes()
        headers = {"ETag": f'"{digest(file)}"', "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def paths_of(body: bytes) -> list[str]:
    """The paths in the body of a paths-info request, which is JSON or a form."""
    if body.startswith(b"{"):
        return [str(path) for path in json.loads(body)["paths"]]
    return parse_qs(body.decode())["paths"]


def digest(file: Path) -> str:
    """The entity tag of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def commit(folder: Path, revision: str) -> str:
    """The commit that a revision stands for; "main" is the repository's own."""
    if COMMIT.fullmatch(revision):
        return revision
    if revision != "main":
        raise _Missing("RevisionNotFound")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = "".join(f"{path.relative_to(folder)} {digest(path)}\n" for path in files)
    return hashlib.sha1(named.encode()).hexdigest()


def entries(folder: Path) -> list[dict[str, Any]]:
    """All files and folders of a repository, as its tree lists them."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            oid = hashlib.sha1(name.encode()).hexdigest()
            found.append({"type": "directory", "oid": oid, "path": name})
            continue
        size, oid = path.stat().st_size, digest(path)
        found.append({"type": "file", "oid": oid[:40], "size": size, "path": name})
        if path.suffix in LARGE:
            found[-1]["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
    return found


@contextmanager
def serving(root: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Serve ``root``; yields the environment of a process that uses this hub, with a cache of its
    own below ``root``, and the list of requests so far."""
    asked: list[str] = []
    handler = type("Hub", (_Hub,), {"root": root, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield (
            {
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
                "HF_HOME": str(root / "client"),
                "HF_HUB_OFFLINE": "0",
                "HF_DATASETS_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
            },
            asked,
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
