"""A stand-in for W&B's server on this machine: what the installed client asks for, kept for tests to look at.

It answers GraphQL (viewer, runs, files, artifacts, workspace views), takes file streams and uploads, and can be
told to fail: to answer 500, or to accept and never answer.
"""

import base64
import contextlib
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 40
ENTITY = "team"


@dataclass
class StoredRun:
    """What a run has sent.

    Attributes:
        name: W&B's id of it.
        facts: what it was created or changed with: groupName, displayName, jobType, sweep, tags, ...
        config: key -> value.
        rows: of the history, in the order of arrival.
        summary: the last that was sent.
        files: name -> content that was uploaded.
        ended: the exit code, once it has ended.
    """

    name: str
    project: str
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    ended: int | None = None


@dataclass
class StoredArtifact:
    """A version of an artifact: its `name`, `type`, the `run` it is of, its files by path, and whether it is whole."""

    id: str
    name: str
    type: str
    run: str
    aliases: list[str]
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "PENDING"


class WandbServer:
    """The server.

    Attributes:
        runs: by W&B's ids, in the order of their creation.
        artifacts: in the order of their creation.
        views: workspace views that were saved.
        asked: what was asked for, by the name of the operation.
        unknown: what was asked for that it has no answer to.
        order: what arrived in which order: ("row", run, step) and ("artifact", run, name).
        status: what to answer with, from now on; None accepts and never answers.
    """

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[StoredArtifact] = []
        self.views: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.unknown: list[str] = []
        self.order: list[tuple[str, str, Any]] = []
        self.status: int | None = 200
        self.released = threading.Event()
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._uploads: dict[str, tuple[Any, str]] = {}
        self._manifests: dict[str, StoredArtifact] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "WandbServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def environment(self) -> dict[str, str]:
        """Environment variables of a client."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    # ------------------------------------------------------------------ HTTP

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if server.status is None:
                    server.released.wait()
                    self.close_connection = True
                    return
                status, answer = server.status, b"{}"
                if status == 200:
                    with server._lock:
                        status, answer = server._answer(self.path, body, self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def _answer(self, path: str, body: bytes, authorisation: str | None) -> tuple[int, bytes]:
        if path.startswith("/upload/"):
            place, name = self._uploads[path]
            place[name] = body
            return 200, b""
        if not authorisation or base64.b64decode(authorisation.split()[-1]).decode().split(":")[-1] != KEY:
            return 401, b"{}"
        if path == "/graphql":
            asked = json.loads(body)
            return 200, json.dumps(self._graphql(asked["query"], asked.get("variables") or {})).encode()
        if found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            return 200, json.dumps(self._stream(found[3], json.loads(body))).encode()
        self.unknown.append(path)
        return 404, b"{}"

    def _stream(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[name]
        self.asked.append("file_stream")
        for file, chunk in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if file != "output.log" else []
            if file == "wandb-history.jsonl":
                del run.rows[chunk["offset"] :]  # what is sent again stands in for what was sent
                run.rows += lines
                self.order += [("row", name, line.get("samples")) for line in lines]
            elif file == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.ended = int(sent.get("exitcode") or 0)
        return {}

    # ------------------------------------------------------------------ GraphQL

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        operation = found[1] if found else query.split("(")[0].strip()
        self.asked.append(operation)
        answer = getattr(self, f"_op_{operation}", None)
        if answer is None:
            self.unknown.append(f"{operation}: {' '.join(query.split())} {json.dumps(given)}")
            return {"data": None, "errors": [{"message": f"unknown: {operation}"}]}
        return {"data": answer(given)}

    def _op_Viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {
            "viewer": {
                "id": "u1",
                "entity": ENTITY,
                "username": "someone",
                "email": "a@b.c",
                "flags": "{}",
                "teams": teams,
            }
        }

    def _op_ServerFeaturesQuery(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _op_OrganizationCoreWeaveOrganizationID(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _op_UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"]
        new = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name, given.get("project") or "uncategorized"))
        run.facts.update({key: value for key, value in given.items() if value is not None and key != "config"})
        if given.get("config"):
            run.config.update({key: part["value"] for key, part in json.loads(given["config"]).items()})
        project = {"id": "p1", "name": run.project, "entity": {"id": "e1", "name": ENTITY}}
        bucket = {
            "id": f"run-{name}",
            "name": name,
            "displayName": run.facts.get("displayName") or name,
            "description": "",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "sweepName": run.facts.get("sweep"),
            "project": project,
            "historyLineCount": len(run.rows),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _op_UpsertView2(self, given: dict[str, Any]) -> dict[str, Any]:
        new = not given.get("id")
        self.views.append(given)
        return {
            "upsertView": {
                "view": {"id": given.get("id") or f"v{next(self._ids)}", "name": given["name"]},
                "inserted": new,
            }
        }

    def _op_CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": self._upload(self.runs[given["run"]].files, name)} for name in given["files"]
        ]
        return {"createRunFiles": {"runID": f"run-{given['run']}", "uploadHeaders": [], "files": files}}

    def _upload(self, place: dict[str, bytes], name: str) -> str:
        path = f"/upload/{next(self._ids)}"
        self._uploads[path] = (place, name)
        return self.url + path

    def _op_ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        found = next((one for one in self.artifacts if one.name == given["name"].partition(":")[0]), None)
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    def _op_CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        wanted = given["input"]
        name = wanted.get("artifactCollectionName") or wanted["artifactCollectionNames"][0]
        aliases = [alias["alias"] for alias in wanted.get("aliases") or []]
        number = f"a{next(self._ids)}"
        found = StoredArtifact(number, name, wanted["artifactTypeName"], wanted["runName"], aliases, wanted["digest"])
        self.artifacts.append(found)
        sequence = {"id": f"s-{name}", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}

    def _op_CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        number = f"m{next(self._ids)}"
        self._manifests[number] = self._artifact(given["artifactID"])
        return {"createArtifactManifest": {"artifactManifest": self._manifest(number)}}

    def _op_UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(given["artifactManifestID"])}}

    def _manifest(self, number: str) -> dict[str, Any]:
        url = self._upload(self._manifests[number].files, "wandb_manifest.json")
        file = {"id": number, "name": "m", "displayName": "m", "uploadUrl": url, "uploadHeaders": []}
        return {"id": number, "file": file}

    def _op_CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in given["input"]["artifactFiles"]:
            url = self._upload(self._artifact(file["artifactID"]).files, file["name"])
            names = dict.fromkeys(("name", "displayName", "storagePath"), file["name"])
            more = {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}
            nodes.append({"id": f"f{next(self._ids)}", "uploadUrl": url, **names, **more})
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _op_CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self._artifact(given["artifactID"])
        found.state = "COMMITTED"
        self.order.append(("artifact", found.run, found.name))
        return {"commitArtifact": {"artifact": {"id": found.id, "digest": found.digest}}}

    def _artifact(self, number: str) -> StoredArtifact:
        return next(one for one in self.artifacts if one.id == number)
