"""Weights from a hub and to one: a small server that answers as the Hugging Face hub does."""

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
from muskie_tests.networks import random_variant, same

COMMIT = "c0ffee" + "0" * 34


class Hub(http.server.BaseHTTPRequestHandler):
    """The few addresses that downloads and uploads of small files use."""

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
            asked = json.loads(body)
            name = f"user/{asked['name'].split('/')[-1]}"
            self.server.repos.setdefault(name, {})
            # Newer versions of the library say it in the first way, older ones in the second.
            self.server.private[name] = asked.get("visibility") == "private" or asked.get("private")
            return self.answer(200, {"url": f"{self.server.address}/{name}", "name": name})
        if parts == ["api", "validate-yaml"]:  # of the card
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of weights."""
    folder = tmp_path_factory.mktemp("saved") / "nano"
    save_pretrained(folder, build_model("nano"), random_variant("nano", 0)[1], licence="cc-by-4.0")
    return folder


def interop(*arguments, hub, home, **environment):
    """Runs a command against the hub, with nothing of this computer's in its cache."""
    # Uploads of large files go through another protocol, which is the library's affair.
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | environment
    return run_module("muskie_jax.interop", *arguments, **settings)


def test_up_and_down_again(hub, folder, tmp_path):
    push = ("push", "--from", folder, "--repo", "user/muskie-nano", "--private")
    refused = interop(*push, hub=hub, home=tmp_path, HF_TOKEN="wrong")
    assert refused.returncode == 2 and "error: the hub did not take" in refused.stderr
    assert "Traceback" not in refused.stderr and not hub.repos
    done = interop(*push, hub=hub, home=tmp_path, HF_TOKEN="secret-token")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"].endswith(COMMIT)
    assert hub.private == {"user/muskie-nano": True}
    sent = {file: data for file, data in hub.repos["user/muskie-nano"].items() if not file.startswith(".")}
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir()}
    export = ("export", "--checkpoint", "user/muskie-nano", "--out", tmp_path / "back.safetensors")
    done = interop(*export, hub=hub, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same(open_weights(tmp_path / "back.safetensors").params, open_weights(folder).params)
    # Once there, the hub is not needed.
    done = interop(*export, "--force", hub=hub, home=tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr


def test_the_only_file_of_weights_is_taken(hub, folder, tmp_path, monkeypatch):
    weights = (folder / "model.safetensors").read_bytes()
    hub.repos["user/other"] = {"README.md": b"", "muskie-nano.safetensors": weights}
    hub.repos["user/several"] = {"a.safetensors": weights, "b.pth": b""}
    hub.repos["user/none"] = {"README.md": b""}
    code = (
        "from muskie_jax import load_pretrained\n"
        "from muskie_jax.errors import UserError\n"
        "def attempt(*names, **options):\n"
        "    try: print(load_pretrained(*names, **options)[0].width)\n"
        "    except UserError as error: print(error)\n"
        "attempt('user/other')\n"
        "attempt('user/several')\n"
        "attempt('user/several', filename='a.safetensors')\n"
        "attempt('user/several', filename='../c.safetensors')\n"
        "attempt('user/none')\n"
        "attempt('user/missing')\n"
        "attempt('user/other', revision='v9')\n"
    )
    environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    said = done.stdout.splitlines()
    expected = [
        "48",
        "It has no model.safetensors, and has several: a.safetensors, b.pth; write one as filename=",
        "48",
        "user/several",
        "which weights of the hub's user/none? It has no model.safetensors, and has none",
        "there is no 'user/missing' here, and no such repository on the hub that you may read",
        "the hub's user/other has no revision 'v9'",
    ]
    assert len(said) == len(expected), done.stdout + done.stderr
    assert all(part in line for part, line in zip(expected, said)), done.stdout


def test_a_hub_that_is_not_there_is_one_line(tmp_path, hub):
    done = interop(
        "export", "--checkpoint", "user/any", "--out", tmp_path / "m.safetensors", hub=hub, home=tmp_path,
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: there is no 'user/any' here, and the hub could not be reached" in done.stderr
