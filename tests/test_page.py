"""The page in a real browser before a real server: mouse, touch, keyboard, and what it says when things go wrong."""

import shutil
import socket
import threading
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from eigen_digits import serving
from eigen_digits.inference import Recognizer
from eigen_digits.preprocessing import BRUSH, load_image, preprocess, rasterize

ARTIFACTS = Path(__file__).parent.parent / "test-artifacts"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed; it comes with [dev]")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")

# As one writes them: points on the 280×280 canvas, y down.
DIGITS = {
    0: [[(140, 60), (100, 80), (82, 140), (100, 205), (140, 222), (180, 200), (196, 140), (180, 80), (142, 60)]],
    1: [[(110, 100), (150, 60), (150, 225)]],
    2: [[(90, 100), (105, 68), (140, 56), (178, 72), (184, 108), (150, 160), (88, 220), (195, 220)]],
    3: [[(95, 70), (140, 56), (180, 80), (172, 118), (130, 136), (180, 160), (186, 200), (140, 228), (92, 208)]],
    4: [[(150, 55), (90, 160), (200, 160)], [(165, 110), (165, 230)]],
    7: [[(85, 70), (195, 70), (150, 145), (125, 225)]],
}


@contextmanager
def running(recognizer: Recognizer | None = None):
    """Serve on a free port of this machine; gives the server and its address."""
    settings = serving.TestSettings(_env_file=None)
    server = uvicorn.Server(uvicorn.Config(serving.create_app(settings, recognizer), log_level="warning"))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.01)
        try:
            yield server, f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address():
    with running() as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with closing(browser.new_page()) as page:
        page.goto(address)
        yield page


def on_canvas(page, x: float, y: float) -> tuple[float, float]:
    """A point of the canvas as a point of the window."""
    box = page.locator("#paper").bounding_box()
    return box["x"] + x, box["y"] + y


def draw(page, strokes, steps: int = 4) -> None:
    """Draw with the mouse, each piece of a line in some steps."""
    for (x, y), *rest in strokes:
        page.mouse.move(*on_canvas(page, x, y))
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(*on_canvas(page, x, y), steps=steps)
        page.mouse.up()


def touch(page, strokes) -> None:
    """Draw with a finger, as the browser's own debugging interface sends it."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, *points) -> None:
        touches = [dict(zip("xy", on_canvas(page, *point), strict=True)) for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    for start, *rest in strokes:
        send("touchStart", start)
        for point in rest:
            send("touchMove", point)
        send("touchEnd")


def predict(page) -> str:
    """Press Predict and give the digit shown."""
    page.get_by_role("button", name="Predict").click()
    page.get_by_text("% sure").wait_for()
    return page.locator("#digit").inner_text()


def picture(page) -> Image.Image:
    """What the page would send, in grey."""
    return load_image(page.evaluate("paper.toDataURL('image/png')")).convert("L")


@pytest.mark.parametrize("digit", DIGITS)
def test_a_digit_drawn_with_the_mouse_is_read(page, digit):
    draw(page, DIGITS[digit])
    assert predict(page) == str(digit)
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"page-{digit}.png", animations="disabled")


def test_enter_is_predict_and_the_answer_is_announced(page):
    draw(page, DIGITS[7])
    page.keyboard.press("Enter")
    page.get_by_text("% sure").wait_for()
    announced = page.get_by_role("status")
    assert announced.get_attribute("aria-live") == "polite"
    assert announced.inner_text().split()[0] == "7"


def test_enter_on_a_button_is_that_button_alone(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    draw(page, DIGITS[7])
    page.get_by_role("button", name="Clear").press("Enter")
    assert page.evaluate("strokes") == []
    assert asked == []
    draw(page, DIGITS[7])
    page.get_by_role("button", name="Predict").press("Enter")
    page.get_by_text("% sure").wait_for()
    assert len(asked) == 1


def test_the_page_shows_what_the_server_answered(page):
    draw(page, DIGITS[4])
    with page.expect_response("**/api/v1/predict") as response:
        digit = predict(page)
    answer = response.value.json()
    assert digit == str(answer["predicted_digit"])
    shown = page.locator("#sure").inner_text()
    assert shown == ("more than 99.9% sure" if answer["confidence"] > 0.999 else f"{answer['confidence']:.1%} sure")


def test_a_digit_drawn_with_a_finger_is_read_and_the_page_stays_where_it_is(browser, address):
    phone = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, device_scale_factor=2)
    with closing(phone), closing(phone.new_page()) as page:
        page.goto(address)
        touch(page, DIGITS[3])
        assert page.evaluate("scrollY") == 0
        assert len(page.evaluate("strokes")) == 1
        assert predict(page) == "3"


def test_a_second_finger_does_not_scribble(browser, address):
    with closing(browser.new_context(has_touch=True)) as context, closing(context.new_page()) as page:
        page.goto(address)
        session = context.new_cdp_session(page)
        for kind, count in (("touchStart", 1), ("touchStart", 2), ("touchMove", 2), ("touchEnd", 0)):
            points = [on_canvas(page, 100 + 60 * i + 10 * (kind == "touchMove"), 100) for i in range(count)]
            touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        strokes = page.evaluate("strokes")
        assert len(strokes) == 1
        assert max(x for x, _ in strokes[0]) < 120


def test_a_stroke_goes_on_when_the_pen_leaves_the_canvas_and_comes_back(page):
    draw(page, [[(250, 100), (400, 140), (250, 180)]])
    strokes = page.evaluate("strokes")
    assert len(strokes) == 1
    assert max(x for x, _ in strokes[0]) > 390
    draw(page, [[(50, 50), (60, 60)]])
    assert len(page.evaluate("strokes")) == 2


def test_clear_takes_away_drawing_and_answer(page):
    draw(page, DIGITS[7])
    predict(page)
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#digit").inner_text() == ""
    assert picture(page).getextrema() == (255, 255)
    draw(page, DIGITS[1])
    assert predict(page) == "1"


def test_new_ink_takes_away_the_old_answer(page):
    draw(page, DIGITS[7])
    predict(page)
    draw(page, [[(105, 145), (180, 140)]])
    assert page.locator("#digit").inner_text() == ""


def test_a_late_answer_does_not_come_after_clear(page):
    waiting = []
    page.route("**/api/v1/predict", lambda route: waiting.append(route))
    draw(page, DIGITS[7])
    with page.expect_request("**/api/v1/predict"):
        page.get_by_role("button", name="Predict").click()
    page.get_by_role("button", name="Clear").click()
    with page.expect_response("**/api/v1/predict") as response:
        waiting[0].continue_()
    response.value.finished()
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.locator("#digit").inner_text() == ""


def test_an_empty_canvas_gets_the_servers_sentence(page):
    page.get_by_role("button", name="Predict").click()
    alert = page.get_by_role("alert").filter(has_text="empty")
    alert.wait_for()
    assert "draw one digit" in alert.inner_text()
    assert not page.locator("#sure").is_visible()
    draw(page, DIGITS[1])
    assert alert.count() == 0


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<h1>Welcome</h1>", "cannot be read"),
        (200, "", "cannot be read"),
        (200, "null", "cannot be read"),
        (200, '{"confidence": 0.9}', "cannot be read"),
        (200, '{"predicted_digit": 7}', "cannot be read"),
        (200, '{"predicted_digit": "7", "confidence": "high"}', "cannot be read"),
        (400, '{"detail": "Send another."}', "Send another."),
        (400, '{"detail": ""}', "status 400"),
        (422, '{"detail": [{"msg": "missing"}]}', "status 422"),
        (500, "null", "status 500"),
        (502, "<h1>Bad gateway</h1>", "status 502"),
    ],
)
def test_an_answer_of_another_kind_is_a_visible_error(page, status, body, said):
    page.route("**/api/v1/predict", lambda route: route.fulfill(status=status, body=body))
    draw(page, DIGITS[1])
    drawn = page.evaluate("strokes")
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("alert").filter(has_text=said).wait_for()
    assert page.locator("#digit").inner_text() == ""
    assert page.evaluate("strokes") == drawn


def test_a_server_that_went_away_is_said_and_the_drawing_stays(browser):
    with running() as (server, address), closing(browser.new_page()) as page:
        page.goto(address)
        draw(page, DIGITS[7])
        drawn = page.evaluate("strokes")
        server.should_exit = True
        page.wait_for_timeout(500)
        page.get_by_role("button", name="Predict").click()
        page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
        assert page.evaluate("strokes") == drawn


# To the right, down, and how large: the box around the ink is found to whole pixels, so one place alone tells little.
PLACES = [(0, 0, 1), (-7, 5, 0.9), (11, -9, 0.8), (4, 8, 0.85), (-13, -3, 0.75), (6, 2, 0.95)]


def test_the_canvas_draws_what_rasterize_draws(page):
    apart, apart_as_seen = [], []
    for strokes, (right, down, share) in product(DIGITS.values(), PLACES):
        page.get_by_role("button", name="Clear").click()
        draw(page, [[(140 + (x - 140) * share + right, 140 + (y - 140) * share + down) for x, y in s] for s in strokes])
        canvas, ours = picture(page), rasterize(page.evaluate("strokes"))
        assert canvas.size == ours.size == (280, 280)
        assert canvas.getextrema() == ours.getextrema() == (0, 255)
        apart.append(difference(canvas, ours))
        apart_as_seen.append(difference(*(preprocess(image) * 255 for image in (canvas, ours))))
    assert np.mean(apart) < 1, "grey levels of 255 on average over the canvas"
    assert np.mean(apart_as_seen) < 2, "grey levels of 255 on average over the 28×28 that the network sees"


def difference(one, other) -> float:
    """By how much two pictures differ, on average over their pixels."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_a_tap_draws_a_dot_as_wide_as_the_brush(page):
    draw(page, [[(140, 140)]])
    left, upper, right, lower = picture(page).point(lambda grey: 255 - grey).getbbox()
    assert (right - left, lower - upper) == (BRUSH, BRUSH)


def test_the_page_asks_nobody_else_and_logs_no_error(browser, address):
    with closing(browser.new_page()) as page:
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        draw(page, DIGITS[7])
        predict(page)
        assert {url for url in asked if not url.startswith("data:")} == {address, f"{address}api/v1/predict"}
        assert complaints == []


@pytest.mark.parametrize("width", [320, 360, 760, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_and_the_paper_stays_white(browser, address, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    with closing(context), closing(context.new_page()) as page:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        box = page.locator("#paper").bounding_box()
        assert (box["width"], box["height"]) == (280, 280)
        assert picture(page).getextrema() == (255, 255)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 3 * 128) == (scheme == "light")
