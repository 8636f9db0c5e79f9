"""Downloads and uploads of weights, against a small server that imitates the Hugging Face hub."""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from conftest import ROOT
from muskie_jax import save_pretrained
from muskie_jax.interop.load import open_weights
from muskie_jax.models.muskie import build_model
from muskie_tests.commands import run_module
from muskie_tests.networks import random_variant

COMMIT = "c0ffee" + "0" * 34


class Hub(http.server.BaseHTTPRequestHandler):
    """The few endpoints that downloads and uploads of small files use."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        repos = self.server.repos
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            if name not in repos:
                return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            files = [{"rfilename": file} for file in repos[name]]
            tree = [
                {"type": "file", "path": f, "size": len(x), "oid": "0" * 40} for f, x in repos[name].items()
            ]
            return self.answer(
                200, tree if "tree" in parts else {"id": name, "sha": COMMIT, "siblings": files}
            )
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        if name not in repos:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if parts[3] not in ("main", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if file not in repos[name]:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        data = repos[name][file]
        self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer secret-token":
            return self.answer(401, {"error": "Invalid username or password."})
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            request = json.loads(body)
            name = f"user/{request['name'].split('/')[-1]}"
            self.server.repos.setdefault(name, {})
            # Newer versions of the library send `visibility`, older ones `private`.
            self.server.private[name] = request.get("visibility") == "private" or request.get("private")
            return self.answer(200, {"url": f"{self.server.address}/{name}", "name": name})
        if parts == ["api", "validate-yaml"]:  # the header of the model card
            return self.answer(200, {"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if "preupload" in parts:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.answer(200, {"files": [file | {"shouldIgnore": False} for file in files]})
        if "commit" in parts:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.repos[name][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.address}/{name}/commit/{COMMIT}"
            return self.answer(200, {"commitUrl": url, "commitOid": COMMIT})
        self.answer(404, {"error": self.path})


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.private = {}, {}
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of weights."""
    folder = tmp_path_factory.mktemp("saved") / "nano"
    save_pretrained(folder, build_model("nano"), random_variant("nano", 0)[1], licence="cc-by-4.0")
    return folder


# huggingface_hub reads its settings when it is imported, so each of them needs a process of its own.
SCRIPT_START = """
from muskie_jax import push_to_hub
from muskie_jax.errors import UserError
from muskie_jax.interop.load import open_weights

def attempt(function, *arguments):
    try:
        print(function(*arguments))
    except UserError as error:
        print(error)

def digest(*arguments):
    return open_weights(arguments[0], None, *arguments[1:]).params_digest

"""


def run_script(script, **environment):
    """The lines that a script prints."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT_START + script], cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def settings(hub, home):
    """Environment variables for the hub of the tests and an empty cache."""
    # Large files would be uploaded through another protocol, Xet, which the server does not know.
    return {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def check_lines(lines, expected):
    assert len(lines) == len(expected) and all(part in line for part, line in zip(expected, lines)), lines


@pytest.mark.slow
def test_push_download_and_cache(hub, folder, tmp_path):
    push = ("push", "--from", folder, "--repo", "user/muskie-nano", "--private")
    done = run_module("muskie_jax.interop", *push, **settings(hub, tmp_path), HF_TOKEN="secret-token")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"].endswith(COMMIT)
    assert hub.private == {"user/muskie-nano": True}
    sent = {file: data for file, data in hub.repos["user/muskie-nano"].items() if not file.startswith(".")}
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir()}

    digest = open_weights(folder).params_digest
    lines = run_script(
        f"attempt(push_to_hub, {str(folder)!r}, 'user/refused')\nattempt(digest, 'user/muskie-nano')\n",
        **settings(hub, tmp_path),
        HF_TOKEN="wrong",
    )
    check_lines(lines, [f"cannot upload {folder} to user/refused on the hub: ", digest])
    assert "user/refused" not in hub.repos

    offline = settings(hub, tmp_path) | {"HF_HUB_OFFLINE": "1"}
    lines = run_script("attempt(digest, 'user/muskie-nano')\nattempt(digest, 'user/any')\n", **offline)
    check_lines(lines, [digest, "'user/any' does not exist locally, and the hub cannot be reached"])


def test_the_only_file_of_weights_is_taken(hub, folder, tmp_path):
    weights = (folder / "model.safetensors").read_bytes()
    hub.repos["user/other"] = {"README.md": b"", "muskie-nano.safetensors": weights}
    hub.repos["user/several"] = {"a.safetensors": weights, "b.pth": b""}
    hub.repos["user/none"] = {"README.md": b""}
    script = """
attempt(digest, 'user/other')
attempt(digest, 'user/several')
attempt(digest, 'user/several', None, 'a.safetensors')
attempt(digest, 'user/several', None, '../c.safetensors')
attempt(digest, 'user/none')
attempt(digest, 'user/missing')
attempt(digest, 'user/other', 'v9')
"""
    digest = open_weights(folder).params_digest
    expected = [
        digest,
        "several weights files: choose one with filename= (a.safetensors, b.pth)",
        digest,
        "user/several",
        "user/none on the hub has no model.safetensors and no other weights file",
        "'user/missing' does not exist locally, and the hub has no such repository",
        "user/other on the hub has no revision 'v9'",
    ]
    check_lines(run_script(script, **settings(hub, tmp_path)), expected)
