"""Whatever it is given, a recognizer answers or raises `ImageError`, and a server answers or refuses; nothing else.

The long form, which also prints its counts: EIGEN_DIGITS_HEAVY=1 pytest tests/test_contract.py tests/test_fuzz.py -s
"""

import http.client
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from eigen_digits.inference import EMPTY, Recognizer
from eigen_digits.preprocessing import LARGEST, SMALLEST, ImageError, load_image, rasterize

HEAVY = os.environ.get("EIGEN_DIGITS_HEAVY") == "1"
ALLOWED = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
FORMATS = (*ALLOWED, "PPM")
TIFF_HEADER = b"II*\0\b\0\0\0"

bounded = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def check(recognizer: Recognizer, image: bytes | np.ndarray) -> None:
    """Ask once; an answer must hold together, and a refusal must say what is wrong."""
    try:
        answer = recognizer.predict(image)
    except ImageError as error:
        assert str(error)
        return
    if answer.reason == "empty":
        assert answer == EMPTY
        return
    assert answer.probabilities.shape == (10,) and np.isfinite(answer.probabilities).all()
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert answer.confidence == answer.probabilities[answer.digit] == answer.probabilities.max()
    assert answer.reason in ([None] if answer.is_digit else ["unsure", "several", "other"])


def encoded(form: str, side: int = 40, **options) -> bytes:
    """A drawn seven as a small picture file."""
    file = io.BytesIO()
    rasterize([[(80, 70), (200, 70), (120, 220)]]).resize((side, side)).save(file, form, **options)
    return file.getvalue()


@st.composite
def damaged(draw) -> bytes:
    """A picture file of any format with some bytes changed, and perhaps cut short."""
    data = bytearray(encoded(draw(st.sampled_from(FORMATS))))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8)):
        data[place] = byte
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


@st.composite
def oddly_turned(draw) -> bytes:
    """A picture file whose Exif, where a camera says how it was held, is anything."""
    exif = b"Exif\0\0" + draw(st.sampled_from([b"", TIFF_HEADER])) + draw(st.binary(max_size=60))
    return encoded(draw(st.sampled_from(["PNG", "JPEG", "WEBP"])), exif=exif)


@bounded
@given(data=st.binary(max_size=200) | damaged() | oddly_turned())
def test_any_bytes(recognizer, data):
    check(recognizer, data)


KINDS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(),
    arrays.complex_number_dtypes(),
    arrays.datetime64_dtypes(),
    arrays.unicode_string_dtypes(),
)
SHAPES = st.one_of(
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3, 4])),
)


@bounded
@given(array=arrays.arrays(KINDS, SHAPES))
def test_any_array(recognizer, array):
    check(recognizer, array)


# Every kind of picture that Pillow knows


def drawn(mode: str, size: tuple[int, int], grey: int) -> Image.Image:
    """A picture of any mode that shows something."""
    picture = Image.linear_gradient("L").point(lambda level: level ^ grey).resize(size)
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode == "PA":
        return Image.merge("PA", [picture.convert("P"), picture])
    return Image.merge(mode, [picture] * bands) if bands > 1 else picture.convert(mode)


def saved(picture: Image.Image, form: str, **options) -> bytes | None:
    """A picture as a file; None where the format has no such mode."""
    file = io.BytesIO()
    try:
        picture.save(file, form, **options)
    except (OSError, ValueError, TypeError, struct.error):
        return None
    return file.getvalue()


MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I;16 I F".split()
WRITTEN = [(mode, form) for mode in MODES for form in ALLOWED if saved(drawn(mode, (8, 8), 0), form)]
SIZES = st.one_of(
    st.tuples(st.integers(1, 5000), st.just(1)),
    st.tuples(st.just(1), st.integers(1, 5000)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
OPTIONS = st.fixed_dictionaries(
    {"exif": st.integers(1, 8).map(lambda turn: exif(turn))},
    optional={"bits": st.sampled_from([1, 2, 4, 8]), "transparency": st.integers(0, 255)},
)


def exif(turn: int) -> Image.Exif:
    """What a camera writes that was held in one of eight ways."""
    data = Image.Exif()
    data[0x0112] = turn
    return data


@settings(bounded, max_examples=3000 if HEAVY else 300)
@given(kind=st.sampled_from(WRITTEN), size=SIZES, grey=st.integers(0, 255), options=OPTIONS)
def test_any_picture_file(recognizer, kind, size, grey, options):
    mode, form = kind
    options = options | ({"compression": "tiff_deflate"} if form == "TIFF" and grey % 2 else {})
    data = saved(drawn(mode, size, grey), form, **options) or saved(drawn(mode, size, grey), form)
    check(recognizer, data)
    if max(size) >= SMALLEST:
        loaded = load_image(data)
        assert loaded.mode in ("L", "RGB") and sorted(loaded.size) == sorted(size)
    else:
        with pytest.raises(ImageError):
            load_image(data)


@settings(bounded, max_examples=1000 if HEAVY else 100)
@given(mode=st.sampled_from(MODES), size=SIZES, grey=st.integers(0, 255))
def test_any_picture_in_memory(recognizer, mode, size, grey):
    check(recognizer, drawn(mode, size, grey))


# How a picture has to be turned so that Exif's orientation, 1 to 8, turns it back.
TURNS = dict(enumerate([None, 0, 3, 1, 5, 2, 6, 4], start=1))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("digit", [1, 7])
def test_a_turned_digit_reads_the_same(recognizer, form, turn, digit):
    """Whatever way the camera was held: that of its pixels in the file, which Exif tells."""
    strokes = {1: [[(110, 100), (150, 60), (150, 225)]], 7: [[(80, 70), (200, 70), (120, 220)]]}[digit]
    upright = rasterize(strokes).crop((20, 0, 260, 280))
    turned = upright if TURNS[turn] is None else upright.transpose(Image.Transpose(TURNS[turn]))
    data = saved(turned, form, exif=exif(turn), **({"lossless": True} if form == "WEBP" else {}))
    assert recognizer.predict(data)[0::3] == (digit, True)
    if form != "JPEG":
        assert load_image(data).convert("L").tobytes() == upright.tobytes()


# What is sent to a server

SERVER = """
import sys, threading, time
import uvicorn
from PIL import ImageFile
from eigen_digits.serving import TestSettings, create_app

decoded = 0
original = ImageFile.ImageFile.load

def load(image):
    global decoded
    decoded += bool(image.tile)  # Pillow's own calls find none left
    return original(image)

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

ImageFile.ImageFile.load = load
server = uvicorn.Server(uvicorn.Config(create_app(TestSettings(_env_file=None)), port=0, log_level="error"))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
while not server.started:
    assert thread.is_alive(), "the server did not start"
    time.sleep(0.01)
rest = 0
print(server.servers[0].sockets[0].getsockname()[1], flush=True)
for line in sys.stdin:  # what was used since it was last asked?
    answer = f"{memory('VmHWM') - rest} {decoded}"
    decoded = 0
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    rest = memory("VmRSS")
    print(answer, flush=True)
"""


class Server:
    """A server in a process of its own, so that its memory is nobody else's."""

    def __init__(self, log: Path):
        self.log = log
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("w"), "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], **pipes)
        self.connection = http.client.HTTPConnection("127.0.0.1", int(self.process.stdout.readline()), timeout=120)
        self.used()

    def used(self) -> tuple[float, int]:
        """By how many MB the memory has risen at most, and how many pictures were decoded, since it was last asked."""
        print(file=self.process.stdin, flush=True)
        grown, decoded = self.process.stdout.readline().split()
        return float(grown), int(decoded)

    def post(self, body: bytes, kind: str, path: str = "/api/v2/predict") -> int:
        """The status of an answer, once it is received whole."""
        self.connection.request("POST", path, body, {"Content-Type": kind})
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks are read from Linux's /proc")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log")
    yield server
    server.process.kill()
    server.process.wait()


def mutated(random: Random) -> tuple[str, bytes]:
    """A picture file with a few bytes changed, cut short, doubled or mixed with another; or nothing of the kind."""
    form = random.choice(ALLOWED)
    data = bytearray(encoded(form, random.choice([8, 28, 40, 100])))
    for _ in range(random.choice([0, 1, 1, 2, 4, 8, 64])):
        data[random.randrange(len(data))] = random.randrange(256)
    match random.randrange(10):
        case 0:
            del data[random.randrange(len(data)) :]
        case 1:
            place = random.randrange(len(data))
            data[place:place] = random.randbytes(random.randrange(50))
        case 2:
            data[random.randrange(len(data)) :] = encoded(random.choice(ALLOWED))[random.randrange(100) :]
        case 3:
            data[random.randrange(4, 60) :] = random.randbytes(random.randrange(3000))
        case 4:
            data = random.randbytes(random.randrange(2000))
    return f"image/{form.lower()}", bytes(data)


def request(random: Random) -> tuple[bytes, str, str]:
    """A body with its kind, mostly the right one, and where to send it."""
    kind, data = mutated(random)
    if random.random() < 0.7:
        kinds = [f"image/{form.lower()}" for form in ALLOWED] + ["application/json", "text/plain", ""]
        return data, random.choice(kinds) if random.random() < 0.2 else kind, "/api/v2/predict"
    body = bytearray(json.dumps({"image_base64": b64encode(data).decode()}).encode())
    if random.random() < 0.2:
        body[random.randrange(len(body))] = random.randrange(256)
    return bytes(body), "application/json", random.choice(["/api/v1/predict", "/api/v2/predict"])


@needs_proc
def test_mutated_pictures_are_answered_or_refused(server):
    count, statuses, random = 20_000 if HEAVY else 1500, Counter(), Random(0)
    for _ in range(count):
        body, kind, path = request(random)
        statuses[path, status := server.post(body, kind, path)] += 1
        assert status in (200, 400, 413, 415, 422), (status, path, kind, body)
    grown, decoded = server.used()
    print(f"\n{count:,} mutated: {dict(sorted(statuses.items()))}; {decoded:,} decoded, {grown:.0f} MB more at most")
    assert sum(n for (_, status), n in statuses.items() if status == 200) >= count / 10
    # A changed header may claim 25 million pixels of 4 bytes, which are set aside before the data turn out too few.
    assert grown <= 250


# A few bytes that stand for a lot

SEVEN = encoded("PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*chunks: bytes, at_end: bool = False) -> bytes:
    """A PNG file with more chunks, after its header or before its end."""
    place = -12 if at_end else 33
    return SEVEN[:place] + b"".join(chunks) + SEVEN[place:]


def zeros(count: int) -> bytes:
    """Zeros, compressed a thousandfold."""
    return zlib.compress(bytes(count))


def plain(width: int, height: int, form: str = "PNG", mode: str = "L", **options) -> bytes:
    """A picture of one colour."""
    return saved(Image.new(mode, (width, height)), form, **options)


def tiff(fields: dict[int, int], data: bytes = b"", spans: Sequence[int] = ()) -> bytes:
    """A TIFF file of one directory; each of `spans` is a field that holds all of `data`."""
    count = len(fields) + len(spans)
    place = 8 + 2 + 12 * count + 4
    entries = [struct.pack("<HHII", tag, 4, 1, place if value is None else value) for tag, value in fields.items()]
    entries += [struct.pack("<HHII", tag, 7, len(data), place) for tag in spans]
    return TIFF_HEADER + struct.pack("<H", count) + b"".join(sorted(entries, key=tag_of)) + bytes(4) + data


def tag_of(entry: bytes) -> int:
    """The number of a field of a TIFF file."""
    return int.from_bytes(entry[:2], "little")


def vast_tile() -> bytes:
    """A small TIFF picture in one tile of a hundred million pixels."""
    data = zeros(10_000 * 10_000)
    sides = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 10_000, 323: 10_000, 324: None}
    return tiff(sides | {325: len(data)}, data)


def many_scans() -> bytes:
    """A JPEG whose last pass over all pixels is told again and again."""
    data = plain(400, 400, "JPEG", progressive=True)
    place = data.rindex(b"\xff\xda")
    return data[:place] + data[place:-2] * 100_000 + data[-2:]


def patched(data: bytes, place: int, new: bytes) -> bytes:
    """A file with some bytes replaced."""
    return data[:place] + new + data[place + len(new) :]


def claiming(form: str) -> bytes:
    """A small file whose header claims as many pixels as the format can tell."""
    data = plain(16, 16, form)
    match form:
        case "PNG":
            return data[:8] + chunk(b"IHDR", b"\x7f\xff\xff\xff" * 2 + data[24:29]) + data[33:]
        case "GIF":
            return patched(data, 6, b"\xff" * 4)
        case "BMP":
            return patched(data, 18, b"\xff\xff\xff\x7f\xff\xff\0\0")
        case "JPEG":
            return patched(data, data.index(b"\xff\xc0") + 5, b"\xff\xdc" * 2)
        case "TIFF":
            return tiff({256: 2**31, 257: 2**31, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2**31, 279: 8})
        case _:  # a whole WebP of 16383×16383, as it takes a gigabyte to make
            return bytes.fromhex("524946461e000000574542505650384c110000002ffebfff0f07d0fffef7bfff8188e87f0000")


# Each with how often something is decoded before it is refused.
BOMBS = {f"{form} that claims a lot": (lambda form=form: claiming(form), 0) for form in ALLOWED} | {
    "PNG over 25 megapixels": (lambda: plain(5001, 5000), 0),
    "GIF over 25 megapixels": (lambda: plain(5001, 5000, "GIF"), 0),
    "WebP over 25 megapixels": (lambda: plain(5001, 5000, "WEBP", "RGB", lossless=True, method=0), 0),
    "TIFF over 25 megapixels": (lambda: plain(5001, 5000, "TIFF", compression="tiff_deflate"), 0),
    "BMP over 25 megapixels": (lambda: plain(25_000_008, 1, "BMP", "1"), 0),
    "BMP in an ICO": (lambda: plain(16, 16, "ICO", "RGBA"), 0),
    "JPEG 2000": (lambda: plain(5000, 5000, "JPEG2000"), 0),
    "PPM": (lambda: b"P6 5000 5000 255\n", 0),
    "zTXt": (lambda: with_chunks(chunk(b"zTXt", b"a\0\0" + zeros(10**8))), 0),
    "iTXt": (lambda: with_chunks(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(10**8))), 0),
    "iCCP": (lambda: with_chunks(chunk(b"iCCP", b"a\0\0" + zeros(10**8))), 0),
    "a thousand zTXt": (lambda: with_chunks(*[chunk(b"zTXt", b"a\0\0" + zeros(10**6))] * 1000), 0),
    "zTXt at the end": (lambda: with_chunks(chunk(b"zTXt", b"a\0\0" + zeros(10**8)), at_end=True), 1),
    "vast tile": (vast_tile, 0),
    "many scans": (many_scans, 0),
}


@needs_proc
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(server, name):
    make, most = BOMBS[name]
    body = make()
    server.used()
    status = server.post(body, "image/png")
    grown, decoded = server.used()
    print(f"\n{name}: {len(body):,} bytes, {status}, {decoded} decoded, {grown:.0f} MB more at most")
    assert (status, decoded) == (400, most)
    # The body is held twice, and Pillow reads 64 MB of a PNG's text before it gives up.
    assert grown <= 100


SPANS = {"data": bytes(10**6), "spans": range(40_000, 41_000)}  # a thousand fields that hold the same megabyte
FIELDS = {256: 100, 257: 100, 258: 8, 259: 1, 262: 1, 273: None, 277: 1, 278: 100, 279: 10_000}


@needs_proc
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_fields_that_hold_the_same_bytes_are_neither_copied_nor_logged(server, form):
    body = tiff(FIELDS, **SPANS) if form == "TIFF" else encoded("PNG", exif=b"Exif\0\0" + tiff({}, **SPANS))
    server.used()
    assert server.post(body, "image/png") == 200  # Pillow leaves the fields aside, and the picture is whole
    grown, _ = server.used()
    print(f"\na thousand times the same in {form}: {len(body):,} bytes, {grown:.0f} MB more at most")
    assert grown <= 100
    assert "Warning" not in server.log.read_text()  # of each field


@needs_proc
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_the_largest_picture_takes_no_more_than_it_may(server, form):
    """25 million transparent pixels: 4 bytes each, and up to ten copies while it is decoded and put on paper."""
    body = plain(5000, 5000, form, "RGBA")
    server.used()
    status = server.post(body, "image/png")
    grown, decoded = server.used()
    print(f"\nthe largest {form}: {len(body):,} bytes, {status}, {decoded} decoded, {grown:.0f} MB more at most")
    assert (status, decoded) == (200, 1)
    assert grown <= 40 * LARGEST / 2**20
