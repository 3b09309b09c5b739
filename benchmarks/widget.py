"""The widget in a real JupyterLab: how soon after the pen is lifted the answer is seen."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from .rounds import ROOT, Benchmark, MissingError, Pairs, progress

GOAL = 100  # ms, in which an answer seems to come at once

# When the pen was lifted, and when the browser was about to paint what has come since.
WATCH = """canvas => {
  canvas.addEventListener('mouseup', event => { window.lifted = event.timeStamp; window.shown = null; }, true);
  const note = () => { window.shown = performance.now(); };
  new MutationObserver(() => requestAnimationFrame(note))
    .observe(canvas.closest('.jp-OutputArea-output'), {childList: true, subtree: true});
}"""
# The last that came: an answer on its way when the pen was lifted is not yet the one to the whole stroke.
IS_QUIET = "window.shown && performance.now() - window.shown > 300"


def _need_a_browser() -> None:
    missing = [name for name in ("jupyterlab", "ipycanvas", "playwright") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f"the widget needs {', '.join(missing)}; the extra `dev` has all")
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        raise MissingError("the widget is measured in Chromium; on Debian: apt-get install chromium")


def _lab() -> ModuleType:
    """The tests of the widget, which know how to drive JupyterLab; by path, as many packages are called `tests`."""
    sys.path.append(str(ROOT / "tests"))  # where it finds what it shares with other tests
    spec = importlib.util.spec_from_file_location("test_widget", ROOT / "tests" / "test_widget.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _strokes(count: int) -> Iterator[tuple[bool, list]]:
    """So many strokes of real pens, and whether each one begins a digit."""
    from eigen_digits.data import load

    pens = load("pendigits")
    strokes = ((not k, stroke) for digit in pens.strokes for k, stroke in enumerate(digit))
    return (next(strokes) for _ in progress(count, "strokes in JupyterLab"))


def _draw(page, stroke: list) -> float:
    """Draw a stroke with the mouse; gives the milliseconds from lifting it to the sight of the answer."""
    box = page.locator(".jp-OutputArea canvas").bounding_box()
    first, *rest = [(box["x"] + x, box["y"] + y) for x, y in stroke]
    page.mouse.move(*first)
    page.mouse.down()
    for point in rest:
        page.mouse.move(*point)
    page.mouse.up()
    page.wait_for_function(IS_QUIET)
    return page.evaluate("window.shown - window.lifted")


def answered(quick: bool) -> Pairs:
    """Milliseconds from pointer-up to the shown answer, and the goal; a pair for each of 50 strokes."""
    _need_a_browser()
    from playwright.sync_api import sync_playwright

    lab, cell = _lab(), "from eigen_digits.canvas import DigitCanvas\nDigitCanvas()"
    with TemporaryDirectory() as name, lab.jupyterlab(Path(name)) as address, sync_playwright() as playwright:
        (Path(name) / "draw.ipynb").write_text(lab.notebook(cell))
        page = playwright.chromium.launch(executable_path=lab.CHROMIUM, args=["--no-sandbox"]).new_page()
        page.set_default_timeout(1000 * lab.SECONDS)
        page.goto(f"{address}/lab/tree/draw.ipynb")
        page.wait_for_function(lab.IS_READY, arg=lab.RUN_ALL)
        lab.command(page, lab.RUN_ALL)
        page.locator(".jp-OutputArea canvas").evaluate(WATCH)
        _draw(page, [(80, 70), (200, 70), (120, 220)])  # the first answer loads what it needs
        times = []
        for is_new, stroke in _strokes(5 if quick else 50):
            if is_new:
                page.get_by_role("button", name="Clear").click()
                page.get_by_role("status").filter(has_text="draw something").wait_for()
            times.append((_draw(page, stroke), GOAL))
        return times


BENCHMARKS = {
    "widget": Benchmark(answered, "pointer-up to the answer seen in JupyterLab", f"{GOAL} ms", "ms", 1, at_least=False),
}
