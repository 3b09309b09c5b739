"""`python -m benchmarks.profile COMMIT`: where a request's time goes, at a commit and now; writes profile.json."""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from PIL import Image
from tqdm import tqdm

from .drawings import picture_bodies
from .rounds import ROOT

PROFILE = ROOT / "benchmarks" / "profile.json"
_ROUNDS = 5


def steps(bodies: list[str]) -> dict[str, float]:
    """Microseconds of each step of a v1 request with these bodies, medians; the package is whichever is imported."""
    from eigen_digits import serving

    app = serving.create_app(serving.TestSettings(_env_file=None))
    return asyncio.run(_steps(app, serving.picture_bytes, bodies))


async def _steps(app, picture_bytes: Callable, bodies: list[str]) -> dict[str, float]:
    async with app.router.lifespan_context(app):
        await _ask(app, bodies[0].encode())  # what is made at the first request is made
        rows = [await _request(app, picture_bytes, body) for body in bodies]
    return _medians(rows)


async def _request(app, picture_bytes: Callable, body: str) -> dict[str, float]:
    """Microseconds of each step of one request."""
    recognizer, text = app.state.recognizer, json.loads(body)["image_base64"]
    whole, _ = await _timed(_ask, app, body.encode())
    base64, data = await _timed(picture_bytes, text)
    decoding, image = await _timed(_decoded, data)
    preprocessing, pixels = await _timed(recognizer.preprocess, image)
    network, _ = await _timed(recognizer._network, pixels)
    named = {"base64": base64, "decoding": decoding, "preprocessing": preprocessing, "network": network}
    return {"routing, JSON and the rest": whole - sum(named.values()), **named}


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def _timed(function: Callable, *args) -> tuple[float, object]:
    """Microseconds that a call takes, and what it gives."""
    start = time.perf_counter()
    given = function(*args)
    if asyncio.iscoroutine(given):
        given = await given
    return 1e6 * (time.perf_counter() - start), given


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


def _apart(package: Path, bodies: Path) -> dict[str, float]:
    """`steps` in a process of its own, which imports the package from a folder."""
    code = f"import sys; sys.path.insert(0, {str(package)!r}); import json; from pathlib import Path\n"
    code += "from benchmarks.profile import steps\n"
    code += f"print(json.dumps(steps(json.loads(Path({str(bodies)!r}).read_text()))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def compare(commit: str) -> dict:
    """Profile a commit and the working tree in turn: medians of the rounds, in µs."""
    with tempfile.TemporaryDirectory() as folder:
        before, bodies = Path(folder) / "before", Path(folder) / "bodies.json"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, commit], check=True, cwd=ROOT)
        try:
            bodies.write_text(json.dumps(list(picture_bodies())))
            sides = {"before": before, "now": ROOT}
            rounds = [{side: _apart(package, bodies) for side, package in sides.items()} for _ in tqdm(range(_ROUNDS))]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], check=True, cwd=ROOT)
    return {"commit": commit, "unit": "µs", **{side: _medians([row[side] for row in rounds]) for side in sides}}


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {step: round(median(row[step] for row in rows), 1) for step in rows[0]}


def main() -> None:
    """Profile, print and write."""
    parser = argparse.ArgumentParser("python -m benchmarks.profile", description=__doc__)
    parser.add_argument("commit", help="what to compare with")
    found = compare(parser.parse_args().commit)
    for step, now in found["now"].items():
        print(f"{step:<28}{found['before'][step]:>9.0f}{now:>9.0f} µs")
    PROFILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
