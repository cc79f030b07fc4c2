"""A base comes from a hub, a mirror or ModelScope; what has arrived is kept, and nothing arrives that could run code."""

import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, quiet

from gaokao import downloads
from gaokao.errors import Interrupted, UserError

# The client hands on 10 MB at a time: what is less is not kept.
WEIGHTS = bytes(range(256)) * 100_000
HUB_REPOSITORY = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "LICENSE": b"Apache License",
    "modeling_own.py": b"pass",
    "pytorch_model.bin": WEIGHTS,
    "original/consolidated.pt": WEIGHTS,
    "README.md": b"#",
}
SAFE = ["LICENSE", "chat_template.jinja", "config.json", "merges.txt", "model.safetensors", "tokenizer.json"]


class Hub(ThreadingHTTPServer):
    """As much of a model hub as a download needs; ends in the middle of the weights, or stops there, as it is told."""

    daemon_threads = True

    def __init__(self, breaks: int = 0, stalls: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.breaks, self.stalls = breaks, stalls
        self.weights = WEIGHTS
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """A connection that is gone is what some tests are about."""

    def gets(self) -> list[str]:
        """The files that were asked for, each with where its part began if not at 0."""
        return [line.removeprefix("GET /own/model/resolve/") for line in self.asked if line.startswith("GET /own/")]


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path, span = self.path.split("?")[0], self.headers.get("Range", "")
        self.server.asked.append(f"{self.command} {path}{f' {span}' if span else ''}")
        revision, _, name = path.removeprefix("/own/model/resolve/").partition("/")
        if re.fullmatch("/api/models/own/model(/revision/[^/]+)?", path):
            commit = {"model": "a" * 40, "main": "a" * 40, "v2": "b" * 40}[path.rsplit("/", 1)[1]]
            self.reply(json.dumps({"id": "own/model", "sha": commit, "siblings": []}).encode())
        elif path.startswith("/api/models/own/model/tree/"):
            self.reply(json.dumps([self.entry(name) for name in HUB_REPOSITORY]).encode())
        elif name in HUB_REPOSITORY:
            body = self.body(name)
            headers = {"ETag": f'"{self.digest(name)}"', "X-Repo-Commit": revision}
            if start := int(span.removeprefix("bytes=").rstrip("-") or 0):
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self.reply(body[start:], headers, 206, large=body is self.server.weights)
            else:
                self.reply(body, headers, large=body is self.server.weights)
        else:
            self.reply(b"{}", status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_CONNECT(self) -> None:
        self.server.asked.append(f"CONNECT {self.path}")
        self.reply(b"", status=403)

    def body(self, name: str) -> bytes:
        return self.server.weights if HUB_REPOSITORY[name] is WEIGHTS else HUB_REPOSITORY[name]

    def digest(self, name: str) -> str:
        """The hub names large files by the SHA-256 of what is in them, others by one of git's."""
        body = HUB_REPOSITORY[name]
        return hashlib.sha256(body).hexdigest() if body is WEIGHTS else hashlib.sha1(name.encode()).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        size = len(self.body(name))
        found = {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
        large = {"lfs": {"oid": self.digest(name), "size": size, "pointerSize": 134}}
        return found | (large if HUB_REPOSITORY[name] is WEIGHTS else {})

    def reply(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200, large: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if large and (self.server.breaks or self.server.stalls):
            if stalls := self.server.stalls:
                self.server.stalls -= 1
            else:
                self.server.breaks -= 1
            self.wfile.write(body[: len(body) * 3 // 4])
            self.wfile.flush()
            if stalls:
                # Until the other side goes.
                self.connection.recv(1)
            # Closed without lingering, the peer's kernel reports a reset: an error of the transport, not of the hub.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()


# In a process of its own, for the library reads its settings when it is imported.
DOWNLOADS = """
import json, sys
from gaokao import downloads
from gaokao.errors import UserError
for arguments in json.loads(sys.argv[1]):
    say = []
    try:
        folder = downloads.download("own/model", **{"hub": "huggingface", "revision": None, "say": say.append, **arguments})
        found = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    except UserError as error:
        found = str(error)
    print(json.dumps([found, say]))
"""


def start(cache: Path, calls: list[dict[str, Any]], **env: str) -> "subprocess.Popen[str]":
    names = [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]
    return subprocess.Popen(
        [sys.executable, "-c", DOWNLOADS, json.dumps(calls)],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k not in names}, "HF_HOME": str(cache), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def download(cache: Path, calls: list[dict[str, Any]], **env: str) -> list[Any]:
    """What each call returned or said, and the lines of progress before."""
    process = start(cache, calls, **env)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return [json.loads(line) for line in stdout.splitlines()]


def begun(line: str) -> int:
    """Where the part of a file began that was asked for."""
    return int(line.partition("bytes=")[2].rstrip("-") or 0)


def test_a_transfer_that_breaks_off_ends_in_the_remedy_and_the_next_call_goes_on_where_it_stopped(
    tmp_path: Path,
) -> None:
    hub = Hub(breaks=1)
    (broken, first), (whole, second), (again, third) = download(tmp_path, [{}, {}, {}], HF_ENDPOINT=hub.address)
    hub.shutdown()
    assert broken.startswith("model.base = own/model: cannot be downloaded from huggingface (")
    for part in (
        "run the same command again: what has arrived is kept, and the same command goes on where it stopped",
        "set model.hub: modelscope",
        "https://hf-mirror.com",
        "set model.base to the folder",
    ):
        assert part in broken
    assert whole == again == SAFE
    assert first == ["download  own/model: 0.03 GB; Ctrl-C keeps what has arrived"]
    assert second == ["download  own/model: goes on at 0.01 of 0.03 GB; Ctrl-C keeps what has arrived"]
    assert third == []
    # Every file was asked for once, the weights in two parts.
    files = [line.partition("/")[2] for line in hub.gets()]
    assert sorted(line.split()[0] for line in files) == sorted([*SAFE, "model.safetensors"])
    parts = [begun(line) for line in files if line.startswith("model.safetensors")]
    assert parts[0] == 0 and len(WEIGHTS) / 4 < parts[1] < len(WEIGHTS)
    (blob,) = (tmp_path / "hub").rglob(hashlib.sha256(WEIGHTS).hexdigest())
    assert blob.read_bytes() == WEIGHTS
    assert not [*(tmp_path / "hub").rglob("*.part")]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT for another process, which Windows cannot send")
def test_ctrl_c_in_a_download_keeps_what_has_arrived_and_says_so(tmp_path: Path) -> None:
    hub = Hub(stalls=1)
    process = start(tmp_path, [{}], HF_ENDPOINT=hub.address)
    deadline = time.time() + 120
    while time.time() < deadline and not any(file.stat().st_size for file in (tmp_path / "hub").rglob("*.part")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    ((said, _),) = map(json.loads, stdout.splitlines())
    assert said == (
        "in the download of own/model; what has arrived is kept, and the same command goes on where it stopped"
    )
    ((whole, _),) = download(tmp_path, [{}], HF_ENDPOINT=hub.address)
    hub.shutdown()
    assert whole == SAFE
    assert [begun(line) > 0 for line in hub.gets() if "/model.safetensors" in line] == [False, True]


def test_two_halves_of_different_files_are_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    hub = Hub(breaks=1)
    download(tmp_path, [{}], HF_ENDPOINT=hub.address)
    hub.weights = WEIGHTS[::-1]
    ((said, _),) = download(tmp_path, [{}], HF_ENDPOINT=hub.address)
    assert "arrived damaged and is fetched from its beginning the next time" in said
    assert not [*(tmp_path / "hub").rglob("*.part")]
    hub.weights = WEIGHTS
    ((whole, _),) = download(tmp_path, [{}], HF_ENDPOINT=hub.address)
    hub.shutdown()
    assert whole == SAFE


def test_where_the_disk_knows_no_links_a_large_file_is_there_once(tmp_path: Path) -> None:
    hub = Hub()
    (whole, _), (again, said) = download(tmp_path, [{}, {}], HF_ENDPOINT=hub.address, HF_HUB_DISABLE_SYMLINKS="1")
    hub.shutdown()
    assert whole == again == SAFE and said == []
    large = [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size == len(WEIGHTS)]
    assert [path.name for path in large] == ["model.safetensors"] and not large[0].is_symlink()


def test_a_part_that_is_longer_than_its_file_is_begun_anew(tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--own--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.part").write_bytes(WEIGHTS + b"x")
    hub = Hub()
    ((whole, _),) = download(tmp_path, [{}], HF_ENDPOINT=hub.address)
    hub.shutdown()
    assert whole == SAFE and (blobs / hashlib.sha256(WEIGHTS).hexdigest()).read_bytes() == WEIGHTS


def test_a_mirror_is_asked_instead_of_the_hub_and_python_comes_only_where_it_is_trusted(tmp_path: Path) -> None:
    hub = Hub()
    calls: list[dict[str, Any]] = [
        {"hub": hub.address},
        {"hub": hub.address, "revision": "v2", "trust_remote_code": True},
    ]
    (whole, _), (trusted, lines) = download(tmp_path, calls, HF_ENDPOINT="https://hub.invalid")
    hub.shutdown()
    assert (whole, trusted) == (SAFE, sorted([*SAFE, "modeling_own.py"]))
    # The other revision is asked for by its own commit, and what it shares with the first is there.
    assert [line for line in hub.gets() if not line.startswith("a" * 40)] == ["b" * 40 + "/modeling_own.py"]
    assert lines == []
    assert not any(name in line for line in hub.asked for name in (".bin", ".pt", "README"))


def test_what_is_cached_is_taken_where_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    hub = Hub()
    download(tmp_path, [{}], HF_ENDPOINT=hub.address)
    hub.shutdown()
    hub.server_close()
    for env in ({"HF_ENDPOINT": hub.address}, {"HF_HUB_OFFLINE": "1"}):
        assert download(tmp_path, [{}], **env) == [[SAFE, []]]


def test_a_proxy_that_refuses_ends_in_the_remedy(tmp_path: Path) -> None:
    proxy = Hub()
    ((said, _),) = download(tmp_path, [{}], HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=proxy.address)
    proxy.shutdown()
    assert any(line.startswith("CONNECT hub.invalid") for line in proxy.asked)
    assert said.startswith("model.base = own/model: cannot be downloaded from huggingface (")
    assert "the network and the proxy" in said


def test_a_full_disk_in_a_download_is_not_taken_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(UserError, match="the disk is full .* goes on where it stopped. Make room, or set .* HF_HOME"):
        downloads.download("own/model", "huggingface", None, say=quiet)


def test_modelscope_is_asked_for_the_same_files_and_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        if len(calls) == 2:
            raise RuntimeError("429\nand more")
        if len(calls) == 3:
            raise KeyboardInterrupt
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "modelscope", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert downloads.download("own/model", "modelscope", "v2") == tmp_path
    assert calls == [("own/model", {"revision": "v2", "allow_patterns": downloads.HUB_FILES})]
    with pytest.raises(
        UserError, match=r"cannot be downloaded from modelscope \(429\)\..* set model\.hub: huggingface"
    ):
        downloads.download("own/model", "modelscope", None)
    with pytest.raises(Interrupted, match="the same command goes on where it stopped"):
        downloads.download("own/model", "modelscope", None)


def test_modelscope_without_its_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(UserError, match="pip install modelscope"):
        downloads.download("Qwen/Qwen2.5-14B-Instruct", "modelscope", None)
