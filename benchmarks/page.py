"""The page in a browser: from lifting the pen to the answer on the screen."""

import shutil
from collections.abc import Iterator

from .load import HOST, first_answer, running
from .rounds import Benchmark, MissingError, Pairs, progress
from .serving import QUIET

_GOAL = 50.0  # ms
_PAUSE = 10  # ms between two points, as the pens of pendigits were read

# Notes for each stroke, once its answer stands, how long after the pointer went up the next frame was drawn.
_WATCH = """() => {
  globalThis.waits = [];
  let up = null;
  document.addEventListener("pointerup", (event) => (up = event.timeStamp), true);
  new MutationObserver(() => {
    if (up === null || answer.ariaBusy === "true") return;
    const since = up;
    up = null;
    requestAnimationFrame(() => {
      const drawn = new MessageChannel();
      drawn.port1.onmessage = () => waits.push(performance.now() - since);
      drawn.port2.postMessage(0);
    });
  }).observe(answer, { attributes: true, attributeFilter: ["aria-busy"] });
}"""


def _strokes() -> Iterator[tuple[bool, list]]:
    """The strokes of real writers without end; with each, whether it is the first of its digit."""
    from .drawings import drawings

    while True:
        for digit in drawings(200).strokes:
            yield from ((number == 0, stroke) for number, stroke in enumerate(digit))


def _draw(page, stroke: list) -> None:
    """Draw a stroke with the mouse, about as fast as it was written."""
    box = page.locator("#paper").bounding_box()
    scale = box["width"] / 280
    (x, y), *rest = ((box["x"] + x * scale, box["y"] + y * scale) for x, y in stroke)
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in rest:
        page.wait_for_timeout(_PAUSE)
        page.mouse.move(x, y)
    page.mouse.up()


def pointer_to_answer(quick: bool) -> Pairs:
    """Milliseconds from pointer-up to the frame that shows its answer, for fifty strokes; beside each, the goal."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise MissingError("Playwright is not installed; it comes with the extra `dev`") from None
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise MissingError("Chromium is not installed: `apt-get install chromium`")
    count = 10 if quick else 50
    with running("eigen_digits.serving:app", **QUIET) as server, sync_playwright() as playwright:
        first_answer(server, "/api/v2/predict", '{"strokes": [[[85, 60], [190, 60]]]}')
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.goto(f"http://{HOST}:{server.port}/")
        page.evaluate(_WATCH)
        strokes = _strokes()
        for number in progress(count + 3, "from pointer-up to the answer"):  # the first three warm it up
            is_first, stroke = next(strokes)
            if is_first:
                page.keyboard.press("Delete")
            _draw(page, stroke)
            page.wait_for_function("count => waits.length === count", arg=number + 1)
        waits = page.evaluate("waits")
        browser.close()
    return [(wait, _GOAL) for wait in waits[3:]]


BENCHMARKS = {
    "page": Benchmark(
        pointer_to_answer, "from pointer-up to the answer on the page", "a goal of 50 ms", "ms", 1, at_least=False
    ),
}
