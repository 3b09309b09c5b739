"""A handwritten-digit recognizer told in notebooks."""

__version__ = "0.1.0"

from importlib import import_module

# Names on demand: importing the package costs nothing until one of them is used.
_HOME = {
    "Recognizer": "inference",
    "Prediction": "inference",
    "ImageError": "preprocessing",
    "rasterize": "preprocessing",
    "DigitCanvas": "canvas",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
