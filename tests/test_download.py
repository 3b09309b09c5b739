"""Downloads from a server on this machine that cuts the body short, spoils it, or stalls: whole files or none."""

import base64
import errno
import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eigen_digits import data
from eigen_digits.data import DataError, Published, _download, available, load

BODY = bytes(range(256)) * 2000

# A pen's 7 as UNIPEN text, and the same as the program `compress` packs it.
SEVEN = b"""\
.SEGMENT DIGIT    0 ? "7"
.COMMENT 7  3  224
.PEN_DOWN
 100  200
 150  200
 120  100
.PEN_UP
.DT 100
.PEN_DOWN
 110  150
 140  150
.PEN_UP
"""
SEVEN_Z = base64.b64decode(
    "H52QLqYUOdKkiBMqIIgkOZIEIYiHMED8ACHihggFLoY8aVLwIIgbD2c8lCGDBkYoBr8QeXLFiQIQMWBEBCFD5ssYNWbWhHGz5sOY"
    "PF2gdPKlChSMRBACPZlyZcubMX/mvEljJs6gQ4seBQ=="
)


class Faulty(BaseHTTPRequestHandler):
    """Answers /<fault>/<name> with the body of that name, spoiled as the fault says."""

    def do_GET(self):
        _, fault, name = self.path.split("/")
        if fault == "gone":
            return self.send_error(404)
        body = self.server.bodies[name]
        self.send_response(200)
        if fault != "cut-unannounced":  # else the end of the connection is the end of the body
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.send_body(fault, body)

    def send_body(self, fault: str, body: bytes) -> None:
        half = len(body) // 2
        if fault == "good":
            self.wfile.write(body)
        elif fault == "corrupt":
            self.wfile.write(body[:half] + bytes([body[half] ^ 0xFF]) + body[half + 1 :])
        else:
            self.wfile.write(body[:half])
        if fault == "stall":
            self.server.released.wait(30)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The faulty server; `server.bodies` is what it serves, `server.url(fault, name)` where."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        server.bodies = {"digits.bin": BODY}
        server.released = threading.Event()
        server.url = lambda fault, name: f"http://127.0.0.1:{server.server_port}/{fault}/{name}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def publish(monkeypatch, server):
    """A function that has a set published by the server alone, one mirror for each of the faults."""

    def publish(name: str, *faults: str, **bodies: bytes) -> None:
        files = []
        known = data.DATASETS[name]
        for file, (served, body) in zip(known.files, bodies.items(), strict=True):
            server.bodies[served] = body
            sha256 = file.sha256 and hashlib.sha256(unpacked(body)).hexdigest()
            files.append(Published(file.names, tuple(server.url(fault, served) for fault in faults), sha256))
        monkeypatch.setitem(data.DATASETS, name, known._replace(files=tuple(files), digest=None))

    return publish


def unpacked(body: bytes) -> bytes:
    """The content of a gzip file, or of the one .Z file here."""
    return SEVEN if body == SEVEN_Z else gzip.decompress(body)


def files_in(folder) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def idx(array: np.ndarray) -> bytes:
    """An array in MNIST's format."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    kind = 8 if array.dtype == np.uint8 else 12
    return gzip.compress(bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes())


def swiss_zip() -> bytes:
    """An archive with three scans, not compressed, so that a spoiled byte is a spoiled pixel."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for digit in (1, 7, 9):
            picture = io.BytesIO()
            Image.effect_noise((90, 90), 50).save(picture, "png")
            archive.writestr(f"numbers-{'f' * 40}/0019_US5M/{digit}/number-1.png", picture.getvalue())
    return file.getvalue()


FAULTS = {
    "cut": "IncompleteRead",
    "stall": "timed out",
    "corrupt": "what came has sha256",
    "cut-unannounced": "what came has sha256",
    "gone": "404",
}


def published(url: str) -> Published:
    """The body, at this address alone."""
    return Published(("digits.bin",), (url,), hashlib.sha256(BODY).hexdigest())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_nothing_and_the_next_download_works(server, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(data, "TIMEOUT", 0.5)
    began = time.monotonic()
    with pytest.raises(DataError, match=FAULTS[fault]):
        _download(published(server.url(fault, "digits.bin")), tmp_path)
    assert time.monotonic() - began < 10
    assert files_in(tmp_path) == []

    assert _download(published(server.url("good", "digits.bin")), tmp_path) == tmp_path / "digits.bin"
    assert files_in(tmp_path) == ["digits.bin"]
    assert (tmp_path / "digits.bin").read_bytes() == BODY


def test_a_fault_leaves_the_file_that_was_there(server, tmp_path):
    (tmp_path / "digits.bin").write_bytes(b"before")
    with pytest.raises(DataError, match="IncompleteRead"):
        _download(published(server.url("cut", "digits.bin")), tmp_path)
    assert (tmp_path / "digits.bin").read_bytes() == b"before"
    assert files_in(tmp_path) == ["digits.bin"]


def test_an_interrupt_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(part, sha256):
        assert tmp_path in part.parents and part != tmp_path / "digits.bin" and part.read_bytes() == BODY
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "_check_content", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _download(published(server.url("good", "digits.bin")), tmp_path)
    assert files_in(tmp_path) == []


def test_what_a_killed_process_left_is_not_taken_for_the_file(tmp_path):
    (tmp_path / ".tmp0123").mkdir()
    (tmp_path / ".tmp0123" / "file").write_bytes(SEVEN_Z)
    assert not available("pendigits", root=tmp_path)


def test_a_progress_bar_is_shown(server, tmp_path, capsys):
    _download(published(server.url("good", "digits.bin")), tmp_path)
    assert "512k/512k" in capsys.readouterr().err


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
TRACED = np.array([[5, 4, 2154, 0, 0, 0, 0, 0], [0, 0, 7, 0, 0, 0, 0, 0], [4, 4, 2154, 0, 0, 0, 0, 0]], ">i4")
MNIST = {"images.gz": idx(PIXELS), "labels.gz": idx(np.array([5, 0, 4], np.uint8)), "traced.gz": idx(TRACED)}
MNIST_FILES = [
    "mnist/train-images-idx3-ubyte.gz",
    "mnist/train-labels-idx1-ubyte.gz",
    "more/qmnist-train-labels-idx2-int.gz",
]


@pytest.mark.parametrize("fault", ["cut", "corrupt", "cut-unannounced", "gone"])
def test_the_second_mirror_is_tried(publish, tmp_path, fault):
    publish("mnist", fault, "good", **MNIST)
    digits = load("mnist", root=tmp_path)
    np.testing.assert_array_equal(digits.images, PIXELS)
    assert list(digits.labels) == [5, 0, 4] and list(digits.writers) == ["2154", "0007", "2154"]
    assert files_in(tmp_path) == MNIST_FILES


def test_every_mirror_fails_and_the_error_says_what_to_do(publish, tmp_path):
    publish("mnist", "cut", "gone", **MNIST)
    with pytest.raises(DataError) as error:
        load("mnist", root=tmp_path)
    assert "mnist: mnist/train-images-idx3-ubyte.gz is not there, and its download failed" in str(error.value)
    assert "IncompleteRead" in str(error.value) and "404" in str(error.value)
    assert f"Put it into {tmp_path}" in str(error.value)
    assert files_in(tmp_path) == []


def test_another_content_is_refused(publish, server, tmp_path):
    publish("mnist", "good", **MNIST)
    server.bodies["images.gz"] = idx(PIXELS + 1)
    with pytest.raises(DataError, match="what came has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        load("mnist", root=tmp_path)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("corrupt", "damaged at numbers-f+/0019_US5M/7/number-1.png"), ("cut-unannounced", "not a whole zip file")],
)
def test_a_damaged_archive_is_refused(publish, tmp_path, fault, reason):
    publish("swiss", fault, **{"numbers.zip": swiss_zip()})
    with pytest.raises(DataError, match=reason):
        load("swiss", root=tmp_path)
    assert files_in(tmp_path) == []


def test_the_archive_of_a_branch_loads(publish, tmp_path):
    publish("swiss", "good", **{"numbers.zip": swiss_zip()})
    digits = load("swiss", root=tmp_path)
    assert list(digits.labels) == [1, 7, 9] and set(digits.writers) == {"0019_US5M"}
    assert digits.names[0] == "0019_US5M/1/number-1.png"
    assert files_in(tmp_path) == ["swiss-numbers.zip"]


def test_a_unix_compressed_file_is_read(publish, tmp_path):
    publish("pendigits", "good", **{"pendigits.Z": SEVEN_Z})
    digits = load("pendigits", root=tmp_path)
    assert list(digits.labels) == [7] and list(digits.writers) == ["03"]
    assert [len(stroke) for stroke in digits.strokes[0]] == [3, 2]
    assert files_in(tmp_path) == ["pendigits-orig.tra.Z"]


def test_writers_of_other_digits_are_refused(publish, tmp_path):
    publish("mnist", "good", **{**MNIST, "traced.gz": idx(TRACED[::-1])})
    with pytest.raises(DataError, match="qmnist-train-labels-idx2-int.gz does not tell of the digits in"):
        load("mnist", root=tmp_path)


def test_another_set_than_the_figures_rest_on_is_warned_of(publish, monkeypatch, tmp_path):
    publish("swiss", "good", **{"numbers.zip": swiss_zip()})
    monkeypatch.setitem(data.DATASETS, "swiss", data.DATASETS["swiss"]._replace(digest="0" * 64))
    with pytest.warns(UserWarning, match="swiss: what came is not what the figures rest on: its digest is"):
        load("swiss", root=tmp_path)


def test_a_set_that_is_not_published_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match=rf"cvl: wild/cvl.zip is not there.*Put it into {tmp_path}"):
        load("cvl", root=tmp_path)


@pytest.mark.parametrize("name", ["swiss", "mnist", "pendigits", "uji", "bhmsds", "omniglot"])
def test_without_a_network_the_error_says_which_file_to_put_where(monkeypatch, tmp_path, name):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    known, nowhere = data.DATASETS[name], ("http://127.0.0.1:1/nothing-listens-here",)
    files = tuple(file._replace(urls=nowhere) for file in known.files)
    monkeypatch.setitem(data.DATASETS, name, known._replace(files=files))
    with pytest.raises(DataError) as error:
        load(name, root=tmp_path)
    assert "is not there, and its download failed (http://127.0.0.1:1/" in str(error.value)
    assert f"Put it into {tmp_path} under one of the names {', '.join(files[0].names)}" in str(error.value)
    assert files_in(tmp_path) == []


def test_the_kaggle_set_comes_through_kagglehub(monkeypatch, tmp_path):
    cached = tmp_path / "kagglehub" / "3"
    cached.mkdir(parents=True)
    Image.new("L", (90, 140), 255).save(cached / "Ana_full (12).jpg")
    kagglehub = SimpleNamespace(dataset_download=lambda handle: str(cached.parent))
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)

    digits = load("kaggle", root=tmp_path / "data")
    assert list(digits.labels) == [3] and list(digits.writers) == ["Ana"]
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert load("kaggle", root=tmp_path / "data").names == ["3/Ana_full (12).jpg"]  # from disk

    with pytest.raises(DataError, match="kaggle: handwritten-digits-0-9 is not there, and its download failed"):
        load("kaggle", root=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


CHILD = """
import sys
from pathlib import Path
from eigen_digits.data import Published, _download
url, sha256, folder = sys.argv[1:]
_download(Published(("digits.bin",), (url,), sha256), Path(folder))
"""


def test_a_killed_download_leaves_the_file_that_was_there(server, tmp_path):
    (tmp_path / "digits.bin").write_bytes(b"before")
    (url,), sha256 = published(server.url("stall", "digits.bin"))[1:]
    command = [sys.executable, "-c", CHILD, url, sha256, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while not any(path.stat().st_size for path in tmp_path.glob(".*/*")):
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "digits.bin").read_bytes() == b"before"
    _download(published(server.url("good", "digits.bin")), tmp_path)
    assert (tmp_path / "digits.bin").read_bytes() == BODY


@pytest.mark.parametrize("room", [0, 1, len(BODY) // 2, len(BODY) - 1])
def test_a_full_disk_leaves_the_file_that_was_there(server, tmp_path, room):
    """The system itself refuses, in the midst of writing, what goes beyond `room`."""
    resource = pytest.importorskip("resource", reason="limits of a process are set as on Unix")
    (tmp_path / "digits.bin").write_bytes(b"before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(DataError, match=os.strerror(errno.EFBIG)):
            _download(published(server.url("good", "digits.bin")), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "digits.bin").read_bytes() == b"before"
    assert files_in(tmp_path) == ["digits.bin"]
    _download(published(server.url("good", "digits.bin")), tmp_path)
    assert (tmp_path / "digits.bin").read_bytes() == BODY
