"""A local stand-in for W&B's server, which can come to grief in several ways."""

import gzip
import json
import re
import threading
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789" * 4
PROJECT = {"id": "P", "name": "ncsn", "entity": {"id": "E", "name": "someone"}}
ANSWERS = {
    "viewer": {"id": "V", "entity": "someone", "username": "someone", "flags": "{}", "email": ""},
    "upsertBucket": {
        "bucket": {"id": "B", "name": "stub", "displayName": "stub", "project": PROJECT},
        "inserted": True,
    },
    "serverInfo": {"features": []},
    "createRunFiles": {"runID": "B", "uploadHeaders": [], "files": []},
    "createArtifact": {
        "artifact": {
            "id": "A",
            "state": "PENDING",
            "artifactSequence": {"id": "S", "latestArtifact": None},
        }
    },
    "createArtifactManifest": {"artifactManifest": {"id": "M", "file": {"id": "F"}}},
    "updateArtifactManifest": {"artifactManifest": {"id": "M", "file": {"id": "F"}}},
    "createArtifactFiles": {"files": {"edges": []}},
    "upsertSweep": {
        "sweep": {"name": "sweep1", "project": PROJECT},
        "configValidationWarnings": [],
    },
    "createAgent": {"agent": {"id": "G"}},
    "agentHeartbeat": {"agent": {"id": "G"}, "commands": "[]"},
    "commitArtifact": {"artifact": {"id": "A", "digest": "D"}},
}
"""By the first field of a query of GraphQL."""


class Handler(BaseHTTPRequestHandler):
    """Answers like W&B until ``server.trouble`` sets in."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append((self.path, body))
        trouble = self.server.trouble
        if isinstance(trouble, int):
            return self.reply(trouble, b'{"errors": [{"message": "no"}]}')
        if trouble == "silence":
            self.server.stopped.wait(120)
        if trouble == "garbage":
            self.wfile.write(bytes(range(256)) * 4)
        if trouble:
            self.close_connection = True
            return self.connection.close() if trouble == "closed" else None
        data = {}
        if self.path == "/graphql":
            query = json.loads(body)
            field = re.search(r"{\s*(\w+)", query["query"])[1]
            data = {field: self.data(field, query.get("variables") or {})}
        return self.reply(200, json.dumps({"data": data}).encode())

    def data(self, field, variables):
        """The answer to a query, with addresses for what is to be uploaded."""
        answer = deepcopy(ANSWERS.get(field))
        if field == "createRunFiles":
            answer["files"] = [self.file(name) for name in variables["files"]]
        elif field == "createArtifactFiles":
            names = [each["name"] for each in variables["input"]["artifactFiles"]]
            answer["files"]["edges"] = [{"node": self.file(name)} for name in names]
        elif field == "upsertSweep":
            self.server.sweep = variables["config"]
        elif field == "project" and "sweep" in variables:
            sweep = {"id": "W", "name": "sweep1", "config": self.server.sweep}
            answer = {"sweep": sweep | {"runs": {"edges": []}}}
        elif field == "agentHeartbeat" and self.server.commands:
            answer["commands"] = json.dumps([self.server.commands.pop(0)])
        elif field.endswith("ArtifactManifest"):
            answer["artifactManifest"]["file"] = self.file("manifest")
        return answer

    def file(self, name):
        """A file that may be uploaded."""
        url = f"http://127.0.0.1:{self.server.server_port}/upload/{name}"
        file = {"id": "F", "name": name, "uploadUrl": url, "uploadHeaders": []}
        return file | {"artifact": {"id": "A"}, "uploadMultipartUrls": None}

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = answer


@contextmanager
def wandb_server(trouble=None):
    """A server whose ``trouble`` is a status, "silence", "garbage", "closed", "empty" or None."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.trouble = True, trouble
    server.requests, server.stopped = [], threading.Event()
    server.sweep, server.commands = None, []  # its config, and what its agent is told
    server.handle_error = lambda *_: None
    server.environment = {
        "WANDB_MODE": None,
        "WANDB_API_KEY": KEY,
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
