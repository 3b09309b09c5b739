"""The original's backend as its description tells it: FastAPI, five steps of preprocessing, Keras's `predict`.

`BASELINE_MODEL` names the network, a file that Keras saved.
"""

import base64
import io
import os

import keras
import numpy as np
from fastapi import FastAPI, HTTPException
from PIL import Image
from pydantic import BaseModel

model = keras.models.load_model(os.environ["BASELINE_MODEL"])
model.layers[-1].activation = keras.activations.softmax  # an artefact's network ends in logits, the original's did not

app = FastAPI(title="Digit Recognizer API")


class Picture(BaseModel):
    """The body of `POST /api/v1/predict`."""

    image_base64: str


def preprocess(
    data: bytes,  # a picture file, dark ink on white paper
) -> np.ndarray:  # float32 (1, 28, 28, 1) in [0, 1], ink bright on black
    """Load, grey, resize to 28×28, invert, normalise."""
    image = Image.open(io.BytesIO(data))
    grey = image.convert("L")
    small = grey.resize((28, 28), Image.Resampling.LANCZOS)
    inverted = 255 - np.asarray(small, np.float32)
    return (inverted / 255)[None, :, :, None]


@app.get("/api/v1/")
async def status() -> dict:
    """Say that the service is up."""
    return {"status": "ok", "message": "Digit Recognizer API is running."}


@app.post("/api/v1/predict")
def predict(picture: Picture) -> dict:
    """Recognise the digit on one picture."""
    try:
        pixels = preprocess(base64.b64decode(picture.image_base64.split(",")[-1]))
    except (OSError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    probabilities = model.predict(pixels, verbose=0)[0]
    digit = int(probabilities.argmax())
    return {"predicted_digit": digit, "confidence": round(float(probabilities[digit]), 4)}
