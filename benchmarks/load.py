"""Servers as single processes, and load upon them with wrk."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, NamedTuple

from .rounds import AS_INSTALLED, ROOT, MissingError, environment

HOST = "127.0.0.1"
_AS_SERVED = AS_INSTALLED | {"PYTHONDONTWRITEBYTECODE": None}
_SCRIPT = Path(__file__).with_name("wrk.lua")


class Server(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen
    port: int
    said: IO[str]  # what it has written to its standard error


@contextmanager
def running(app: str, python: str | Path = sys.executable, **variables: str) -> Iterator[Server]:
    """Start an application with uvicorn on a free port, which may not answer yet, and stop it at the end."""
    port = _free_port()
    command = [python, "-m", "uvicorn", app, "--host", HOST, "--port", str(port)]
    command += ["--log-level", "warning", "--no-access-log"]
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(_AS_SERVED | variables), stderr=said)
        try:
            yield Server(process, port, said)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def ask(server: Server, path: str, body: str) -> dict:
    """Post a body on a connection of its own; raises `OSError` where nobody listens, `MissingError` for a 404."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status == 404:
        raise MissingError(f"the server has no route POST {path}; check out a version of eigen_digits that has it")
    if response.status != 200:
        raise RuntimeError(f"POST {path} answers {response.status}: {text[:200]}")
    return json.loads(text)


def first_answer(server: Server, path: str, body: str, within: float = 120.0) -> dict:
    """Ask a server that is starting until it answers, at most for `within` seconds."""
    end = time.monotonic() + within
    while True:
        try:
            return ask(server, path, body)
        except ConnectionRefusedError:
            if server.process.poll() is not None:
                server.said.seek(0)
                end_of_it = server.said.read()[-1000:]
                raise RuntimeError(f"the server ended with code {server.process.returncode}: {end_of_it}") from None
            if time.monotonic() > end:
                raise RuntimeError(f"the server did not listen within {within:g} s") from None
            time.sleep(0.002)


class Load(NamedTuple):
    """What a server stood."""

    rate: float  # answers per second
    p50: float  # milliseconds, the median latency


def load(server: Server, path: str, bodies: list[str], connections: int, seconds: int) -> Load:
    """Post bodies in turn over so many connections, always anew; raises `RuntimeError` if an answer is not a 200."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise MissingError("wrk is not installed; it puts the load on the servers: `apt-get install wrk`")
    url = f"http://{HOST}:{server.port}{path}"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bodies"
        file.write_text("\n".join(bodies))
        # Where sixteen wait for a slow server, the last waits longer than the two seconds that wrk has patience for.
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", _SCRIPT, url, "--", file]
        done = subprocess.run(command, capture_output=True, text=True)
    figures = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("figures ")]
    if not figures:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    answers, microseconds, p50, failed = map(float, figures[0])
    if failed or not answers:
        raise RuntimeError(f"POST {path}: {failed:.0f} of {answers:.0f} requests failed under load")
    time.sleep(1)  # what was under way when wrk stopped must not load the machine in the next round
    return Load(answers / microseconds * 1e6, p50 / 1e3)
