"""Runs the command eigen-digits as a user does: as a process, in a folder of the user's own."""

import csv
import io
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eigen_digits import __version__
from eigen_digits.inference import Recognizer, shipped_artefact
from eigen_digits.preprocessing import rasterize

SEVEN = [[(80, 70), (200, 70), (120, 220)]]
ZERO = [[(140, 60), (100, 80), (82, 140), (100, 200), (140, 220), (180, 200), (198, 140), (180, 80), (140, 60)]]
COMMAND = [sys.executable, "-c", "from eigen_digits.cli import main; main(prog_name='eigen-digits')"]
WITHOUT_TENSORFLOW = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; "


def run(*args, cwd, env=None, command=COMMAND) -> subprocess.CompletedProcess:
    """The command with these arguments, as bytes decoded strictly."""
    done = subprocess.run(
        [*command, *map(str, args)], cwd=cwd, env=os.environ | (env or {}), capture_output=True, timeout=300
    )
    done.stdout, done.stderr = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    return done


def read_jsonl(done: subprocess.CompletedProcess) -> list[dict]:
    """The records on stdout."""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A foreign folder with a folder of pictures in it: good, empty, broken, and one that is no picture."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    rasterize(SEVEN).save(tmp_path / "in" / "c.png")
    rasterize(ZERO).save(tmp_path / "in" / "b" / "größe 零.jpeg")
    rasterize([]).save(tmp_path / "in" / "a.BMP")
    (tmp_path / "in" / "d.png").write_bytes(b"not a picture")
    (tmp_path / "in" / "notes.txt").write_text("skipped: no suffix of a picture")
    return tmp_path


def test_a_folder_as_jsonl(folder):
    done = run("predict", "in", cwd=folder)
    empty, zero, seven, broken = read_jsonl(done)
    assert done.returncode == 1
    assert empty == {"path": str(Path("in/a.BMP")), "digit": None, "confidence": None, "is_digit": False}
    assert (zero["path"], zero["digit"]) == (str(Path("in/b/größe 零.jpeg")), 0)
    assert (seven["path"], seven["digit"], seven["is_digit"]) == (str(Path("in/c.png")), 7, True)
    assert 0.5 < seven["confidence"] <= 1 and list(seven) == ["path", "digit", "confidence", "is_digit"]
    assert set(broken) == {"path", "error"} and "not a picture" in broken["error"]


def test_the_package_is_the_command_too(tmp_path):
    done = run("--version", cwd=tmp_path, command=[sys.executable, "-m", "eigen_digits"])
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__)


def test_a_folder_as_csv(folder):
    done = run("predict", "in", "--format", "csv", cwd=folder)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "path,digit,confidence,is_digit,error"
    empty, zero, seven, broken = csv.DictReader(io.StringIO(done.stdout))
    assert (empty["digit"], empty["confidence"], empty["is_digit"], empty["error"]) == ("", "", "false", "")
    assert (zero["path"], zero["digit"], zero["error"]) == (str(Path("in/b/größe 零.jpeg")), "0", "")
    assert (seven["digit"], seven["is_digit"]) == ("7", "true")
    assert (broken["digit"], broken["is_digit"]) == ("", "") and "not a picture" in broken["error"]


def test_both_formats_and_the_library_agree(folder):
    expected = Recognizer.load().predict(folder / "in" / "c.png")
    (line,) = read_jsonl(run("predict", "in/c.png", cwd=folder))
    (row,) = csv.DictReader(io.StringIO(run("predict", "in/c.png", "--format", "csv", cwd=folder).stdout))
    assert line["digit"] == int(row["digit"]) == expected.digit
    assert line["confidence"] == float(row["confidence"]) == round(float(expected.confidence), 4)


def test_paths_keep_their_order(folder):
    paths = [str(Path(p)) for p in ("in/c.png", "in/b/größe 零.jpeg", "in/a.BMP", "in/c.png")]
    done = run("predict", *paths, cwd=folder)
    assert done.returncode == 0
    assert [record["path"] for record in read_jsonl(done)] == paths


@pytest.mark.parametrize("path, says", [("missing.png", "no such file"), ("in/none", "no picture in this folder")])
def test_what_is_not_there_is_a_record(folder, path, says):
    (folder / "in" / "none").mkdir()
    done = run("predict", path, "in/c.png", cwd=folder)
    bad, good = read_jsonl(done)
    assert done.returncode == 1
    assert bad["path"] == str(Path(path)) and says in bad["error"]
    assert good["digit"] == 7


def test_a_dangling_link_is_a_record(folder):
    (folder / "in" / "b" / "link.png").symlink_to("nowhere.png")
    zero, link = read_jsonl(run("predict", "in/b", cwd=folder))
    assert zero["digit"] == 0 and "cannot be read" in link["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not Unicode")
@pytest.mark.parametrize("style", ["jsonl", "csv"])
def test_a_file_name_that_is_not_unicode(folder, style):
    name = os.fsencode(folder / "in") + b"/\xff.png"
    os.rename(folder / "in" / "c.png", name)
    command = [os.fsencode(part) for part in COMMAND]
    done = subprocess.run([*command, b"predict", name, b"--format", style.encode()], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    last = done.stdout.decode("utf-8").splitlines()[-1]
    assert "\\udcff.png" in last
    if style == "jsonl":
        assert os.fsencode(json.loads(last)["path"]) == name


def test_output_is_utf8_whatever_the_locale_says(folder):
    done = run("predict", "in/b", cwd=folder, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert read_jsonl(done)[0]["path"] == str(Path("in/b/größe 零.jpeg"))


def test_a_closed_pipe_ends_it_quietly(folder):
    many = folder / "many"
    many.mkdir()
    for i in range(300):
        rasterize(SEVEN).save(many / f"{i:03}.png")
    process = subprocess.Popen(
        [*COMMAND, "predict", str(many)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert json.loads(process.stdout.readline())["digit"] == 7
    process.stdout.close()
    assert process.wait(300) != 0
    assert b"Error" not in process.stderr.read()
    process.stderr.close()


def test_records_come_as_they_are_made(folder):
    """The first record can be read while a later picture, a pipe without a writer, holds the command up."""
    os.mkfifo(folder / "pipe")
    process = subprocess.Popen([*COMMAND, "predict", "in/c.png", "pipe"], cwd=folder, stdout=subprocess.PIPE)
    try:
        assert json.loads(process.stdout.readline())["digit"] == 7
        assert process.poll() is None
        (folder / "pipe").write_bytes(b"")
        assert "0 bytes" in json.loads(process.stdout.readline())["error"]
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture(params=["missing", "no JSON", "of a wrong value", "altered"])
def unusable(request, tmp_path) -> str:
    """The folder `model` in the folder of the test, with something wrong in it; its name."""
    model, shipped = tmp_path / "model", shipped_artefact()
    model.mkdir()
    if request.param != "missing":
        description = json.loads((shipped / "model.json").read_text())
        wrong = {"no JSON": "{", "of a wrong value": json.dumps(description | {"temperature": -1})}
        (model / "model.json").write_text(wrong.get(request.param) or json.dumps(description))
        (model / "model.tflite").write_bytes((shipped / "model.tflite").read_bytes()[:-1])
        (model / "ink.tflite").write_bytes((shipped / "ink.tflite").read_bytes())
    return "model"


@pytest.mark.parametrize("args", ["predict in/c.png --model model", "serve --port 0"])
def test_an_unusable_model_is_one_line(folder, unusable, args):
    done = run(*args.split(), cwd=folder, env={"ENV_STATE": "test", "TEST_MODEL": unusable})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"Error: {Path(unusable, 'model.')}") and done.stderr.count("\n") == 1


def test_pictures_of_many_modes_give_one_answer(folder):
    drawing = rasterize(SEVEN)
    alpha = Image.new("RGBA", drawing.size)
    alpha.putalpha(Image.eval(drawing, lambda v: 255 - v))
    pictures = {"grey": drawing, "colour": drawing.convert("RGB"), "clear": alpha, "bits": drawing.convert("1")}
    pictures["deep"] = Image.fromarray(np.asarray(drawing).astype("uint16") * 257)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    found = read_jsonl(run("predict", *(f"{name}.png" for name in pictures), cwd=folder))
    assert [record["digit"] for record in found] == [7] * len(pictures)


@pytest.mark.parametrize(
    "args, says",
    [
        (["predict"], "PATH"),
        (["predict", "x.png", "--format", "xml"], "jsonl"),
        (["serve", "--port", "70000"], "65535"),
        (["train", "--epochs", "1"], "x>=2"),
        (["train", "--ink", "--folds"], "--ink trains the ink network alone"),
        (["data"], "--list"),
        (["data", "nosuchset"], "swiss"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_call_says_what_is_right(tmp_path, args, says):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


def test_the_installed_command(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "eigen-digits"
    assert run("--version", cwd=tmp_path, command=[script]).stdout == f"eigen-digits, version {__version__}\n"


def test_help_and_version(tmp_path):
    assert __version__ in run("--version", cwd=tmp_path).stdout
    text = run("--help", cwd=tmp_path).stdout
    for name in ("serve", "predict", "train", "evaluate", "data"):
        assert name in text
        assert run(name, "--help", cwd=tmp_path).returncode == 0


def test_help_imports_nothing_heavy(tmp_path):
    code = "import sys, eigen_digits.cli; print(*sys.modules)"
    modules = run(cwd=tmp_path, command=[sys.executable, "-c", code]).stdout.split()
    assert not {"numpy", "PIL", "fastapi", "tensorflow", "sklearn", "matplotlib", "nbdev"} & set(modules)


def test_data_says_what_a_set_holds(tmp_path):
    """A set in the publisher's layout, found in the folder that the environment names."""
    for writer, strokes, digit in (("0002_CH5M", SEVEN, 7), ("0002_CH5M", ZERO, 0), ("0005_CH3M", SEVEN, 7)):
        place = tmp_path / "numbers" / writer / str(digit)
        place.mkdir(parents=True)
        rasterize(strokes).save(place / "number-1.png")
    (place / "number-2.png").write_bytes(b"not a picture")
    done = run("data", "swiss", cwd=tmp_path, env={"EIGEN_DIGITS_DATA": str(tmp_path)})
    assert done.returncode == 0
    assert "swiss: 3 digits" in done.stdout and "7: 2" in done.stdout and "0: 1" in done.stdout
    assert "0005_CH3M/7/number-2.png" in done.stdout  # the unreadable one
    listed = run("data", "--list", cwd=tmp_path, env={"EIGEN_DIGITS_DATA": str(tmp_path)}).stdout.splitlines()
    found = {line.split()[0]: line for line in listed}
    assert {"swiss", "mnist", "pendigits", "uji", "bhmsds", "omniglot", "kaggle", "sample", "cvl"} <= found.keys()
    assert found["swiss"].endswith("  here") and "train" in found["swiss"] and "CC0" in found["swiss"]
    assert found["kaggle"].endswith("would be downloaded")
    assert found["cvl"].endswith("not here") and "measure" in found["cvl"]


@pytest.mark.parametrize("args", [["train"], ["train", "--folds"]])
def test_without_tensorflow_one_line_names_the_extra(tmp_path, args):
    done = run(*args, cwd=tmp_path, command=[sys.executable, "-c", WITHOUT_TENSORFLOW + COMMAND[-1]])
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("Error: ") and "Traceback" not in done.stderr
    assert "pip install 'eigen_digits[train]'" in done.stderr


def test_evaluate_says_what_is_missing(tmp_path):
    done = run("evaluate", "--out", "nowhere", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "out_of_fold.npz is missing" in done.stderr and "train --folds" in done.stderr


def test_evaluate_names_a_damaged_file(tmp_path):
    (tmp_path / "out_of_fold.npz").write_bytes(b"PK\x03\x04 cut off")
    done = run("evaluate", "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "out_of_fold.npz is damaged" in done.stderr


def test_seed_and_length_are_what_the_command_says():
    from eigen_digits import training
    from eigen_digits.cli import _changed

    recipe = _changed(training.RECIPES["eigen-digits"], 5, 7, False)
    assert (recipe.seed, recipe.epochs, recipe.fold_epochs) == (7, 5, 5)
    assert recipe.sets == training.RECIPES["eigen-digits"].sets
