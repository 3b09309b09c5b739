"""What the server costs, told without a clock: the modules it loads, the model's size, the work for each request."""

import io
import re
import sys
from base64 import b64encode
from collections import Counter

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageFile
from test_layering import loaded_by

from eigen_digits import serving
from eigen_digits.inference import shipped_artefact
from eigen_digits.preprocessing import Network, rasterize

SEVEN = [[(80, 70), (200, 70), (120, 220)]]

# The modules at top level, beyond the standard library, that a server may load.
ALLOWED = {
    "PIL",
    "ai_edge_litert",
    "annotated_doc",  # fastapi
    "annotated_types",  # pydantic
    "anyio",  # starlette
    "click",  # uvicorn
    "dotenv",  # pydantic_settings
    "eigen_digits",
    "fastapi",
    "fastapi_offline",  # whose files /docs is made of
    "h11",  # uvicorn
    "_cython",  # httptools; the name goes on with the version of Cython that built it
    "cython_runtime",  # httptools
    "httptools",  # uvicorn
    "numpy",
    "opentelemetry",  # fastapi
    "prometheus_client",
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "starlette",
    "typing_extensions",
    "typing_inspection",  # pydantic
    "uvicorn",
}

# A server that answers one request, and then ends.
SERVE = f"""
import base64, io, json, threading, time, urllib.request
import uvicorn
from eigen_digits.preprocessing import rasterize
from eigen_digits.serving import TestSettings, create_app

app = create_app(TestSettings(_env_file=None))
server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
while not server.started:
    assert thread.is_alive(), "the server did not start"
    time.sleep(0.01)

file = io.BytesIO()
rasterize({SEVEN}).save(file, "PNG")
body = json.dumps({{"image_base64": base64.b64encode(file.getvalue()).decode()}}).encode()
port = server.servers[0].sockets[0].getsockname()[1]
url = f"http://127.0.0.1:{{port}}/api/v1/predict"
request = urllib.request.Request(url, body, {{"Content-Type": "application/json"}})
direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
assert json.load(direct.open(request, timeout=60))["predicted_digit"] == 7
server.should_exit = True
thread.join()
"""


def is_standard(module: str) -> bool:
    """Whether a module is the standard library's, as far as Python lists it."""
    return module in sys.stdlib_module_names or module == "__mp_main__" or module.startswith("_sysconfigdata")


def test_a_server_loads_only_what_it_may():
    loaded = {re.sub(r"^_cython_[\d_]+$", "_cython", name.split(".")[0]) for name in loaded_by(SERVE)}
    assert {"ai_edge_litert", "uvicorn"} <= loaded
    new = sorted(name for name in loaded - ALLOWED if not is_standard(name))
    assert not new, f"a server now loads {', '.join(new)}; if it must, add it to ALLOWED in tests/test_serving_guard.py"


@pytest.mark.parametrize("file, most", [("model.tflite", 500_000), ("ink.tflite", 1_800_000), ("model.json", 20_000)])
def test_the_model_is_small(file, most):
    assert (shipped_artefact() / file).stat().st_size <= most


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Counts what is done from now on: pictures opened, pictures decoded, calls of a network."""
    counts = Counter()

    def count(what: str, owner, name: str, if_so=lambda *args: True):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            counts[what] += if_so(*args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count("opened", Image, "open")
    count("decoded", ImageFile.ImageFile, "load", lambda image: bool(image.tile))  # Pillow's own calls find none left
    count("networks", Network, "__call__")
    return counts


@pytest.mark.parametrize(
    "picture, status, expected",
    [
        pytest.param(png(rasterize(SEVEN)), 200, {"opened": 1, "decoded": 1, "networks": 2}, id="digit"),
        pytest.param(png(rasterize([])), 400, {"opened": 1, "decoded": 1, "networks": 1}, id="empty"),
        pytest.param(png(rasterize(SEVEN))[:-60], 400, {"opened": 1, "decoded": 1, "networks": 0}, id="cut off"),
        pytest.param(b"no picture", 400, {"opened": 1, "decoded": 0, "networks": 0}, id="no picture"),
    ],
)
def test_a_request_does_each_thing_once(work, picture, status, expected):
    with TestClient(serving.create_app(serving.TestSettings(_env_file=None))) as client:
        work.clear()  # a first digit is read at the start
        answer = client.post("/api/v1/predict", json={"image_base64": b64encode(picture).decode()})
    assert answer.status_code == status
    assert {what: work[what] for what in expected} == expected
