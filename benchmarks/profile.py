"""`python -m benchmarks.profile COMMIT`: where time and memory go; writes profile.json.

A request step by step, at a commit and now; and as it is now the preprocessing of a drawing, a scan that is recognized,
a folder of scans, and a server that starts.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import environments
from .drawings import drawings, picture_bodies, png
from .local import decoded, timed, write_scans
from .rounds import AS_INSTALLED, ONE_THREAD, ROOT, alone, environment
from .serving import QUIET

PROFILE = ROOT / "benchmarks" / "profile.json"
_ROUNDS = 5
_REST = "the rest"

Steps = dict[str, float]  # what each step takes


def steps(bodies: list[str]) -> Steps:
    """Microseconds of each step of a v1 request with these bodies, medians; the package is whichever is imported."""
    from eigen_digits import serving

    app = serving.create_app(serving.TestSettings(_env_file=None))
    return asyncio.run(_steps(app, serving.picture_bytes, bodies))


async def _steps(app, picture_bytes: Callable, bodies: list[str]) -> Steps:
    async with app.router.lifespan_context(app):
        await _ask(app, bodies[0].encode())  # what is made at the first request is made
        rows = [await _request(app, picture_bytes, body) for body in bodies]
    return _medians(rows)


async def _request(app, picture_bytes: Callable, body: str) -> Steps:
    """Microseconds of each step of one request."""
    recognizer, text = app.state.recognizer, json.loads(body)["image_base64"]
    start = time.perf_counter()
    await _ask(app, body.encode())
    whole = 1e6 * (time.perf_counter() - start)
    base64, data = timed(picture_bytes, text)
    decoding, image = timed(decoded, data)
    preprocessing, pixels = timed(recognizer.preprocess, image)
    network, _ = timed(recognizer._network, pixels)
    named = {"base64": base64, "decoding": decoding, "preprocessing": preprocessing, "network": network}
    return {"routing, JSON and the rest": whole - sum(named.values()), **named}


async def _ask(app, body: bytes) -> None:
    """Send one request to an application, with no network in between."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    path = "/api/v1/predict"
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        assert message.get("status", 200) == 200, message

    await app(scope, receive, send)


def _apart(package: Path, bodies: Path) -> Steps:
    """`steps` in a process of its own, which imports the package from a folder."""
    code = f"import sys; sys.path.insert(0, {str(package)!r}); import json; from pathlib import Path\n"
    code += "from benchmarks.profile import steps\n"
    code += f"print(json.dumps(steps(json.loads(Path({str(bodies)!r}).read_text()))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def requests(commit: str) -> dict:
    """Microseconds of a request at a commit and in the working tree, measured in turn: medians of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        before, bodies = Path(folder) / "before", Path(folder) / "bodies.json"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, commit], check=True, cwd=ROOT)
        try:
            bodies.write_text(json.dumps(list(picture_bodies())))
            sides = {"before": before, "now": ROOT}
            rounds = [
                {side: _apart(package, bodies) for side, package in sides.items()}
                for _ in tqdm(range(_ROUNDS), "requests")
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], check=True, cwd=ROOT)
    return {side: _medians([row[side] for row in rounds]) for side in sides}


def _medians(rows: list[Steps]) -> Steps:
    return {step: round(median(row[step] for row in rows), 1) for step in rows[0]}


_PREPROCESSING = {  # functions of 01, in the order in which they are called
    "_load": "opening",
    "_grey": "to grey",
    "_find_ink": "paper and ink",
    "_cleaned": "lines and strays",
    "_digit": "the digit's box",
    "_centred": "centring, resizing",
}


@contextmanager
def _watched() -> Iterator[Steps]:
    """A dict that gathers the microseconds of each step of `preprocess` until the end of the block."""
    from eigen_digits import preprocessing

    spent = dict.fromkeys(_PREPROCESSING.values(), 0.0)
    plain = {name: getattr(preprocessing, name) for name in _PREPROCESSING}

    def watch(name: str) -> Callable:
        def watched(*args):
            microseconds, given = timed(plain[name], *args)
            spent[_PREPROCESSING[name]] += microseconds
            return given

        return watched

    try:
        for name in plain:
            setattr(preprocessing, name, watch(name))
        yield spent
    finally:
        for name, function in plain.items():
            setattr(preprocessing, name, function)


def _means(rows: list[Steps]) -> Steps:
    """The mean of each step: the steps of some pictures are not those of others, and medians would not add up."""
    return {step: round(float(np.mean([row[step] for row in rows])), 1) for step in rows[0]}


def _preprocessed(preprocess: Callable, picture: Image.Image) -> Steps:
    with _watched() as spent:
        whole, _ = timed(preprocess, picture)
    return spent | {_REST: whole - sum(spent.values())}


def _drawing(count: int) -> Steps:
    """Microseconds of each step of preprocessing a drawing, of which each is decoded just before, as in a request."""
    from eigen_digits import Recognizer

    recognizer, pictures = Recognizer.load(), [png(drawing) for drawing in drawings(count).images]
    rows = [_preprocessed(recognizer.preprocess, decoded(data)) for data in [*pictures[:20], *pictures]]
    return _means(rows[20:])


def _scan(count: int) -> Steps:
    """Microseconds of each step of recognizing a decoded scan."""
    from eigen_digits import Recognizer
    from eigen_digits.data import load

    recognizer, scans = Recognizer.load(), load("swiss").images
    rows = []
    for i in np.random.default_rng(0).permutation(len(scans))[:count]:
        picture = decoded(scans[i])
        whole, _ = timed(recognizer.predict, picture)
        within = _preprocessed(recognizer.preprocess, picture)
        network, _ = timed(recognizer._network, recognizer.preprocess(picture))
        rest = whole - sum(within.values()) - network
        rows.append(within | {"network": network, _REST: within[_REST] + rest})
    return _means(rows[20:])


def _folder(count: int) -> Steps:
    """Microseconds of each step of a scan that `eigen-digits predict` finds in a folder."""
    with tempfile.TemporaryDirectory() as name:
        write_scans(Path(name), count)
        return _of_files(sorted(Path(name).iterdir()))


def _of_files(paths: list[Path]) -> Steps:
    """Microseconds to read, decode and recognize a file, by step."""
    from eigen_digits import Recognizer

    recognizer, rows = Recognizer.load(), []
    for path in paths:
        reading, data = timed(path.read_bytes)
        decoding, picture = timed(decoded, data)
        preprocessing, pixels = timed(recognizer.preprocess, picture)
        answering, _ = timed(recognizer.read, pixels)
        named = {"reading": reading, "decoding": decoding, "preprocessing": preprocessing}
        rows.append(named | {"network, answer": answering})
    return _means(rows[20:])


def _network(count: int = 32) -> Steps:
    """Microseconds of a core that the network takes for a picture, asked about one at a time and about several."""
    from eigen_digits import Recognizer

    recognizer = Recognizer.load()
    pixels = np.stack([recognizer.preprocess(drawing) for drawing in drawings(count).images])
    recognizer._network.many(pixels)
    rows = []
    for _ in range(100):
        one, _ = timed(lambda: [recognizer._network(picture) for picture in pixels])
        many, _ = timed(recognizer._network.many, pixels)
        rows.append({"one at a time": one / count, f"{count} at a time": many / count})
    return _medians(rows)


_STAGES = {
    "Python, asyncio": "",
    "numpy": "import numpy",
    "Pillow": "import PIL.Image, PIL.ImageChops, PIL.ImageDraw, PIL.ImageOps, PIL.PngImagePlugin",
    "LiteRT": "import ai_edge_litert.interpreter",
    "uvicorn": "import uvicorn.main, uvicorn.protocols.http.httptools_impl",
    "pydantic": "import pydantic.main, pydantic_settings",
    "FastAPI": "import fastapi, fastapi.middleware.cors, fastapi.openapi.docs, fastapi.staticfiles",
    "prometheus-client": "import prometheus_client",
    "this package": "import eigen_digits.serving as serving; app = serving.app",
    "model, first digit": "asyncio.run(begin())",
}
_STAGED = """
import asyncio, json, sys, time

async def begin():
    async with app.router.lifespan_context(app):
        pass

stages, past = json.loads(sys.argv[1]), (int(sys.argv[2]) / 1e6, 0)
for stage, code in stages.items():
    exec(code)
    (held,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
    now = time.monotonic_ns() / 1e6, int(held.split()[1]) * 1024 / 1e6
    stages[stage] = [now[0] - past[0], now[1] - past[1]]
    past = now
print(json.dumps(stages))
"""


def start() -> dict[str, Steps]:
    """Milliseconds and megabytes of each stage of a server's start, in an environment with the package alone."""
    python = environments.python(environments.ours())
    variables = environment(AS_INSTALLED | QUIET | {"PYTHONDONTWRITEBYTECODE": None})
    rows = []
    for _ in tqdm(range(1 + 2 * _ROUNDS), "starting"):
        command = [python, "-c", _STAGED, json.dumps(_STAGES), str(time.monotonic_ns())]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=variables)
        rows.append(json.loads(done.stdout))
    milliseconds, megabytes = (
        _medians([{stage: row[stage][i] for stage in _STAGES} for row in rows[1:]]) for i in (0, 1)
    )
    return {"starting, ms": milliseconds, "memory, MB": megabytes}


def main() -> None:
    """Profile, print and write."""
    parser = argparse.ArgumentParser("python -m benchmarks.profile", description=__doc__)
    parser.add_argument("commit", help="what to compare a request with")
    commit = parser.parse_args().commit
    found = {"commit": commit, "request, µs": requests(commit)}
    found["preprocessing a drawing, µs"] = alone(_drawing, 1000, **ONE_THREAD)
    found["recognizing a scan, µs"] = alone(_scan, 1020, **ONE_THREAD)
    found["a scan of a folder, µs"] = alone(_folder, 1020, **ONE_THREAD)
    found["the network, µs a picture"] = alone(_network, **ONE_THREAD)
    found |= start()
    print(json.dumps(found, indent=1, ensure_ascii=False))
    PROFILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
