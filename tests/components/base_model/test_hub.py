"""The hub: a pinned snapshot over HTTP (a server here speaks the hub's protocol), and folders without a network."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.base_model.config import BaseModelConfig
from components.base_model.hub import check, provide
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import ArtifactError, ConfigError

REPO, REVISION = "owner/model", "a" * 40
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    """A repository's files, weights in two shards, and what must never be taken along."""
    folder = tmp_path_factory.mktemp("hub")
    for name, shard in zip(("a", "b"), SHARDS, strict=True):
        save_file({name: np.ones(5, np.float32)}, folder / shard)
    index = {"weight_map": dict(zip(("a", "b"), SHARDS, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_custom.py").write_text("raise SystemExit")
    return folder


def hub(**values):
    return BaseModelConfig(kind="hub", hub=values).hub


def names(folder):
    return {path.name for path in folder.iterdir()}


class Server(ThreadingHTTPServer):
    """The hub's protocol as far as a snapshot needs it: the repository's list of files, and each file with ranges."""

    def __init__(self, folder):
        self.folder, self.asked, self.broken = folder, [], False
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, headers, status=200, send=True):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET(send=False)

    def do_GET(self, send=True):
        path = self.path.partition("?")[0]
        if path.startswith("/api/"):
            files = sorted(self.server.folder.iterdir())
            known = {"id": REPO, "sha": REVISION, "siblings": [{"rfilename": path.name} for path in files]}
            tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in files]
            body = tree if "/tree/" in path else known
            self.reply(json.dumps(body).encode(), {"Content-Type": "application/json"}, send=send)
            return
        name = path.rsplit("/", 1)[1]
        body = (self.server.folder / name).read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if send:
            self.server.asked.append((name, start))
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if send and self.server.broken and name == SHARDS[1]:
            self.reply(b"", {}, 403)
            return
        self.reply(body[start:], headers, 206 if start else 200, send=send)


@pytest.fixture
def server(hub_folder):
    with Server(hub_folder) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


PROVIDE = """
import json, sys
from pathlib import Path
from components.base_model.config import BaseModelConfig
from components.base_model.hub import provide
from components.shared.runtime.errors import PixelisError
config = BaseModelConfig(kind="hub", hub={"repo": sys.argv[1], "revision": sys.argv[2]}).hub
try:
    print(json.dumps(provide(config, Path(sys.argv[3]), Path(sys.argv[4]))))
except PixelisError as error:
    print(error)
    raise SystemExit(4)
"""


def download(endpoint, root, **more):
    """`provide` in a process of its own, which reads the hub's address at its start: (exit status, output)."""
    for name in ("base", "work", "home"):
        (root / name).mkdir(exist_ok=True)
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(root / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    environment = environment | {"HF_HUB_OFFLINE": "0"} | more
    command = [sys.executable, "-c", PROVIDE, REPO, REVISION, str(root / "base"), str(root / "work")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_a_pinned_snapshot_is_downloaded_by_the_allow_list(server, hub_folder, tmp_path):
    status, output = download(f"http://127.0.0.1:{server.server_port}", tmp_path)
    assert status == 0, output
    taken = names(tmp_path / "base")
    assert {"config.json", "tokenizer.json", *SHARDS} <= taken
    assert not taken & {"pytorch_model.bin", "modeling_custom.py"}
    assert not {name for name, _ in server.asked} & {"pytorch_model.bin", "modeling_custom.py"}
    digests = json.loads(output.splitlines()[0])
    assert digests == {name: sha256_file(hub_folder / name) for name in taken}


def test_a_broken_download_names_what_is_missing_and_fetches_only_that_the_next_time(server, tmp_path):
    endpoint = f"http://127.0.0.1:{server.server_port}"
    server.broken = True
    status, output = download(endpoint, tmp_path)
    assert status == 4, output
    assert f"missing: {SHARDS[1]}." in output
    assert "base_model.hub.path" in output
    server.broken, server.asked = False, []
    status, output = download(endpoint, tmp_path)
    assert status == 0, output
    assert [name for name, _ in server.asked] == [SHARDS[1]]


def test_without_a_network_the_error_names_the_files_and_the_way_out(tmp_path):
    status, output = download("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert status == 4, output
    for words in ("config.json", "tokenizer.json", "model.safetensors", "base_model.hub.path"):
        assert words in output


def test_a_cache_folder_of_the_hub_is_accepted(hub_folder, tmp_path):
    cache = tmp_path / "models--owner--model"
    shutil.copytree(hub_folder, cache / "snapshots" / REVISION)
    for values in ({"path": str(cache)}, {"path": str(cache), "revision": REVISION}):
        target = tmp_path / f"base{len(values)}"
        target.mkdir()
        assert SHARDS[0] in provide(hub(**values), target, tmp_path)
    with pytest.raises(ArtifactError, match="aaaaaaaa"):
        provide(hub(path=str(cache), revision="b" * 40), tmp_path, tmp_path)
    shutil.copytree(hub_folder, cache / "snapshots" / ("c" * 40))
    with pytest.raises(ArtifactError, match="single one"):
        provide(hub(path=str(cache)), tmp_path, tmp_path)


def test_weights_that_the_index_does_not_name_stay_behind(hub_folder, tmp_path):
    """They are neither checked nor the model's: transformers would even prefer the single file to the shards."""
    source, target = tmp_path / "copy", tmp_path / "base"
    shutil.copytree(hub_folder, source)
    target.mkdir()
    for name in ("model.safetensors", "model-00003-of-00003.safetensors"):
        (source / name).write_bytes(b"not weights at all")
    digests = provide(hub(path=str(source)), target, tmp_path)
    assert names(target) == digests.keys() == {"config.json", "tokenizer.json", "model.safetensors.index.json", *SHARDS}


def test_shards_are_taken_under_whatever_name_the_index_gives_them(hub_folder, tmp_path):
    source, target = tmp_path / "copy", tmp_path / "base"
    shutil.copytree(hub_folder, source)
    target.mkdir()
    (source / SHARDS[0]).rename(source / "language.safetensors")
    index = {"weight_map": {"a": "language.safetensors", "b": SHARDS[1]}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    provide(hub(path=str(source)), target, tmp_path)
    assert "language.safetensors" in names(target) and SHARDS[0] not in names(target)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", *SHARDS])
def test_missing_files_are_named(hub_folder, tmp_path, name):
    shutil.copytree(hub_folder, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        check(tmp_path / "copy", hub(path="x"))


def test_truncated_weights_are_refused(hub_folder, tmp_path):
    shutil.copytree(hub_folder, tmp_path / "copy")
    weights = tmp_path / "copy" / SHARDS[1]
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="no whole safetensors file"):
        check(tmp_path / "copy", hub(path="x"))


@pytest.mark.parametrize("name", ["../model.safetensors", "pytorch_model.bin", "sub/model.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(hub_folder, tmp_path, name):
    shutil.copytree(hub_folder, tmp_path / "copy")
    (tmp_path / "copy/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ArtifactError, match="no weight index"):
        check(tmp_path / "copy", hub(path="x"))


def test_a_folder_without_index_needs_the_one_file(hub_folder, tmp_path):
    shutil.copytree(hub_folder, tmp_path / "copy")
    (tmp_path / "copy/model.safetensors.index.json").unlink()
    with pytest.raises(ArtifactError, match=r"lacks model\.safetensors,"):
        check(tmp_path / "copy", hub(path="x"))


def test_digests_are_checked(hub_folder, tmp_path):
    right = sha256_file(hub_folder / SHARDS[0])
    found = provide(hub(path=str(hub_folder), sha256={SHARDS[0]: right}), tmp_path, tmp_path)
    assert found[SHARDS[0]] == right
    with pytest.raises(ArtifactError, match="expected 000000000000"):
        provide(hub(path=str(hub_folder), sha256={SHARDS[0]: "0" * 64}), tmp_path, tmp_path)


@pytest.mark.parametrize("revision", ["main", "abc", "g" * 40])
def test_a_revision_must_be_a_commit(revision):
    with pytest.raises(ConfigError):
        BaseModelConfig.parse(f'{{"kind": "hub", "hub": {{"revision": "{revision}"}}}}', name="base_model")


@pytest.mark.parametrize("policy", ["prefix", "prefix_trm", "trm_decoder"])
def test_a_policy_that_is_trained_here_is_not_downloaded(policy):
    with pytest.raises(ConfigError, match=f"policy {policy} is built and trained here"):
        BaseModelConfig.parse(f'{{"kind": "hub", "policy": "{policy}", "hub": {{"path": "x"}}}}', name="base_model")


def test_hub_without_revision_or_path_is_refused():
    with pytest.raises(ConfigError, match=r"hub\.revision"):
        BaseModelConfig.parse('{"kind": "hub"}', name="base_model")
