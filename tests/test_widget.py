"""Draws in the widget as a person does: a real JupyterLab, a real kernel, a headless Chromium."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eigen_digits.preprocessing import rasterize

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
ZERO = [[(140, 60), (100, 80), (82, 140), (100, 200), (140, 220), (180, 200), (198, 140), (180, 80), (140, 60)]]

RUN_ALL = "notebook:run-all-cells"
IS_READY = """command => {
  const app = window.jupyterapp, context = app?.shell.currentWidget?.sessionContext;
  return app?.commands.hasCommand(command) && context?.isReady
    && context.session?.kernel?.connectionStatus === 'connected';
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


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def jupyterlab(folder: Path):
    """A JupyterLab that serves `folder`, with no setting of the user's in sight; gives its address."""
    port, home = free_port(), folder / ".home"
    names = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    env = os.environ | {name: str(home / name.lower()) for name in names} | {"PYTHONPATH": str(ROOT)}
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
def page(tmp_path_factory):
    """A notebook with a canvas, open in JupyterLab with its cell run."""
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("lab")
    (folder / "draw.ipynb").write_text(notebook("from eigen_digits.canvas import DigitCanvas\n\nDigitCanvas()"))
    with jupyterlab(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 720}, has_touch=True).new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.goto(f"{address}/lab/tree/draw.ipynb")
        page.wait_for_function(IS_READY, arg=RUN_ALL)
        page.evaluate("command => window.jupyterapp.commands.execute(command)", RUN_ALL)
        answer(page).filter(has_text="draw something").wait_for()
        yield page
        browser.close()


@pytest.fixture(autouse=True)
def clean(page, request):
    """Every test starts with an empty canvas and leaves a picture of how it ended."""
    page.get_by_role("button", name="Clear").click()
    answer(page).filter(has_text="draw something").wait_for()
    yield
    ARTIFACTS.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    page.locator(".jp-Cell").screenshot(path=ARTIFACTS / f"widget-{name}.png")


def answer(page):
    """Where the widget says what it sees."""
    return page.locator(".jp-OutputArea [role=status]")


def ink(page) -> np.ndarray:
    """The canvas as the browser shows it: (280, 280), 0 for paper to 255 for ink."""
    url = page.locator(".jp-OutputArea canvas").evaluate("canvas => canvas.toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return 255 - np.asarray(picture.convert("L"), float)


def wait_until(holds, what: str):
    """Wait until `holds()` is true; fail saying `what` did not come."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, f"did not come: {what}"
        time.sleep(0.1)


def on_canvas(page, strokes):
    """The strokes in coordinates of the page, with points between so that the pen does not jump."""
    box = page.locator(".jp-OutputArea canvas").bounding_box()
    for stroke in strokes:
        corners = [(box["x"] + x, box["y"] + y) for x, y in stroke]
        steps = [(a, b, k / 8) for a, b in zip(corners, corners[1:]) for k in range(1, 9)]
        yield corners[:1] + [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for a, b, t in steps]


def draw_by_mouse(page, strokes):
    """Press, move and release the mouse for every stroke."""
    for first, *rest in on_canvas(page, strokes):
        page.mouse.move(*first)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point)
        page.mouse.up()


def draw_by_touch(page, strokes):
    """Put a finger down, move it and lift it for every stroke."""
    cdp = page.context.new_cdp_session(page)

    def touch(kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for first, *rest in on_canvas(page, strokes):
        touch("touchStart", first)
        for point in rest:
            touch("touchMove", point)
        touch("touchEnd")


@pytest.mark.parametrize("draw", [draw_by_mouse, draw_by_touch], ids=["mouse", "touch"])
@pytest.mark.parametrize("digit, strokes", [("7", SEVEN), ("0", ZERO)], ids=["seven", "zero"])
def test_a_drawn_digit_is_answered(page, draw, digit, strokes):
    draw(page, strokes)
    answer(page).filter(has_text="sure").wait_for()
    assert answer(page).inner_text().split()[0] == digit


def test_clear_empties_the_canvas(page):
    draw_by_mouse(page, SEVEN)
    answer(page).filter(has_text="sure").wait_for()
    page.get_by_role("button", name="Clear").click()
    answer(page).filter(has_text="draw something").wait_for()
    assert ink(page).sum() == 0


def test_the_screen_shows_what_is_recognised(page):
    strokes = SEVEN + [[(240, 240)]]  # and a dot
    draw_by_mouse(page, strokes)
    expected = 255 - np.asarray(rasterize(strokes), float)
    wait_until(lambda: np.abs(ink(page) - expected).mean() < 1, "the same picture, to one of 256 greys on average")


def test_a_pen_that_leaves_is_lifted(page):
    draw_by_mouse(page, [[(40, 140), (-60, 140), (-60, 240), (240, 240), (240, 40)]])
    answer(page).filter(has_text=re.compile("sure|digit")).wait_for()  # two lines: sure of a digit or of none
    assert ink(page)[225:255, 60:].sum() == 0  # the way back, after the pen had left


def test_the_drawing_survives_a_reload(page):
    draw_by_mouse(page, SEVEN)
    expected = 255 - np.asarray(rasterize(SEVEN), float)
    page.evaluate("command => window.jupyterapp.commands.execute(command)", "docmanager:save")
    page.reload()
    answer(page).filter(has_text="sure").wait_for()
    wait_until(lambda: np.abs(ink(page) - expected).mean() < 1, "the drawing, as it was")
    draw_by_mouse(page, [[(20, 20), (20, 40)]])
    wait_until(lambda: ink(page)[20:40, 20].min() == 255, "the pen draws as before")
