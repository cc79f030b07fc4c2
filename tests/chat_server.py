"""A chat-completions server on loopback whose faults are scripted, for the tests of what talks to one."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 30


def completion(content: str | None, **extra: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 130}
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return {**body, **extra}


def cut_off(content: str) -> dict[str, Any]:
    """The body of a chat completion that reached the maximum of tokens."""
    return completion(None, choices=[{"index": 0, "message": {"content": content}, "finish_reason": "length"}])


@dataclass
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False
    dribble: float = 0.0
    """Seconds to keep the connection alive with blanks, as busy services do, before the body."""
    half: bool = False
    """Hang up in the middle of the body."""


def listing(*names: str, owner: str = "vllm") -> Reply:
    """The reply to the question for the models."""
    return Reply(
        body={"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner} for name in names]}
    )


@dataclass
class Seen:
    """One request as the server saw it."""

    at: float
    topic: str
    task: str
    body: dict[str, Any]
    headers: dict[str, str]
    path: str


class Server(ThreadingHTTPServer):
    """Answers every request well, except where `respond` or `faults` (used up one by one) say otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Seen] = []
        self.faults: list[Reply] = []
        self.respond: Callable[[Seen], Reply] = lambda seen: Reply(body=completion("好"))
        self.models: list[Reply] = []
        """Replies to the question for the models, the last one again and again; none: the server has no such route."""
        self.models_asked: list[dict[str, str]] = []
        """Headers."""
        self.lock = threading.Lock()
        self.now = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def topics(self) -> list[str]:
        return [seen.topic for seen in self.seen]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        task = body["messages"][-1]["content"]
        headers = {name.lower(): value for name, value in self.headers.items()}
        found = re.search(r"第(\d+)题", task)
        seen = Seen(time.monotonic(), found[1] if found else "", task, body, headers, self.path)
        with self.server.lock:
            self.server.seen.append(seen)
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            reply = self.server.faults.pop(0) if self.server.faults else self.server.respond(seen)

        def answered() -> None:
            with self.server.lock:
                self.server.now -= 1

        self.send(reply, answered)

    def do_GET(self) -> None:
        replies = self.server.models if self.path == "/v1/models" else []
        self.server.models_asked.append({name.lower(): value for name, value in self.headers.items()})
        self.send(
            (replies.pop(0) if len(replies) > 1 else replies[0]) if replies else Reply(404, {"detail": "Not Found"})
        )

    def send(self, reply: Reply, answered: Callable[[], None] = lambda: None) -> None:
        """Send it; `answered` is called before the end, after which the client may already ask again."""
        content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        blanks = int(reply.dribble / 0.05)
        try:
            time.sleep(reply.delay)
            if reply.hang_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(blanks + len(content)))
            self.end_headers()
            for _ in range(blanks):
                self.wfile.write(b" ")
                time.sleep(0.05)
        finally:
            answered()
        if reply.half:
            content, self.close_connection = content[: len(content) // 2], True
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server that answers until the block ends."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
