"""Real drawings as the bodies and pictures that are asked about: pendigits' strokes at random places and sizes."""

import base64
import io
import json

import numpy as np
from PIL import Image, ImageOps

from eigen_digits.augmentation import redraw
from eigen_digits.data import Digits, load


def drawings(count: int) -> Digits:
    """Some drawings of all writers and digits, always the same."""
    pens = load("pendigits")
    return redraw(pens.subset(np.random.default_rng(0).permutation(len(pens))[:count]), seed=0)


def png(drawing: Image.Image, transparent: bool = False) -> bytes:
    """A drawing as the 280×280 RGBA PNG of a browser's canvas: on white, or on paper that is not there."""
    picture = drawing.convert("RGBA")
    if transparent:
        picture = Image.new("RGBA", drawing.size, (0, 0, 0, 0))
        picture.putalpha(ImageOps.invert(drawing))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def picture_bodies(count: int = 64) -> list[str]:
    """Bodies of `POST /api/v1/predict`."""
    return [_body(png(drawing)) for drawing in drawings(count).images]


def _body(data: bytes) -> str:
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return json.dumps({"image_base64": url})


def hard_bodies(count: int = 64) -> list[str]:
    """The same with as many drawings in shadows, boxes, on squared paper and on desks, two situations to each."""
    from eigen_digits.evaluation import PICTURES, picture_of

    cells = [cell for cell in PICTURES if cell.situation == "two at once"]
    rng, sources = np.random.default_rng(1), drawings(count).strokes
    pictures = [picture_of(cells[k % len(cells)], strokes, rng, sources) for k, strokes in enumerate(sources)]
    return [_body(png(picture)) for picture in pictures]


def stroke_bodies(count: int = 64) -> list[str]:
    """Bodies of `POST /api/v2/predict` of the same drawings, as the page sends them: to a tenth of a pixel."""
    rounded = [
        [[[round(x, 1), round(y, 1)] for x, y in stroke] for stroke in strokes] for strokes in drawings(count).strokes
    ]
    return [json.dumps({"strokes": strokes}, separators=(",", ":")) for strokes in rounded]
