"""Take the steps of docker/Dockerfile without a container engine, then measure and try the server that they make.

With the `dev` extra installed, and where pip reaches a registry:

    python tools/docker_replay.py

A stage is a folder that stands for an image's file system, with a new environment of this Python for the base image.
It sees what .dockerignore lets through and COPY names, and of this machine's environment only how to reach a registry.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.request import ProxyHandler, Request, build_opener

from eigen_digits.data import available, load
from eigen_digits.inference import Recognizer
from eigen_digits.preprocessing import load_image

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
IGNORE = ROOT / ".dockerignore"

BASE_MB = 130  # python:3.11-slim on amd64: `docker image ls` has told from 124 to 130 MB, by the release of Debian
MOST_MB = 300  # for base and layers together
START_SECONDS = 30  # for the server to become healthy
STOP_SECONDS = 10  # after which `docker stop` would kill it

# How this machine reaches a registry is no part of the image; every other variable stays outside.
REGISTRY = re.compile(
    r"PIP_(CERT|CONFIG_FILE|CONSTRAINT|DEFAULT_TIMEOUT|(EXTRA_)?INDEX_URL|FIND_LINKS|TRUSTED_HOST)"
    r"|SSL_CERT_(DIR|FILE)|(https?|all|no)_proxy",
    re.IGNORECASE,
)
IMAGE_PATH = re.compile(r"(?<=[\s=])/(?=\w)")  # in a RUN, the start of a path that is the image's


class ReplayError(Exception):
    """A step that cannot be taken, or an image that is not as it must be."""


def check(good: bool, problem: str) -> None:
    """Raise a `ReplayError` that tells the problem, unless all is good."""
    if not good:
        raise ReplayError(problem)


class Step(NamedTuple):
    """An instruction of a Dockerfile: `COPY`, its flags, and the rest of the line."""

    word: str
    flags: dict[str, str]
    rest: str


def read_steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile, each with its continued lines in one, without comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    steps = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, rest = line.split(maxsplit=1)
        flags = re.match(r"(--\S+\s+)*", rest)[0]
        pairs = (flag.removeprefix("--").partition("=") for flag in flags.split())
        steps.append(Step(word.upper(), {name: value for name, _, value in pairs}, rest[len(flags) :].strip()))
    return steps


def exec_form(text: str) -> list[str]:
    """The words of a command in exec form, which no shell comes before."""
    try:
        return json.loads(text)
    except ValueError:
        raise ReplayError(f"not in exec form: {text}") from None


def health_command(step: Step) -> list[str]:
    """The command of a HEALTHCHECK."""
    return exec_form(step.rest.removeprefix("CMD").strip())


def context_sources(steps: list[Step]) -> list[str]:
    """What COPY takes from the build's context."""
    return [source for step in steps if step.word == "COPY" and not step.flags for source in step.rest.split()[:-1]]


def is_ignored(path: str, patterns: list[str]) -> bool:
    """Whether a .dockerignore keeps a path out: the last pattern for it, or for a folder above it, decides."""
    ignored = False
    for pattern in patterns:
        name = re.escape(pattern.removeprefix("!").strip("/"))
        name = name.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        if re.fullmatch(f"{name}(/.*)?", path):
            ignored = not pattern.startswith("!")
    return ignored


def read_patterns(text: str) -> list[str]:
    """The patterns of a .dockerignore."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def files_of(path: Path) -> list[Path]:
    """The files below a folder, or the one file that the path is."""
    return [path] if path.is_file() else [found for found in path.rglob("*") if not found.is_dir()]


def send_context(sources: list[str], context: Path) -> None:
    """Copy from the repository what COPY names and .dockerignore lets through."""
    patterns = read_patterns(IGNORE.read_text(encoding="utf-8"))
    for path in (path for source in sources for path in files_of(ROOT / source)):
        name = path.relative_to(ROOT)
        if not is_ignored(name.as_posix(), patterns):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, context / name)


class Stage:
    """The image of one FROM: its file system in a folder, and what its steps set for a container."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.workdir = "/"
        self.env: dict[str, str] = {}
        self.command: list[str] = []
        self.health: list[str] = []
        self.layers: dict[str, int] = {}  # the bytes that each step added
        venv.create(folder / "usr" / "local", with_pip=True)  # where the base image has its Python
        self.base = set(files_of(folder))

    def path(self, name: str) -> Path:
        """Where a path of the image is on this machine."""
        return self.folder / os.path.join(self.workdir, name).lstrip("/")

    def environment(self) -> dict[str, str]:
        """The environment of a container."""
        return {"PATH": f"{self.folder}/usr/local/bin:/usr/bin:/bin", "HOME": f"{self.folder}/root", **self.env}

    def added(self) -> list[Path]:
        """The files that the base image did not have."""
        return [path for path in files_of(self.folder) if path not in self.base]

    def copy(self, origin: Path, rest: str) -> None:
        """COPY: files into a folder, or the contents of a folder."""
        *sources, target = rest.split()
        for source in sources:
            path = origin / source.lstrip("/")
            check(path.exists(), f"COPY {source}: there is none, or .dockerignore keeps it out")
            if path.is_dir():
                shutil.copytree(path, self.path(target), symlinks=True, dirs_exist_ok=True)
            else:
                self.path(target).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, self.path(target))

    def run(self, line: str) -> None:
        """RUN: by a shell, with the image's paths in place of this machine's."""
        registry = {name: value for name, value in os.environ.items() if REGISTRY.fullmatch(name)}
        line = IMAGE_PATH.sub(f"{self.folder}/", line)
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.path(""),
            env=registry | self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        check(done.returncode == 0, f"RUN {line}\n{done.stdout}")


def take(step: Step, stage: Stage, folder: Path) -> None:
    """Take one step in a stage; the context and the stages before it are in the folder."""
    if step.word == "WORKDIR":
        stage.workdir = os.path.join(stage.workdir, step.rest)
        stage.path("").mkdir(parents=True, exist_ok=True)
    elif step.word == "COPY":
        stage.copy(folder / step.flags.get("from", "context"), step.rest)
    elif step.word == "RUN":
        stage.run(step.rest)
    elif step.word == "ENV":
        stage.env |= dict(pair.split("=", 1) for pair in shlex.split(step.rest))
    elif step.word == "CMD":
        stage.command = exec_form(step.rest)
    elif step.word == "HEALTHCHECK":
        stage.health = health_command(step)
    else:  # USER: to run as another user takes root's rights, so what the server writes is looked at instead
        check(step.word in ("EXPOSE", "USER"), f"{step.word} is not known here")


def build(steps: list[Step], folder: Path) -> Stage:
    """Take all steps; the last stage."""
    send_context(context_sources(steps), folder / "context")
    stage, name = None, ""
    for step in steps:
        if step.word == "FROM":
            if stage:  # each stage has its turn at one place, since the scripts that pip writes name their Python by it
                stage.folder.rename(folder / name)
            stage, name = Stage(folder / "image"), step.rest.split()[-1]
            continue
        before = sum(path.lstat().st_size for path in stage.added())
        take(step, stage, folder)
        if size := sum(path.lstat().st_size for path in stage.added()) - before:
            stage.layers[f"{step.word} {step.rest}"] = size
    return stage


def measure(stage: Stage) -> None:
    """Print the size of the image, and refuse one that is too large or has what only a build needs."""
    layers = sum(stage.layers.values()) / 1e6
    for step, size in stage.layers.items():
        print(f"{size / 1e6:6.1f} MB  {step}")
    print(f"{layers:6.1f} MB  all layers\n{BASE_MB:6.1f} MB  the base image\n{BASE_MB + layers:6.1f} MB  the image")
    check(BASE_MB + layers < MOST_MB, f"the image has {BASE_MB + layers:.1f} MB, and may have {MOST_MB}")
    names = [path.relative_to(stage.folder) for path in stage.added()]
    left = [str(name) for name in names if name.suffix == ".pyc" or ".cache" in name.parts]
    check(not left, f"the image has {len(left)} files of bytecode or caches, {left[:1]} among them")


def is_healthy(stage: Stage, env: dict[str, str]) -> bool:
    """Run the HEALTHCHECK, with a proxy that answers nothing, as Docker may have set one for every container."""
    proxies = dict.fromkeys(["http_proxy", "HTTP_PROXY"], "http://127.0.0.1:9")
    done = subprocess.run(stage.health, cwd=stage.folder, env=env | proxies, capture_output=True, timeout=10)
    return done.returncode == 0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(stage: Stage, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Start the CMD and wait until it is healthy; at the end nothing is left of it."""
    server = subprocess.Popen(stage.command, cwd=stage.path(""), env=env, start_new_session=True)
    try:
        end = time.monotonic() + START_SECONDS
        while not is_healthy(stage, env):
            check(server.poll() is None, f"{stage.command} ended with {server.returncode}")
            check(time.monotonic() < end, f"{stage.command} is not healthy after {START_SECONDS} s")
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # with what it started and did not stop
        server.wait()


def ask(port: str) -> None:
    """Post a scanned digit, and compare the answer with the one of this repository's package."""
    picture = load_image(load("swiss" if available("swiss") else "sample").images[0])
    file = BytesIO()
    picture.save(file, "PNG")
    body = json.dumps({"image_base64": f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"}).encode()
    request = Request(f"http://127.0.0.1:{port}/api/v1/predict", body, {"Content-Type": "application/json"})
    answer = json.load(build_opener(ProxyHandler({})).open(request, timeout=10))
    print(f"answer: {answer}")
    expected = Recognizer.load().predict(picture)
    close = abs(answer["confidence"] - expected.confidence) < 1e-3
    check(answer["predicted_digit"] == expected.digit and close, f"expected {expected}")


def stop(server: subprocess.Popen) -> None:
    """Stop the server as `docker stop` does."""
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise ReplayError(f"SIGTERM did not end the server within {STOP_SECONDS} s") from None
    check(code in (0, -signal.SIGTERM), f"the server ended with {code}")


def try_out(stage: Stage) -> None:
    """Start the server, check its health, ask it, stop it; it must have written nothing."""
    before = {path: path.lstat().st_mtime_ns for path in files_of(stage.folder)}
    env = stage.environment() | {"PROD_HOST": "127.0.0.1", "PROD_PORT": str(free_port())}
    check(not is_healthy(stage, env), "HEALTHCHECK succeeds before the server is started")
    with serving(stage, env) as server:
        ask(env["PROD_PORT"])
        stop(server)
        check(not is_healthy(stage, env), "HEALTHCHECK succeeds after the server has ended")
    after = {path: path.lstat().st_mtime_ns for path in files_of(stage.folder)}
    check(before == after, f"written at run time: {[str(path) for path, _ in after.items() - before.items()]}")


def main() -> None:
    """Build, measure and try the image in a folder that is then removed."""
    steps = read_steps(DOCKERFILE.read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        try:
            stage = build(steps, Path(folder))
            measure(stage)
            try_out(stage)
        except ReplayError as error:
            sys.exit(f"docker_replay: {error}")


if __name__ == "__main__":
    main()
