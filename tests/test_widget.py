"""Draws in the widget as a person does: a real JupyterLab, a real kernel, a headless Chromium."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from math import ceil, hypot
from pathlib import Path

import numpy as np
import pytest
from conftest import free_port
from PIL import Image

from eigen_digits.data import available, load
from eigen_digits.inference import Recognizer
from eigen_digits.preprocessing import CANVAS, rasterize

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "test-artifacts"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name in ("jupyterlab", "ipycanvas", "playwright") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"the widget test needs {', '.join(MISSING)} (the extra dev has all)"),
    pytest.mark.skipif(CHROMIUM is None, reason="the widget test needs Chromium: apt-get install chromium"),
]

SECONDS = 180  # a machine busy with other tests takes a minute to start a server, a browser and a kernel
SEVEN = [[(80, 70), (200, 70), (120, 220)]]
FOUR = [[(150, 55), (90, 160), (200, 160)], [(165, 110), (165, 230)]]
ZERO = [[(140, 60), (100, 80), (82, 140), (100, 200), (140, 220), (180, 200), (198, 140), (180, 80), (140, 60)]]

RUN_ALL, SAVE = "notebook:run-all-cells", "docmanager:save"
IS_READY = """command => {
  const app = window.jupyterapp, context = app?.shell.currentWidget?.sessionContext;
  return app?.commands.hasCommand(command) && context?.isReady
    && context.session?.kernel?.connectionStatus === 'connected';
}"""

ASK = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false});
  let said = '';
  future.onIOPub = message => { said += message.content.text ?? message.content.traceback?.join('') ?? ''; };
  await future.done;
  return said;
}"""


def notebook(*cells: str) -> str:
    """A notebook file with these code cells and none run."""
    return json.dumps(
        {
            "cells": [
                {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "outputs": [], "execution_count": None}
                | {"source": source}
                for i, source in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


@contextmanager
def jupyterlab(folder: Path):
    """A JupyterLab that serves `folder`, with no setting of the user's in sight; gives its address."""
    port, home = free_port(), folder / ".home"
    names = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    env = os.environ | {name: str(home / name.lower()) for name in names} | {"PYTHONPATH": str(ROOT)}
    env.pop("PYTEST_CURRENT_TEST", None)  # at which a kernel would not show what is written to standard error
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--no-browser"]
    options += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--ServerApp.password="]
    options += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--allow-root"]
    home.mkdir()
    with open(home / "log.txt", "w+", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/api", server, home / "log.txt")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:  # a reload that is cut off can hang it
                server.kill()
                server.wait()


def wait_for(url: str, server: subprocess.Popen, log: Path):
    """Wait until the server answers; fail with its log if it ends or does not answer in time."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A function that opens a notebook with these cells in JupyterLab and runs them; gives its page and its file."""
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("lab")
    with jupyterlab(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_notebook(name: str, *cells: str, **options):
            file = folder / name
            if cells:
                file.write_text(notebook(*cells))
            page = browser.new_context(viewport={"width": 1280, "height": 900}, has_touch=True, **options).new_page()
            page.set_default_timeout(1000 * SECONDS)
            page.goto(f"{address}/lab/workspaces/{file.stem}-{len(options)}/tree/{name}")
            page.wait_for_function(IS_READY, arg=RUN_ALL)
            if cells:
                command(page, RUN_ALL)
            return page, file

        yield open_notebook
        browser.close()


@pytest.fixture(scope="module")
def page(lab):
    """A notebook with a canvas, open in JupyterLab with its cell run."""
    page, _ = lab("draw.ipynb", "from eigen_digits.canvas import DigitCanvas\n\ncanvas = DigitCanvas()\ncanvas")
    answer(page).filter(has_text="draw something").wait_for()
    return page


def command(page, name: str):
    """Have JupyterLab execute one of its commands."""
    page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


def kernel(page, expression: str):
    """What an expression is in the kernel of a notebook, if it can be said in JSON."""
    said = page.evaluate(ASK, f"import json; print(json.dumps({expression}))")
    try:
        return json.loads(said)
    except ValueError:
        pytest.fail(f"the kernel said of {expression}: {said}")


@pytest.fixture(autouse=True)
def clean(page, request):
    """Every test starts with an empty canvas and leaves a picture of how it ended."""
    page.get_by_role("button", name="Clear").click()
    answer(page).filter(has_text="draw something").wait_for()
    yield
    ARTIFACTS.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    page.locator(".jp-Cell").screenshot(path=ARTIFACTS / f"widget-{name}.png")


def answer(page, number: int = 0):
    """Where the widget says what it sees, the first one of the notebook if not another."""
    return page.locator(".jp-OutputArea [role=status]").nth(number)


def wait_for_digit(page, digit: str, number: int = 0):
    """Wait until the widget is sure of this digit; of one that is half drawn it may have been sure of another."""
    answer(page, number).filter(has_text=re.compile(rf"^\s*{digit}.*sure", re.DOTALL)).wait_for()


def canvas_of(page, number: int = 0):
    """The canvas to draw on, the first one of the notebook if not another."""
    return page.locator(".jp-OutputArea canvas").nth(number)


def picture(page) -> Image.Image:
    """The canvas as the browser shows it, in grey, of 280×280 pixels."""
    url = canvas_of(page).evaluate("canvas => canvas.toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L").reduce(2)


def ink(page) -> np.ndarray:
    """The canvas as the browser shows it: (280, 280), 0 for paper to 255 for ink."""
    return 255 - np.asarray(picture(page), float)


def shows(page, strokes, **style) -> bool:
    """Whether the browser shows these strokes and nothing else, to one of 256 greys on average."""
    return np.abs(ink(page) - 255 + np.asarray(rasterize(placed(page, strokes), **style), float)).mean() < 1


def wait_until(holds, what: str):
    """Wait until `holds()` is true; fail saying `what` did not come."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, f"did not come: {what}"
        time.sleep(0.1)


def places(page, strokes, number: int = 0) -> list[list[tuple[int, int]]]:
    """Strokes on a canvas in coordinates of the page, of which a mouse knows no fractions."""
    box = canvas_of(page, number).bounding_box()
    return [[(round(box["x"] + x), round(box["y"] + y)) for x, y in stroke] for stroke in strokes]


def placed(page, strokes) -> list[list[tuple[float, float]]]:
    """Strokes as they are on the canvas when they were drawn at these places of the page."""
    box = canvas_of(page).bounding_box()
    return [[(x - box["x"], y - box["y"]) for x, y in stroke] for stroke in places(page, map(finer, strokes))]


def finer(stroke: list) -> list[tuple[float, float]]:
    """A stroke with points between where they are far apart, so that the pen does not jump."""
    points = stroke[:1]
    for (x, y), (to_x, to_y) in zip(stroke, stroke[1:]):
        steps = ceil(hypot(to_x - x, to_y - y) / 20)
        points += [(x + (to_x - x) * k / steps, y + (to_y - y) * k / steps) for k in range(1, steps + 1)]
    return points


def draw_by_mouse(page, strokes, number: int = 0):
    """Press, move and release the mouse for every stroke."""
    for first, *rest in places(page, map(finer, strokes), number):
        page.mouse.move(*first)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point)
        page.mouse.up()


def hand(page):
    """A function that puts fingers down, moves and lifts them."""
    cdp = page.context.new_cdp_session(page)

    def touch(kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return touch


def draw_by_touch(page, strokes):
    """Put a finger down, move it and lift it for every stroke."""
    touch = hand(page)
    for first, *rest in places(page, map(finer, strokes)):
        touch("touchStart", first)
        for point in rest:
            touch("touchMove", point)
        touch("touchEnd")


@pytest.mark.parametrize("draw", [draw_by_mouse, draw_by_touch], ids=["mouse", "touch"])
@pytest.mark.parametrize("digit, strokes", [("7", SEVEN), ("0", ZERO)], ids=["seven", "zero"])
def test_a_drawn_digit_is_answered(page, draw, digit, strokes):
    draw(page, strokes)
    wait_for_digit(page, digit)


@pytest.mark.skipif(not available("pendigits"), reason="pendigits is not at hand")
def test_pens_of_real_writers_are_read_as_their_strokes(page):
    recognizer, differences, pens = Recognizer.load(), [], load("pendigits")
    for digit in range(10):
        strokes = pens.strokes[np.flatnonzero(pens.labels == digit)[40]]
        page.get_by_role("button", name="Clear").click()
        answer(page).filter(has_text="draw something").wait_for()
        draw_by_mouse(page, strokes)
        wait_until(lambda strokes=strokes: shows(page, strokes), f"the {digit}, drawn")
        strokes = placed(page, strokes)
        wait_until(lambda: kernel(page, "canvas._answered == canvas._asked"), f"the answer to the {digit}")
        assert kernel(page, "canvas.prediction.digit") == recognizer.predict_strokes(strokes).digit

        # The strokes, the pixels that the browser shows and what the widget has noted: one picture to the network.
        pictures = [rasterize(strokes), picture(page), rasterize(kernel(page, "canvas.strokes"))]
        seen, *others = [255 * recognizer.preprocess(each) for each in pictures]
        differences.append([np.abs(seen - other).mean() for other in others])
    print("grey levels between strokes and pixels, and between strokes and noted ones:", np.round(differences, 2))
    assert np.mean(differences, axis=0).max() <= 2


def test_two_fingers_leave_no_ink(page):
    touch = hand(page)
    (first, second), moved = places(page, [[(80, 80), (200, 200)], [(90, 90), (190, 190)]])
    touch("touchStart", first)
    touch("touchStart", first, second)
    touch("touchMove", *moved)
    touch("touchEnd", moved[0])
    touch("touchMove", second)
    touch("touchEnd")
    draw_by_touch(page, SEVEN)
    answer(page).filter(has_text="sure").wait_for()
    wait_until(lambda: shows(page, SEVEN), "the seven alone")


def test_clear_empties_the_canvas(page):
    draw_by_mouse(page, SEVEN)
    answer(page).filter(has_text="sure").wait_for()
    page.get_by_role("button", name="Clear").click()
    answer(page).filter(has_text="draw something").wait_for()
    wait_until(lambda: ink(page).sum() == 0, "an empty canvas")


def test_undo_and_redo(page):
    draw_by_mouse(page, FOUR)
    wait_until(lambda: shows(page, FOUR), "the four")
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: shows(page, FOUR[:1]), "its first stroke")
    page.get_by_role("button", name="Redo").click()
    wait_until(lambda: shows(page, FOUR), "both strokes again")
    wait_until(page.get_by_role("button", name="Redo").is_disabled, "a Redo that is off")


def test_keys(page):
    draw_by_mouse(page, FOUR)
    wait_until(lambda: shows(page, FOUR), "the four")
    for key, strokes in (("Control+z", FOUR[:1]), ("Control+y", FOUR), ("Delete", []), ("Control+z", FOUR)):
        page.keyboard.press(key)
        wait_until(lambda strokes=strokes: shows(page, strokes), f"what {key} does")
    answer(page).filter(has_text="sure").wait_for()
    for key in "0123456789":  # none of which JupyterLab may take
        page.keyboard.press(key)
        answer(page).filter(has_text=f"you say {key}").wait_for()
    assert kernel(page, "canvas.correction") == 9
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.textContent === 'Undo'")
    canvas_of(page).focus()
    page.keyboard.press("Delete")
    wait_until(lambda: shows(page, []), "an empty sheet")
    kernel(page, "(canvas.drawing._past.clear(), canvas._redraw())")  # nothing to take back
    wait_until(page.get_by_role("button", name="Undo").is_disabled, "an Undo that is off")
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.textContent === 'Clear'")


def test_a_correction_by_button_lasts_as_long_as_the_drawing(page):
    draw_by_mouse(page, SEVEN)
    answer(page).filter(has_text="sure").wait_for()
    page.get_by_title("It should have been 1").click()
    answer(page).filter(has_text="you say 1").wait_for()
    draw_by_mouse(page, [[(110, 150), (185, 150)]])
    answer(page).filter(has_text="sure").filter(has_not_text="you say").wait_for()
    assert kernel(page, "canvas.correction") is None


def test_a_correction_is_asked_for_when_there_is_something_to_correct(page):
    question = page.get_by_text("Wrong? Press the digit that it is.")
    one = page.get_by_title("It should have been 1")
    question.wait_for(state="hidden")
    assert one.is_hidden()
    draw_by_mouse(page, SEVEN)
    question.wait_for()
    assert one.is_visible()
    page.get_by_title("Start again").click()
    question.wait_for(state="hidden")


def test_a_narrow_window_shows_the_answer_beside_the_paper(page):
    size = page.viewport_size
    page.set_viewport_size({"width": 900, "height": 700})
    try:
        paper = canvas_of(page).bounding_box()
        right = paper["x"] + paper["width"]
        wait_until(lambda: answer(page).bounding_box()["x"] > right, "the answer beside the paper")
        draw_by_mouse(page, SEVEN)
        answer(page).filter(has_text="sure").wait_for()
        page.screenshot(path=ARTIFACTS / "widget-narrow.png")
    finally:
        page.set_viewport_size(size)


def test_why_is_shown_on_demand(page):
    draw_by_mouse(page, SEVEN)
    answer(page).filter(has_text="sure").wait_for()
    heat = page.get_by_role("img", name="red for 7, blue against")
    assert heat.count() == 0
    page.get_by_role("button", name="Why").click()
    heat.wait_for()
    picture = Image.open(io.BytesIO(base64.b64decode(heat.get_attribute("src").partition(",")[2])))
    assert (picture.size, picture.mode) == ((28, 28), "RGB")
    page.get_by_role("button", name="Why").click()
    heat.wait_for(state="detached")


def test_the_brush_is_the_answers(page):
    draw_by_mouse(page, SEVEN)
    wait_until(lambda: shows(page, SEVEN), "the seven")
    page.locator(".jp-OutputArea .noUi-handle").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    wait_until(lambda: kernel(page, "canvas.brush") == 22, "a broader brush")
    wait_until(lambda: shows(page, SEVEN, width=22), "the seven, drawn with it")
    wait_until(lambda: kernel(page, "canvas._answered == canvas._asked"), "its answer")
    wanted = "canvas.recognizer.predict_strokes(canvas.strokes, width=22).confidence"
    assert kernel(page, "canvas.prediction.confidence") == kernel(page, wanted)
    kernel(page, "setattr(canvas, 'brush', 18)")


def test_a_dense_screen_is_sharp(lab, page):
    command(page, SAVE)
    dense, _ = lab("draw.ipynb", device_scale_factor=2)  # a second browser, the same kernel
    answer(dense).filter(has_text="draw something").wait_for()
    box = canvas_of(dense).bounding_box()
    assert (box["width"], canvas_of(dense).evaluate("canvas => canvas.width")) == (CANVAS, 2 * CANVAS)
    draw_by_mouse(dense, SEVEN)
    answer(dense).filter(has_text="sure").wait_for()
    wait_until(lambda: shows(dense, SEVEN) and shows(page, SEVEN), "the seven in both browsers, where it was drawn")
    dense.context.close()


def test_the_screen_shows_what_is_recognised(page):
    strokes = SEVEN + [[(240, 240)]]  # and a dot
    draw_by_mouse(page, strokes)
    wait_until(lambda: shows(page, strokes), "the same picture, to one of 256 greys on average")


def test_a_pen_that_leaves_is_lifted(page):
    draw_by_mouse(page, [[(40, 140), (-60, 140), (-60, 240), (240, 240), (240, 40)]])
    wait_until(lambda: ink(page)[140, :20].min() == 255, "the way out, to the edge")
    draw_by_mouse(page, [[(40, 60), (240, 60)]])
    wait_until(lambda: ink(page)[60, 40:240].min() == 255, "the pen draws as before")
    assert ink(page)[225:255, 60:].sum() == 0  # the way back, after the pen had left


def test_the_drawing_survives_a_reload(page):
    draw_by_mouse(page, SEVEN)
    wait_until(lambda: shows(page, SEVEN), "the seven")
    before = ink(page)
    command(page, SAVE)
    page.reload()
    answer(page).filter(has_text="sure").wait_for()
    wait_until(lambda: np.abs(ink(page) - before).mean() < 1, "the drawing, as it was")
    draw_by_mouse(page, [[(20, 20), (20, 40)]])
    wait_until(lambda: ink(page)[20:40, 20].min() == 255, "the pen draws as before")


def test_twice_in_a_notebook_after_a_restart_and_exported(lab):
    pytest.importorskip("nbconvert")
    from nbconvert import HTMLExporter

    cell = "from eigen_digits.canvas import DigitCanvas\n\nDigitCanvas()"
    page, file = lab("twice.ipynb", cell, cell)
    for restarted in (False, True):
        if restarted:
            page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
            page.wait_for_function(IS_READY, arg=RUN_ALL)
            command(page, RUN_ALL)
        for number, (digit, strokes) in enumerate({"7": SEVEN, "0": ZERO}.items()):
            answer(page, number).filter(has_text="draw something").wait_for()
            canvas_of(page, number).scroll_into_view_if_needed()
            draw_by_mouse(page, strokes, number)
            wait_for_digit(page, digit, number)
    stills = page.locator(".eigen-digits-still")
    for number, digit in enumerate("70"):  # each follows its answer, in a message of its own
        stills.nth(number).filter(has_text=re.compile(rf"^\s*{digit}")).wait_for(state="attached")
    assert [still.is_visible() for still in stills.all()] == [False, False]  # the widgets themselves are there

    command(page, SAVE)
    wait_until(lambda: file.read_text().count("eigen-digits-still") >= 2, "the saved notebook")
    assert '"stderr"' not in file.read_text()
    exported, _ = HTMLExporter().from_filename(str(file))
    page.set_content(exported)
    for number, digit in enumerate("70"):
        still = page.locator(".eigen-digits-still").nth(number)
        assert still.is_visible() and still.inner_text().split()[0] == digit
        drawing = still.get_by_role("img", name="the drawing").get_attribute("src")
        inked = 255 - np.asarray(Image.open(io.BytesIO(base64.b64decode(drawing.partition(",")[2]))), float)
        assert np.abs(inked - 255 + np.asarray(rasterize([SEVEN, ZERO][number]), float)).mean() < 1
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "widget-exported.png", full_page=True)
