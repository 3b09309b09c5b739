"""The service as the world meets it: real servers under load, slow clients, signals, lost workers, spoilt models.

The heavy form, a minute of load among it: `EIGEN_DIGITS_HEAVY=1 pytest tests/test_service.py -s`
"""

import asyncio
import base64
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from conftest import encoded, free_port
from PIL import Image

from eigen_digits.inference import shipped_artefact
from eigen_digits.preprocessing import rasterize

HEAVY = os.environ.get("EIGEN_DIGITS_HEAVY") == "1"
HOST, PATIENCE = "127.0.0.1", 60  # seconds, on a machine that is busy with other tests
SEVEN = [[(80, 70), (195, 66), (150, 140), (120, 225)], [(105, 145), (180, 140)]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGTERM")


PICTURE = encoded(rasterize(SEVEN))
STROKES = json.dumps({"strokes": SEVEN}).encode()


class Server(NamedTuple):
    """A server that runs in a process of its own."""

    process: subprocess.Popen
    port: int
    log: Path  # what it writes to standard output and error

    def workers(self) -> set[int]:
        """The processes that answer, where there are several."""
        found = psutil.Process(self.process.pid).children()
        return {one.pid for one in found if "spawn_main" in " ".join(one.cmdline())}

    def memory(self) -> int:
        """Bytes of memory that it takes."""
        return psutil.Process(self.process.pid).memory_info().rss


def command(port: int, *options: str) -> list[str]:
    """What starts a server."""
    code = "from eigen_digits.cli import main; main()"
    return [sys.executable, "-c", code, "serve", "--port", str(port), *options]


def environment(**settings) -> dict[str, str]:
    """This environment with the settings of the mode `test`, and no other."""
    ours = re.compile("(ENV_STATE|(DEV|PROD|TEST)_.*|PROMETHEUS_MULTIPROC_DIR)$")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return kept | {"ENV_STATE": "test"} | {f"TEST_{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def serving(folder: Path, *options: str, **settings):
    """Start a server, wait until it can answer, and stop it at the end."""
    port, log = free_port(), folder / "server.log"
    with open(log, "wb") as said:
        process = subprocess.Popen(
            command(port, *options), cwd=folder, env=environment(**settings), stdout=said, stderr=subprocess.STDOUT
        )
    server = Server(process, port, log)
    try:
        wait_until(lambda: status_of(server, "/readyz") == 200, "the server", process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(holds, what: str, process: subprocess.Popen | None = None) -> None:
    """Wait until `holds()` is true; fail where that does not come, or the process ends before."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"did not come: {what}"
        assert process is None or process.poll() is None, f"ended before {what} came"
        time.sleep(0.05)


def ask(server: Server, method: str, path: str, body: bytes | None = None, kind: str = "application/json"):
    """One request on a connection of its own; the response and its body."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def status_of(server: Server, path: str) -> int | None:
    """The status of a GET; None where nobody listens."""
    try:
        return ask(server, "GET", path)[0].status
    except OSError:
        return None


def digit_of(server: Server) -> int:
    """What the server makes of a seven."""
    response, body = ask(server, "POST", "/api/v2/predict", STROKES)
    assert response.status == 200, body
    return json.loads(body)["digit"]


# Slow clients


def begun(server: Server, announced: int, sent: bytes = b"") -> socket.socket:
    """A connection on which a request has begun, with a body that is announced and not all sent."""
    connection = socket.create_connection((HOST, server.port), PATIENCE)
    head = f"POST /api/v2/predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {announced}\r\n\r\n".encode() + sent)
    return connection


def rest(connection: socket.socket) -> bytes:
    """What comes on a connection until it is closed, or has one whole answer."""
    parts = b""
    while part := connection.recv(65536):
        parts += part
        head, _, body = parts.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length and len(body) >= int(length[1]):
            break
    return parts


def test_slow_and_silent_clients_do_not_starve_others(tmp_path):
    with serving(tmp_path, timeout=3, max_concurrent=2) as server:
        silent = [socket.create_connection((HOST, server.port), PATIENCE) for _ in range(200)]
        slow = [begun(server, 1000, b"{") for _ in range(100)]
        half_a_head = [socket.create_connection((HOST, server.port), PATIENCE) for _ in range(100)]
        for connection in half_a_head:
            connection.sendall(b"POST /api/v2/predict HT")
        assert [digit_of(server) for _ in range(20)] == [7] * 20
        assert {rest(connection).split(b" ")[1] for connection in slow} == {b"408"}
        assert digit_of(server) == 7
        for connection in silent + slow + half_a_head:
            connection.close()


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(tmp_path):
    with serving(tmp_path, max_body=5000) as server:
        with begun(server, 5001) as connection:  # of which not a byte is sent
            assert rest(connection).startswith(b"HTTP/1.1 413")
        head = b"POST /api/v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection((HOST, server.port), PATIENCE) as connection:
            connection.sendall(head + b"".join(b"3e8\r\n" + b"7" * 1000 + b"\r\n" for _ in range(6)))  # and goes on
            answer = rest(connection)
            assert answer.startswith(b"HTTP/1.1 413") and b"5,000 bytes" in answer
        assert digit_of(server) == 7


# Signals


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_finishes_what_is_in_flight(tmp_path, workers):
    with serving(tmp_path, "--workers", str(workers)) as server:
        connection = begun(server, len(STROKES), STROKES[:10])
        assert digit_of(server) == 7  # so the server has seen the one before
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.log.read_text().count("Shutting down") == workers, "what it says at the end")
        assert server.process.poll() is None
        connection.sendall(STROKES[10:])
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 200") and b'"digit":7' in answer
        connection.close()
        assert server.process.wait(PATIENCE) in (0, -signal.SIGTERM)


# Workers


def test_several_workers_keep_one_count(tmp_path):
    with serving(tmp_path, workers=2) as server:
        wait_until(lambda: len(server.workers()) == 2, "both workers")
        assert [digit_of(server) for _ in range(30)] == [7] * 30
        for count in ('predictions_total{digit="7"} 30.0', 'requests_total{route="/api/v2/predict",status="200"} 30.0'):
            wait_until(lambda count=count: count in metrics(server), count)  # written down once an answer is sent


def metrics(server: Server) -> str:
    """What the server has counted."""
    return ask(server, "GET", "/metrics")[1].decode()


def test_a_killed_worker_loses_only_its_own_requests_and_comes_back(tmp_path):
    kills = 5 if HEAVY else 2
    with serving(tmp_path, workers=2) as server:
        wait_until(lambda: len(server.workers()) == 2, "both workers")
        found = Counter()
        for _ in range(kills):
            found += asyncio.run(under_load(server, 8, lambda: lose_one(server)))
            wait_until(lambda: len(server.workers()) == 2, "another worker")
        print(f"\n{kills} workers killed under load of 8 connections: {dict(found)}")
        assert set(found) <= {200, "lost"}
        assert found["lost"] <= 8 * kills  # one for each connection, and most of these had the other worker
        assert found[200] > 20 * kills
        assert digit_of(server) == 7


async def lose_one(server: Server) -> None:
    """Kill one worker, a moment after the load has begun."""
    await asyncio.sleep(0.5)
    os.kill(min(server.workers()), signal.SIGKILL)
    await asyncio.sleep(1)


async def under_load(server: Server, connections: int, meanwhile) -> Counter:
    """Ask over several connections for as long as something else takes; how the requests ended."""
    found, over = Counter(), asyncio.Event()

    async def client():
        talk = Talk(server)
        while not over.is_set():
            try:
                found[(await talk.ask("/api/v2/predict", STROKES))[0]] += 1
            except (OSError, asyncio.IncompleteReadError):
                found["lost"] += 1
                talk = Talk(server)
        talk.close()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    await meanwhile()
    over.set()
    await asyncio.gather(*clients)
    return found


class Talk:
    """A connection that is kept for many requests."""

    def __init__(self, server: Server):
        self.port, self.reader, self.writer = server.port, None, None

    async def ask(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Post a body; the status and the answer."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        answer = await self.reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ")[1]), answer

    def close(self) -> None:
        """Hang up."""
        if self.writer:
            self.writer.close()
        self.writer = None


# Load


def mixed() -> list[tuple[str, bytes, str, int]]:
    """Requests of all kinds, good and bad: path, body, its type, the status they must get."""
    photo = Image.fromarray(np.tile(np.linspace(120, 255, 1600, dtype=np.uint8), (1200, 1)))
    photo.paste(rasterize(SEVEN), (600, 400))
    v1 = json.dumps({"image_base64": base64.b64encode(PICTURE).decode()}).encode()
    batch = json.dumps({"questions": [{"strokes": SEVEN}] * 4 + [{}]}).encode()
    json_ = "application/json"
    return [
        ("/api/v2/predict", STROKES, json_, 200),
        ("/api/v2/predict", STROKES, json_, 200),
        ("/api/v2/predict", PICTURE, "image/png", 200),
        ("/api/v1/predict", v1, json_, 200),
        ("/api/v2/predict", encoded(photo, "JPEG"), "image/jpeg", 200),
        ("/api/v2/predict/batch", batch, json_, 200),
        ("/api/v2/predict", PICTURE[:-50], "image/png", 400),
        ("/api/v1/predict", b'{"image_base64": "@"}', json_, 400),
        ("/api/v2/predict", b'{"strokes": 7}', json_, 422),
        ("/api/v1/predict", b"[" * 5000, json_, 400),
        ("/api/v2/predict", PICTURE, "text/plain", 415),
        ("/api/v2/predict", b"7" * 200_001, "image/png", 413),
    ]


def test_load_of_good_and_bad_requests_leaves_no_trace(tmp_path):
    seconds, connections = (60, 64) if HEAVY else (6, 64)
    with serving(tmp_path, max_body=200_000) as server:
        asyncio.run(loaded(server, connections, seconds / 3))  # to warm up
        before = server.memory()
        found = asyncio.run(loaded(server, connections, seconds))
        growth = server.memory() / before - 1
        wrong = {asked: counts for asked, counts in found.items() if asked[1] != asked[2]}
        print(f"\n{connections} connections, {seconds} s, memory {before / 1e6:.0f} MB and {growth:+.1%}")
        print(f"{'path':24}{'status':>7}{'count':>7}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}")
        for (path, _, status), times in sorted(found.items()):
            cuts = quantiles(times, n=100) if len(times) > 1 else times * 99
            print(f"{path:24}{status:>7}{len(times):>7}{cuts[49]:>8.1f}{cuts[94]:>8.1f}{cuts[98]:>8.1f}")
        assert not wrong
        assert {status for _, _, status in found} == {200, 400, 413, 415, 422}
        assert growth < 0.1


async def loaded(server: Server, connections: int, seconds: float) -> dict[tuple[str, int, int], list[float]]:
    """Ask for a while over several connections; milliseconds by path, expected and given status."""
    found, end, requests = {}, time.monotonic() + seconds, mixed()

    async def client(number: int):
        talk, chance = Talk(server), random.Random(number)
        while time.monotonic() < end:
            path, body, kind, expected = chance.choice(requests)
            start = time.monotonic()
            status, _ = await talk.ask(path, body, kind)
            found.setdefault((path, expected, status), []).append(1000 * (time.monotonic() - start))
        talk.close()

    await asyncio.gather(*map(client, range(connections)))
    return found


# The log


def test_a_line_for_each_request_and_nothing_of_what_was_in_it(tmp_path):
    body = json.dumps({"image_base64": base64.b64encode(PICTURE).decode()}).encode()
    with serving(tmp_path) as server:
        ids = [ask(server, "POST", "/api/v1/predict?who=me", body)[0].getheader("x-request-id") for _ in range(3)]
        ids.append(ask(server, "POST", "/api/v2/predict", b"no json")[0].getheader("x-request-id"))
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["method"] == "POST"]
    assert [line["id"] for line in asked] == ids
    assert [line["status"] for line in asked] == [200, 200, 200, 422]
    assert {tuple(line) for line in lines} == {("time", "id", "client", "method", "path", "status", "ms")}
    assert base64.b64encode(PICTURE).decode()[:40] not in text and "who=me" not in text


# Models that must not be served


def without_network(folder: Path):
    (folder / "model.tflite").unlink()


def truncated(folder: Path):
    data = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(data[: len(data) // 2])


def one_bit_altered(folder: Path):
    data = bytearray((folder / "model.tflite").read_bytes())
    data[len(data) // 3] ^= 1
    (folder / "model.tflite").write_bytes(data)


def with_altered_ink(folder: Path):
    data = bytearray((folder / "ink.tflite").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "ink.tflite").write_bytes(data)


def of_another_format(folder: Path):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 4}))


def without_description(folder: Path):
    (folder / "model.json").unlink()


@pytest.mark.parametrize(
    "spoil, named",
    [
        (without_network, "model.tflite"),
        (truncated, "model.tflite"),
        (one_bit_altered, "model.tflite"),
        (with_altered_ink, "ink.tflite"),
        (of_another_format, "model.json"),
        (without_description, "model.json"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_spoilt_model_stops_the_start_and_is_named(tmp_path, spoil, named, workers):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.json", "model.tflite", "ink.tflite"):
        shutil.copy(shipped_artefact() / name, folder)
    spoil(folder)
    done = subprocess.run(
        command(0, "--workers", str(workers)),
        cwd=tmp_path,
        env=environment(model=folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert named in done.stderr and "Traceback" not in done.stderr
