"""A hub as huggingface_hub knows it, on the loopback interface: repositories are dicts of files, kept in memory."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Repositories = dict[str, dict[str, bytes]]


@contextmanager
def serving(repositories: Repositories) -> Iterator[str]:
    """Serve the repositories, {"owner/name": {path: content}}, which uploads change; gives the endpoint."""
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    repositories: Repositories

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo not in self.repositories:
            return self._refuse("RepoNotFound")
        files = self.repositories[repo]
        commit = hashlib.sha1(json.dumps({name: _oid(files[name]) for name in sorted(files)}).encode()).hexdigest()
        revision = (parts[5] if len(parts) > 5 else "main") if api else parts[3]
        if revision not in ("main", commit):
            return self._refuse("RevisionNotFound")
        if not api:  # owner/name/resolve/revision/path
            name = "/".join(parts[4:])
            if name not in files:
                return self._refuse("EntryNotFound")
            headers = {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": commit}
            return self._answer(files[name], headers)
        if parts[4:5] == ["tree"]:
            tree = [{"type": "file", "path": n, "size": len(f), "oid": _oid(f)} for n, f in sorted(files.items())]
            return self._answer(json.dumps(tree).encode())
        info = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return self._answer(json.dumps(info).encode())

    def do_POST(self) -> None:
        body = self._body()
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            self.repositories.setdefault(repo, {})
            return self._answer(json.dumps({"url": f"http://{self.headers['Host']}/{repo}"}).encode())
        if parts == ["api", "validate-yaml"]:
            return self._answer(b'{"errors": [], "warnings": []}')
        files = self.repositories["/".join(parts[2:4])]
        if parts[4] == "preupload":
            asked = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self._answer(json.dumps({"files": [a | {"shouldIgnore": False} for a in asked]}).encode())
        for line in map(json.loads, body.splitlines()):  # a commit
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        where = f"http://{self.headers['Host']}/{'/'.join(parts[2:4])}/commit/1"
        return self._answer(json.dumps({"commitUrl": where, "commitOid": "1" * 40}).encode())

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _refuse(self, code: str) -> None:
        self._answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=404)

    def _answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
