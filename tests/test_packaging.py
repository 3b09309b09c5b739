"""The wheel, the sdist and an editable install: each answers with the shipped model, from any folder."""

import json
import os
import subprocess
import sys
import tarfile
import venv
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

from eigen_digits.data import available, load
from eigen_digits.inference import Recognizer
from eigen_digits.preprocessing import load_image

SHIPPED = {f"eigen_digits/shipped/{name}" for name in ("model.json", "model.tflite", "ink.tflite")}
SHIPPED |= {"eigen_digits/web/index.html"}
NOT_FOR_SERVING = {"tensorflow", "tensorflow-cpu", "keras", "scikit-learn", "matplotlib", "jupyterlab", "nbdev"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; what it printed, or a failure with its complaint."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a `wheel` or an `sdist` of the project in `source` with the installed setuptools; the file it makes."""
    run(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", target, cwd=source)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def source(copy_repository, tmp_path_factory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """The folder of commands of a new environment, with the wheel and what it requires and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return scripts


def names(wheel: Path) -> set[str]:
    """The paths of the files in a wheel."""
    return set(ZipFile(wheel).namelist())


def test_wheel_holds_the_shipped_model_and_the_page(wheel):
    assert SHIPPED <= names(wheel)
    assert [name for name in names(wheel) if name.endswith((".keras", ".npz", ".ipynb"))] == []
    for name in ("model.tflite", "ink.tflite"):
        assert (
            ZipFile(wheel).getinfo(f"eigen_digits/shipped/{name}").file_size
            <= {"model.tflite": 500_000, "ink.tflite": 1_800_000}[name]
        )


def test_base_requirements_are_light(wheel):
    (metadata,) = (name for name in names(wheel) if name.endswith(".dist-info/METADATA"))
    requirements = message_from_bytes(ZipFile(wheel).read(metadata)).get_all("Requires-Dist")
    base = {requirement.split(">")[0] for requirement in requirements if "extra ==" not in requirement}
    assert "numpy" in base
    assert base.isdisjoint(NOT_FOR_SERVING)


def test_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source, tmp_path / "wheel")
    assert names(again) == names(wheel)
    assert all(ZipFile(again).read(name) == ZipFile(wheel).read(name) for name in SHIPPED)


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_installed_package_answers_with_the_shipped_model(kind, request, source, scripts, tmp_path):
    """The command reads a picture in a folder of its own, and answers as the package in this repository does."""
    package = ["--editable", source] if kind == "editable" else [request.getfixturevalue(kind)]
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    run(scripts / "python", *install, *package, cwd=tmp_path)

    picture = load_image(load("swiss" if available("swiss") else "sample").images[0])
    picture.save(tmp_path / "digit.png")
    answer = json.loads(run(scripts / "eigen-digits", "predict", "--format", "jsonl", "digit.png", cwd=tmp_path))
    expected = Recognizer.load().predict(picture)
    assert (answer["digit"], answer["is_digit"]) == (expected.digit, expected.is_digit)
    assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
