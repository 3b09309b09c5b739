"""The page in a real browser before a real server: mouse, touch, pen, keys, and what it says when things go wrong."""

import asyncio
import base64
import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from eigen_digits import data, serving
from eigen_digits.inference import Prediction, Recognizer
from eigen_digits.preprocessing import BRUSH, load_image, rasterize

ARTIFACTS = Path(__file__).parent.parent / "test-artifacts"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed; it comes with [dev]")
playwright_async = pytest.importorskip("playwright.async_api", reason="it comes with Playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium")

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
PREDICT = "**/api/v2/predict"
PHONE, WIDE = (360, 740), (1280, 800)
TOUCH = {"has_touch": True, "is_mobile": True}
SIDE = 280  # of the paper, in the units of strokes

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
def running(recognizer: Recognizer | None = None, port: int = 0):
    """Serve on a port of this machine, a free one if it is 0; gives the server and its address."""
    settings = serving.TestSettings(_env_file=None)
    server = uvicorn.Server(uvicorn.Config(serving.create_app(settings, recognizer), log_level="warning"))
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
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
def recognizer():
    return Recognizer.load()


@pytest.fixture(scope="module")
def address(recognizer):
    with running(recognizer) as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, size: tuple[int, int] = WIDE, **options):
    """The page in a window of its own, of this size."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    with closing(context), closing(context.new_page()) as page:
        page.goto(address)
        yield page


@pytest.fixture
def page(browser, address):
    with opened(browser, address, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


@pytest.fixture(params=[(size, scheme) for size in (PHONE, WIDE) for scheme in ("light", "dark")], ids=str)
def each_look(browser, address, request):
    """The page on a phone and a wide screen, light and dark; with it, what the two are called."""
    size, scheme = request.param
    name = f"{'phone' if size == PHONE else 'wide'}-{scheme}"
    with opened(browser, address, size, color_scheme=scheme, **(TOUCH if size == PHONE else {})) as page:
        yield page, name


def on_canvas(page, *points) -> list[tuple[float, float]]:
    """Points of the paper as points of the window."""
    box = page.locator("#paper").bounding_box()
    scale = box["width"] / SIDE
    return [(box["x"] + x * scale, box["y"] + y * scale) for x, y in points]


def draw(page, strokes, steps: int = 4) -> None:
    """Draw with the mouse, each piece of a line in some steps."""
    for stroke in strokes:
        start, *rest = on_canvas(page, *stroke)
        page.mouse.move(*start)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point, steps=steps)
        page.mouse.up()


def fingers(page):
    """A function that sends a touch event with these points, as the browser's own debugging interface does."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, *points) -> None:
        touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(on_canvas(page, *points))]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    return send


def touch(page, strokes) -> None:
    """Draw with a finger."""
    send = fingers(page)
    for start, *rest in strokes:
        send("touchStart", start)
        for point in rest:
            send("touchMove", point)
        send("touchEnd")


def answered(page) -> str:
    """The digit shown, when the page has its answer."""
    page.locator("#answer[aria-busy=false]").wait_for()
    return page.locator("#digit").inner_text()


def predict(page) -> str:
    """Press Predict and give the digit shown."""
    page.get_by_role("button", name="Predict").click()
    return answered(page)


def words(page) -> str:
    """The line beside the digit."""
    return page.locator("#words").inner_text()


def note(page) -> str:
    """What the page says of a correction."""
    return page.locator("#note").inner_text()


def drawn(page) -> list:
    """The strokes on the paper."""
    return page.evaluate("strokes")


def picture(page) -> Image.Image:
    """What the page draws, at one pixel to the unit, in grey."""
    side = SIDE
    url = page.evaluate(
        """side => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = side;
            render(canvas.getContext("2d", { alpha: false }), side);
            return canvas.toDataURL();
        }""",
        side,
    )
    return load_image(url).convert("L")


def paper_is_white(page) -> bool:
    """Whether the canvas on the screen is empty, whatever its size."""
    page.evaluate("new Promise(requestAnimationFrame)")
    return load_image(page.evaluate("paper.toDataURL()")).convert("L").getextrema() == (255, 255)


def questions(page) -> list[dict]:
    """A list that grows with every question that the page asks."""
    asked = []
    page.on("request", lambda request: request.method == "POST" and asked.append(request.post_data_json))
    return asked


def reply(digit: int | None = 7, confidence: float = 0.98, reason: str | None = None, rival: int = 1) -> dict:
    """An answer of the server."""
    rest = 1 - confidence
    probabilities = [0.9 * rest if k == rival else 0.1 * rest / 8 for k in range(10)]
    if digit is None:
        return dict.fromkeys(("digit", "confidence", "probabilities")) | {"is_digit": False, "reason": reason}
    probabilities[digit] = confidence
    ten = {"probabilities": probabilities, "is_digit": reason is None, "reason": reason}
    return {"digit": digit, "confidence": confidence, **ten}


def keep(page, name: str) -> None:
    """Keep a screenshot as an artefact of the tests."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", animations="disabled")


# Drawing and its answer


@pytest.mark.parametrize("digit", DIGITS)
def test_a_digit_drawn_with_the_mouse_is_read(page, digit):
    draw(page, DIGITS[digit])
    assert answered(page) == str(digit), "without a button"
    assert predict(page) == str(digit)
    keep(page, f"page-{digit}")


def written(count: int) -> list[tuple[int, list]]:
    """So many digits of real writers, or where these are not at hand our own few in other places and sizes."""
    if data.available("pendigits"):
        pens = data.load("pendigits")
        some = np.random.default_rng(5).permutation(len(pens))[:count]
        return [(int(pens.labels[i]), pens.strokes[i]) for i in some]
    made = [(digit, set_down(DIGITS[digit], *place)) for place in product(PLACES, SHARES) for digit in DIGITS]
    return made[:count]


def set_down(strokes, place, share: float = 1) -> list:
    """Strokes at another place, and smaller."""
    right, down, smaller = place
    scale = share * smaller
    return [[(140 + (x - 140) * scale + right, 140 + (y - 140) * scale + down) for x, y in s] for s in strokes]


def read_as(prediction: Prediction) -> str:
    """What the page shows of a prediction in large."""
    return str(prediction.digit) if prediction.reason in (None, "unsure") else "?"


async def draw_all(address: str, digits: list) -> list[tuple[str, list]]:
    """Draw digits with the mouse, and clear after each; gives what the page shows, and the strokes that it sent.

    The moves of a stroke are sent without waiting for the browser to draw each: a mouse does not wait either, and the
    page gets what came between two frames at once.
    """
    async with playwright_async.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
        session = await page.context.new_cdp_session(page)
        asked, done = [], []
        page.on("request", lambda request: request.method == "POST" and asked.append(request.post_data_json))

        def send(kind: str, point):
            x, y = (start + value * box["width"] / SIDE for start, value in zip((box["x"], box["y"]), point))
            at = {"x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            return session.send("Input.dispatchMouseEvent", {"type": kind, **at})

        await page.goto(address)
        box = await page.locator("#paper").bounding_box()
        for _, strokes in digits:
            for stroke in strokes:
                await send("mousePressed", stroke[0])
                await asyncio.gather(*(send("mouseMoved", point) for point in stroke[1:]))
                await send("mouseReleased", stroke[-1])
            await page.locator("#answer[aria-busy=false]").wait_for()
            done.append((await page.locator("#digit").inner_text(), asked[-1]["strokes"]))
            await page.keyboard.press("Delete")
        await browser.close()
        return done


def test_the_page_loses_none_of_a_hundred_digits_drawn_by_pointer(address, recognizer):
    """Trajectories of real writers as they wrote them; no answer differs from that of `predict_strokes`."""
    digits = written(108)
    assert len(digits) >= 100
    with ThreadPoolExecutor(1) as thread:  # of its own, as the other tests have a loop in this one
        shown, sent = zip(*thread.submit(asyncio.run, draw_all(address, digits)).result(), strict=True)
    assert [len(strokes) for strokes in sent] == [len(strokes) for _, strokes in digits]
    for strokes, (_, original) in zip(sent, digits, strict=True):
        assert difference(rasterize(strokes), rasterize(original)) < 3, "their own shape"
    assert list(shown) == [read_as(recognizer.predict_strokes(strokes)) for strokes in sent]
    labels = [str(digit) for digit, _ in digits]
    direct = [read_as(recognizer.predict_strokes(strokes)) for _, strokes in digits]
    right = [sum(a == b for a, b in zip(said, labels, strict=True)) for said in (shown, direct)]
    print(f"\nof {len(digits)} digits the page reads {right[0]}, predict_strokes {right[1]}")
    assert right[0] >= right[1]


def test_the_answer_follows_each_stroke(page):
    first, second = DIGITS[4]
    draw(page, [first])
    answered(page)
    asked = questions(page)
    draw(page, [second])
    assert answered(page) == "4"
    assert asked[-1]["strokes"] == drawn(page)
    assert len(drawn(page)) == 2


def test_a_long_stroke_is_answered_while_it_is_drawn(page):
    asked = questions(page)
    start, *rest = on_canvas(page, *DIGITS[3][0])
    page.mouse.move(*start)
    began = time.monotonic()
    page.mouse.down()
    for point in rest:
        page.mouse.move(*point, steps=5)
        page.wait_for_timeout(80)
    page.locator("#digit").filter(has_text="3").wait_for()
    assert 1 <= len(asked) <= 1 + (time.monotonic() - began) / 0.15, "not at every move"
    assert page.locator("#answer").get_attribute("aria-busy") == "true", "not yet the answer"
    page.mouse.up()
    assert answered(page) == "3"


def test_the_page_sends_what_the_api_takes(page):
    asked = questions(page)
    draw(page, DIGITS[4])
    answered(page)
    sent = asked[-1]
    assert sent == {"strokes": drawn(page), "size": SIDE, "width": BRUSH, "show": ["seen"]}
    assert all(round(value, 1) == value for stroke in sent["strokes"] for point in stroke for value in point)


def test_enter_is_predict_and_the_answer_is_announced(page):
    draw(page, DIGITS[7])
    answered(page)
    asked = questions(page)
    page.keyboard.press("Enter")
    assert answered(page) == "7"
    assert len(asked) == 1
    announced = page.get_by_role("status")
    assert announced.get_attribute("aria-live") == "polite"
    announced.filter(has_text="sure").wait_for()
    assert announced.inner_text() == f"7, {words(page)}"


def test_enter_on_a_button_is_that_button_alone(page):
    draw(page, DIGITS[7])
    answered(page)
    asked = questions(page)
    page.get_by_role("button", name="Clear").press("Enter")
    assert drawn(page) == []
    assert asked == []
    draw(page, DIGITS[7])
    answered(page)
    before = len(asked)
    page.get_by_role("button", name="Predict").press("Enter")
    answered(page)
    assert len(asked) == before + 1


def test_only_the_settled_answer_is_announced_and_only_when_it_is_another(page):
    page.evaluate("""() => {
            globalThis.heard = [];
            new MutationObserver(() => heard.push(element("said").textContent)).observe(
                element("said"), { childList: true });
        }""")
    draw(page, DIGITS[4])
    answered(page)
    page.wait_for_timeout(800)
    predict(page)
    page.wait_for_timeout(800)
    assert page.evaluate("heard") == [f"4, {words(page)}"]


def test_the_page_shows_what_the_server_answered(page):
    draw(page, DIGITS[4])
    answered(page)
    with page.expect_response(PREDICT) as response:
        digit = predict(page)
    answer = response.value.json()
    assert digit == str(answer["digit"])
    sure = answer["confidence"]
    assert words(page) == ("> 99 % sure" if sure > 0.99 else f"{100 * sure:.0f} % sure")
    shares = page.evaluate("[...document.querySelectorAll('#bars button')].map(b => +b.style.getPropertyValue('--p'))")
    assert shares == answer["probabilities"]
    assert page.locator("#seen").get_attribute("src") == answer["seen"]


def test_the_labels_of_the_bars_do_not_make_more_than_a_hundred(page):
    answer = reply(7, 0.993, rival=1)  # who has 0.6 %
    page.route(PREDICT, lambda route: route.fulfill(json=answer))
    draw(page, DIGITS[7])
    assert answered(page) == "7"
    assert page.locator("#bars small").all_inner_texts() == [">99 %" if k == 7 else "" for k in range(10)]


@pytest.mark.parametrize("reason", ["other", "several"])
def test_what_is_no_digit_has_no_shares_beside_its_bars(page, reason):
    page.route(PREDICT, lambda route: route.fulfill(json=reply(7, 0.98, reason)))
    draw(page, DIGITS[7])
    assert answered(page) == "?"
    assert page.locator("#bars small").all_inner_texts() == [""] * 10
    assert page.locator("#bars .best").count() == 0


def test_a_tap_is_not_a_digit_wherever_it_is(page):
    for place in ((90, 90), (140, 140), (196, 87), (112, 174), (200, 210)):
        draw(page, [[place]])
        assert answered(page) == "?", place
        page.keyboard.press("Delete")


@pytest.mark.parametrize(
    ("answer", "digit", "said"),
    [
        (reply(7, 0.98), "7", "98 % sure"),
        (reply(7, 0.9999), "7", "> 99 % sure"),
        (reply(7, 0.55, "unsure", rival=1), "7", "or maybe 1"),
        (reply(7, 0.98, "other"), "?", "not a digit"),
        (reply(7, 0.98, "several"), "?", "two digits: draw one"),
        (reply(None, reason="empty"), "", "draw something"),
    ],
)
def test_the_answer_is_in_words(page, answer, digit, said):
    page.route(PREDICT, lambda route: route.fulfill(json=answer))
    draw(page, DIGITS[7])
    assert answered(page) == digit
    assert words(page) == said
    if answer["digit"] is not None:
        text = f"{digit}, {said}" if digit == "7" else said
        page.get_by_role("status").filter(has_text=text).wait_for()
        bars = page.get_by_role("group", name="Ten digits").get_by_role("button")
        assert bars.count() == 10
        assert bars.nth(7).inner_text().split()[0] == "7"


def test_an_empty_canvas_is_told_to_draw_and_predict_waits_for_ink(page):
    asked, button = questions(page), page.get_by_role("button", name="Predict")
    assert words(page) == "draw something"
    assert button.get_attribute("aria-disabled") == "true"
    button.click(force=True)
    page.locator("body").press("Enter")
    page.wait_for_timeout(100)
    assert asked == []
    assert answered(page) == ""
    assert words(page) == "draw something"
    assert page.locator("#error").inner_text() == ""
    draw(page, DIGITS[7])
    assert button.get_attribute("aria-disabled") == "false"
    page.keyboard.press("Delete")
    assert button.get_attribute("aria-disabled") == "true"


# Mouse, fingers and pen


def test_a_digit_drawn_with_a_finger_is_read_and_the_page_stays_where_it_is(browser, address):
    with opened(browser, address, (360, 640), **TOUCH, device_scale_factor=2) as page:
        touch(page, DIGITS[3])
        assert page.evaluate("scrollY") == 0
        assert len(drawn(page)) == 1
        assert answered(page) == "3"
        keep(page, "page-phone-finger")


def test_two_fingers_do_not_scribble(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        send = fingers(page)
        send("touchStart", (100, 100))
        send("touchMove", (101, 101))
        send("touchStart", (101, 101), (160, 100))
        send("touchMove", (60, 60), (220, 220))
        send("touchEnd")
        assert drawn(page) == []
        assert words(page) == "draw something"
        assert page.evaluate("past.length") == 0, "nor is there anything to undo"
        touch(page, DIGITS[7])
        assert answered(page) == "7"


def test_a_second_finger_ends_a_stroke_and_adds_nothing_to_it(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        send = fingers(page)
        stroke = DIGITS[7][0]
        send("touchStart", stroke[0])
        for point in stroke[1:]:
            page.wait_for_timeout(120)
            send("touchMove", point)
        send("touchStart", stroke[-1], (30, 250))
        send("touchMove", (60, 60), (40, 20))
        send("touchEnd")
        (kept,) = drawn(page)
        assert np.abs(np.array(kept[-1]) - stroke[-1]).max() < 2
        assert answered(page) == "7"


def test_a_tap_right_after_a_quick_stroke_is_not_lost(browser, address):
    """Chromium takes a quick stroke for a fling, and the next tap for what stops it, unless the page says otherwise."""
    with opened(browser, address, PHONE, **TOUCH) as page:
        for _ in range(3):
            touch(page, DIGITS[7])
            assert len(drawn(page)) == 1
            page.get_by_role("button", name="Clear").tap()
            until(page, lambda: drawn(page) == [])


def test_a_pen_draws_and_a_palm_beside_it_does_not(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        session, send = page.context.new_cdp_session(page), fingers(page)

        def pen(kind: str, point) -> None:
            ((x, y),) = on_canvas(page, point)
            at = {"x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen"}
            session.send("Input.dispatchMouseEvent", {"type": kind, **at})

        start, *rest = DIGITS[7][0]
        pen("mousePressed", start)
        send("touchStart", (200, 260))
        for point in rest:
            pen("mouseMoved", point)
            send("touchMove", (205, 262))
        send("touchEnd")
        pen("mouseReleased", rest[-1])
        (stroke,) = drawn(page)
        assert max(y for _, y in stroke) < 240
        assert answered(page) == "7"


def test_a_stroke_goes_on_when_the_pen_leaves_the_canvas_and_comes_back(page):
    draw(page, [[(250, 100), (400, 140), (250, 180)]])
    strokes = drawn(page)
    assert len(strokes) == 1
    assert max(x for x, _ in strokes[0]) > 390
    draw(page, [[(50, 50), (60, 60)]])
    assert len(drawn(page)) == 2


def test_other_mouse_buttons_do_not_draw(page):
    page.mouse.move(*on_canvas(page, (100, 100))[0])
    page.mouse.down(button="middle")
    page.mouse.move(*on_canvas(page, (150, 150))[0])
    page.mouse.up(button="middle")
    assert drawn(page) == []


# Undo, brush, keyboard, corrections


def test_clear_takes_away_drawing_and_answer(page):
    draw(page, DIGITS[7])
    assert answered(page) == "7"
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#digit").inner_text() == ""
    assert words(page) == "draw something"
    assert picture(page).getextrema() == (255, 255)
    assert paper_is_white(page)
    draw(page, DIGITS[1])
    assert answered(page) == "1"


def test_undo_and_redo_by_button_and_key(page):
    first, second = DIGITS[4]
    draw(page, [first, second])
    assert answered(page) == "4"
    both = drawn(page)
    for back, forth in (("Control+z", "Control+y"), ("Meta+z", "Meta+Shift+z"), ("Control+z", "Control+Shift+Z")):
        page.keyboard.press(back)
        assert drawn(page) == both[:1]
        page.keyboard.press(forth)
        assert drawn(page) == both
        assert answered(page) == "4"
    undo, redo = (page.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    undo.click()
    undo.click()
    assert drawn(page) == []
    assert undo.get_attribute("aria-disabled") == "true"
    assert words(page) == "draw something"
    redo.click()
    redo.click()
    assert answered(page) == "4"
    page.keyboard.press("Delete")
    assert drawn(page) == []
    page.keyboard.press("Control+z")
    assert drawn(page) == both, "what was cleared comes back"
    undo.click()
    draw(page, [first])
    assert redo.get_attribute("aria-disabled") == "true", "new ink ends what could be done again"


def test_the_brush_is_that_of_the_whole_drawing(page):
    asked = questions(page)
    draw(page, DIGITS[7])
    answered(page)
    page.get_by_role("slider", name="Brush width").fill("26")
    assert answered(page) == "7"
    assert asked[-1]["width"] == 26
    assert asked[-1]["strokes"] == drawn(page)
    assert difference(picture(page), rasterize(drawn(page), width=26)) < 1
    page.get_by_role("alert").filter(has_text="whole drawing").wait_for()
    before = drawn(page)
    for key, width in (("Control+z", BRUSH), ("Control+y", 26)):
        page.keyboard.press(key)
        assert page.get_by_role("slider", name="Brush width").input_value() == str(int(width)), "undo knows the brush"
        assert drawn(page) == before
        assert answered(page) == "7"
        assert asked[-1]["width"] == width


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_the_dot_beside_the_brush_is_as_wide_as_its_ink(browser, address, size):
    with opened(browser, address, size) as page:
        scale = page.locator("#paper").bounding_box()["width"] / SIDE
        brush = page.get_by_role("slider", name="Brush width")
        for width in (8, BRUSH, 32):
            brush.fill(str(width))
            dot = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.brush i'), '::before').width)")
            assert dot == pytest.approx(width * scale, abs=0.1)


def test_a_digit_key_says_what_it_is_until_the_drawing_is_another(page):
    page.keyboard.press("1")
    assert note(page) == "", "nothing is drawn"
    draw(page, DIGITS[7])
    answered(page)
    said = "You say: 1. Noted here only; nothing is stored."
    page.keyboard.press("1")
    assert note(page) == said
    page.get_by_role("status").filter(has_text=said).wait_for()
    assert page.locator("#bars [aria-pressed=true]").inner_text() == "1"
    page.keyboard.press("1")
    assert note(page) == "", "said again, it is taken back"
    for change in (
        lambda: draw(page, [[(20, 20), (40, 30)]]),
        lambda: page.keyboard.press("Control+z"),
        lambda: page.keyboard.press("Control+y"),
    ):
        page.keyboard.press("1")
        assert note(page) == said
        change()
        assert note(page) == ""
        answered(page)
    page.keyboard.press("Control+1")
    assert note(page) == ""
    page.keyboard.press("1")
    page.keyboard.press("Delete")
    assert note(page) == ""


def test_a_tap_on_a_bar_says_what_it_is(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        touch(page, DIGITS[7])
        answered(page)
        bar = page.get_by_role("group", name="Ten digits").get_by_role("button", name="1", exact=True)
        bar.tap()
        assert note(page).startswith("You say: 1.")
        assert bar.get_attribute("aria-pressed") == "true"
        page.evaluate("scrollTo(0, 0)")
        keep(page, "page-phone-correction")


# What the network sees


def test_why_shows_which_ink_mattered(page):
    draw(page, DIGITS[7])
    answered(page)
    heat = "[...element('heat').getContext('2d').getImageData(0, 0, 28, 28).data]"
    assert not any(page.evaluate(heat))
    asked = questions(page)
    page.get_by_role("switch", name="Show why").check()
    page.get_by_text("spoke for 7").wait_for()
    assert asked[-1]["show"] == ["seen", "why"]
    colours = np.array(page.evaluate(heat)).reshape(28, 28, 4)
    red = colours[..., 0].astype(int) - colours[..., 2]
    seen = np.array(load_image(page.locator("#seen").get_attribute("src")).convert("L"))
    assert seen.shape == (28, 28)
    assert red.max() > 150, "some ink spoke for it"
    assert not red[seen == 0].any(), "and only ink"
    assert page.evaluate("getComputedStyle(element('seen')).imageRendering") == "pixelated"
    page.get_by_role("switch", name="Show why").uncheck()
    page.get_by_text("spoke for 7").wait_for(state="hidden")
    assert not any(page.evaluate(heat))


def test_ink_that_speaks_against_the_digit_is_blue(page):
    why = np.zeros((28, 28))
    why[3, 4], why[5, 6] = 1, -1
    page.route(PREDICT, lambda route: route.fulfill(json={**reply(), "why": why.tolist()}))
    page.get_by_role("switch", name="Show why").check()
    draw(page, DIGITS[7])
    answered(page)
    heat = "(x, y) => [...element('heat').getContext('2d').getImageData(x, y, 1, 1).data]"
    (r, g, b, _), (r2, g2, b2, _) = (page.evaluate(f"({heat})({x}, {y})") for x, y in ((4, 3), (6, 5)))
    assert r > 200 > 100 > max(g, b)
    assert b2 > 200 > 100 > r2


# Pictures


def photo(digit: int, kind: str = "JPEG") -> bytes:
    """A digit on grey paper, as a camera gives it."""
    paper = Image.new("L", (1600, 1200), 210)
    ink = rasterize([[(x * 4, y * 4) for x, y in stroke] for stroke in DIGITS[digit]], size=1120, width=60)
    paper.paste(40, (240, 40), ink.point(lambda grey: 255 - grey))
    file = io.BytesIO()
    paper.convert("RGB").save(file, kind)
    return file.getvalue()


def check_picture(page, asked: list[dict], digit: str) -> None:
    """What was taken is read, is small on its way, stands on the paper, and goes when one draws."""
    until(page, lambda: page.evaluate("photo !== null"))
    assert answered(page) == digit
    sent = load_image(asked[-1]["image_base64"])
    assert max(sent.size) <= 560
    assert not paper_is_white(page)
    assert page.locator(".hint").is_hidden()
    draw(page, DIGITS[1])
    assert answered(page) == "1"
    assert "image_base64" not in asked[-1]
    page.get_by_role("alert").filter(has_text="Undo brings the picture back").wait_for()


@pytest.mark.parametrize("button", ["Choose a picture", "Take a picture"])
def test_a_picture_is_chosen_or_taken(browser, address, button):
    with opened(browser, address, PHONE, **TOUCH) as page:
        asked = questions(page)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=button).click()
        taken = chooser.value.element
        assert (taken.get_attribute("capture"), taken.get_attribute("accept")) == (
            "environment" if button == "Take a picture" else None,
            "image/*",
        )
        chooser.value.set_files({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo(7)})
        check_picture(page, asked, "7")


def test_the_cameras_picture_comes_by_its_input(page):
    asked = questions(page)
    page.set_input_files("#shot", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo(4)})
    check_picture(page, asked, "4")
    page.keyboard.press("Control+z")
    assert answered(page) == "4", "undo brings the picture back"


def test_a_picture_is_dropped(page, tmp_path):
    path = tmp_path / "seven.png"
    path.write_bytes(photo(7, "PNG"))
    asked = questions(page)
    drop(page, path)
    check_picture(page, asked, "7")


def drop(page, path: Path) -> None:
    """Drag a file onto the page, as the browser's own debugging interface sends it."""
    session = page.context.new_cdp_session(page)
    ((x, y),) = on_canvas(page, (140, 140))
    what = {"x": x, "y": y, "data": {"items": [], "files": [str(path)], "dragOperationsMask": 1}}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **what})


def test_a_picture_is_pasted(page):
    asked = questions(page)
    page.evaluate(
        """async text => {
            const picture = new Blob([Uint8Array.from(atob(text), byte => byte.charCodeAt(0))], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ [picture.type]: picture })]);
        }""",
        base64.b64encode(photo(7, "PNG")).decode(),  # the page's policy lets nobody fetch it from a data URL
    )
    page.keyboard.press("Control+v")
    check_picture(page, asked, "7")


def test_what_is_no_picture_is_refused_in_words_and_the_drawing_stays(page, tmp_path):
    draw(page, DIGITS[7])
    answered(page)
    strokes = drawn(page)
    path = tmp_path / "seven.txt"
    path.write_text("7")
    page.clock.install()
    drop(page, path)
    refused = page.get_by_role("alert").filter(has_text="Not a readable picture")
    refused.wait_for()
    assert answered(page) == "7", "the answer is there all the while"
    assert page.locator("#answer").is_visible()
    assert page.get_by_role("button", name="Retry").is_hidden()
    assert drawn(page) == strokes
    assert predict(page) == "7"
    assert page.locator("#error").inner_text() == ""
    page.clock.fast_forward(7000)
    refused.wait_for(state="hidden")
    page.evaluate("navigator.clipboard.writeText('7')")
    page.keyboard.press("Control+v")
    refused.wait_for()
    assert answered(page) == "7"


# Answers in order, and servers that fail


def held(page) -> list:
    """Let questions wait; a list of those that have come."""
    waiting = []
    page.route(PREDICT, lambda route: waiting.append(route))
    return waiting


def until(page, condition) -> None:
    """Wait for something that the browser's events bring about."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(25)
    raise AssertionError("it did not come about")


def test_new_ink_takes_away_the_old_answer(page):
    draw(page, DIGITS[7])
    assert answered(page) == "7"
    waiting = held(page)
    draw(page, [[(105, 145), (180, 140)]])
    until(page, lambda: waiting)
    until(page, lambda: page.locator("#digit").inner_text() == "")


def test_one_question_is_under_way_and_then_the_latest(page):
    waiting = held(page)
    draw(page, [[(60, 60), (70, 60)], [(80, 60), (90, 60)], [(100, 60), (110, 60)], [(120, 60), (130, 60)]])
    until(page, lambda: waiting)
    page.wait_for_timeout(300)
    assert len(waiting) == 1
    assert len(drawn(page)) == 4, "drawing does not wait"
    assert not paper_is_white(page)
    waiting[0].fulfill(json=reply(3))
    until(page, lambda: len(waiting) == 2)
    assert page.locator("#digit").inner_text() == "", "the answer to the first stroke is not shown"
    assert len(waiting[1].request.post_data_json["strokes"]) == 4
    waiting[1].fulfill(json=reply(8))
    assert answered(page) == "8"
    page.wait_for_timeout(200)
    assert len(waiting) == 2


def test_a_late_answer_does_not_come_after_clear(page):
    waiting = held(page)
    draw(page, DIGITS[7])
    until(page, lambda: waiting)
    page.get_by_role("button", name="Clear").click()
    with page.expect_response(PREDICT) as response:
        waiting[0].continue_()
    response.value.finished()
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.locator("#digit").inner_text() == ""
    assert words(page) == "draw something"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<h1>Welcome</h1>", "cannot be read"),
        (200, "", "cannot be read"),
        (200, "null", "cannot be read"),
        (200, '{"confidence": 0.9}', "cannot be read"),
        (200, '{"digit": 7}', "cannot be read"),
        (200, '{"digit": "7", "confidence": "high"}', "cannot be read"),
        (200, json.dumps(reply() | {"probabilities": [1]}), "cannot be read"),
        (200, json.dumps(reply() | {"probabilities": ["1"] * 10}), "cannot be read"),
        (200, json.dumps(reply() | {"is_digit": None}), "cannot be read"),
        (400, '{"detail": "Send another."}', "Send another."),
        (400, '{"detail": ""}', "status 400"),
        (422, '{"detail": [{"msg": "missing"}]}', "status 422"),
        (500, "null", "status 500"),
        (502, "<h1>Bad gateway</h1>", "status 502"),
    ],
)
def test_an_answer_of_another_kind_is_a_visible_error(page, status, body, said):
    page.route(PREDICT, lambda route: route.fulfill(status=status, body=body))
    draw(page, DIGITS[1])
    strokes = drawn(page)
    alert = page.get_by_role("alert").filter(has_text=said)
    alert.wait_for()
    predict(page)
    assert alert.is_visible()
    assert page.locator("#digit").inner_text() == ""
    assert page.get_by_role("button", name="Retry").is_visible() == (status >= 500)
    assert drawn(page) == strokes


def test_a_server_that_went_away_is_said_and_the_answer_comes_when_it_is_back(browser, recognizer):
    with running(recognizer) as (server, address):
        port = int(address.rsplit(":", 1)[1][:-1])
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        server.should_exit = True
    with closing(context):
        draw(page, DIGITS[7])
        page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
        strokes = drawn(page)
        assert page.get_by_role("button", name="Retry").is_visible()
        with running(recognizer, port):
            page.locator("#digit").filter(has_text="7").wait_for()
            assert page.locator("#error").inner_text() == ""
            assert drawn(page) == strokes


def test_offline_is_said_and_online_asks_at_once(page):
    page.context.set_offline(True)
    draw(page, DIGITS[7])
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
    page.wait_for_timeout(3500)  # the next try is four seconds away
    page.context.set_offline(False)
    page.locator("#digit").filter(has_text="7").wait_for(timeout=2000)
    assert answered(page) == "7"


def test_a_server_that_was_away_for_long_is_asked_again_within_ten_seconds(page):
    page.route(PREDICT, lambda route: route.abort())
    page.clock.install()
    draw(page, DIGITS[7])
    tried = 0
    for _ in range(7):
        until(page, lambda tried=tried: page.evaluate("failures") > tried)
        tried = page.evaluate("failures")
        page.clock.fast_forward(9000)
    until(page, lambda: page.evaluate("failures") > tried)


def test_retry_asks_at_once(page):
    page.route(PREDICT, lambda route: route.abort())
    draw(page, DIGITS[7])
    retry = page.get_by_role("button", name="Retry")
    retry.wait_for()
    page.wait_for_timeout(3500)
    page.unroute(PREDICT)
    retry.click()
    page.locator("#digit").filter(has_text="7").wait_for(timeout=2000)
    assert retry.is_hidden()


# What is drawn is what is read

# To the right, down, and how large: the box around the ink is found to whole pixels, so one place alone tells little.
PLACES = [(0, 0, 1), (-7, 5, 0.9), (11, -9, 0.8), (4, 8, 0.85), (-13, -3, 0.75), (6, 2, 0.95)]
SHARES = [1, 0.9, 0.8]


@pytest.fixture
def both_drawn(page) -> list[tuple]:
    """Each digit in each place, as the canvas draws it and as `rasterize` does."""
    pairs = []
    for strokes, place in product(DIGITS.values(), PLACES):
        page.get_by_role("button", name="Clear").click()
        draw(page, set_down(strokes, place))
        pairs.append((picture(page), rasterize(drawn(page))))
    return pairs


def test_the_canvas_draws_what_rasterize_draws(both_drawn):
    for canvas, ours in both_drawn:
        assert canvas.size == ours.size == (280, 280)
        assert canvas.getextrema() == ours.getextrema() == (0, 255)
    apart = [difference(canvas, ours) for canvas, ours in both_drawn]
    assert np.mean(apart) < 1, "grey levels of 255 on average over the canvas"
    recognizer = Recognizer.load()
    for canvas, ours in both_drawn:
        assert recognizer.predict(canvas).digit == recognizer.predict(ours).digit


def test_what_the_canvas_draws_is_seen_as_what_rasterize_draws(both_drawn):
    recognizer = Recognizer.load()
    apart = [difference(*(255 * recognizer.preprocess(image) for image in pair)) for pair in both_drawn]
    assert np.mean(apart) < 2, "grey levels of 255 on average over the 28×28 that the network sees"


def difference(one, other) -> float:
    """By how much two pictures differ, on average over their pixels."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_a_tap_draws_a_dot_as_wide_as_the_brush(page):
    draw(page, [[(140, 140)]])
    left, upper, right, lower = picture(page).point(lambda grey: 255 - grey).getbbox()
    assert (right - left, lower - upper) == (BRUSH, BRUSH)


@pytest.mark.parametrize("density", [1, 2, 3])
def test_the_screen_shows_the_same_as_sharp_as_it_can(browser, address, density):
    with opened(browser, address, PHONE, device_scale_factor=density) as page:
        draw(page, DIGITS[7])
        page.evaluate("new Promise(requestAnimationFrame)")
        box = page.locator("#paper").bounding_box()
        screen = load_image(page.evaluate("paper.toDataURL()")).convert("L")
        assert screen.size == (box["width"] * density,) * 2
        small = screen.resize((SIDE, SIDE), Image.Resampling.BOX)
        assert difference(small, rasterize(drawn(page))) < 2


# Copy as curl


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here; on Debian: apt-get install curl")
@pytest.mark.parametrize("what", ["strokes", "a large picture"])
def test_the_copied_curl_gets_the_same_answer_anywhere(page, tmp_path, what):
    button = page.get_by_role("button", name="Copy as curl")
    assert button.get_attribute("aria-disabled") == "true"
    if what == "strokes":
        draw(page, DIGITS[7])
    else:
        noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        page.set_input_files("#file", {"name": "noise.png", "mimeType": "image/png", "buffer": file.getvalue()})
        until(page, lambda: page.evaluate("photo !== null"))
    answered(page)
    with page.expect_response(PREDICT) as response:
        predict(page)
    button.click()
    page.get_by_role("button", name="Copied").wait_for()
    text = page.evaluate("navigator.clipboard.readText()")
    assert len(text) > 130_000 or what == "strokes", "more than fits into an argument"
    done = subprocess.run(["bash"], input=text, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == response.value.json()


def test_nothing_is_copied_where_nothing_is_drawn(page):
    button = page.get_by_role("button", name="Copy as curl")
    draw(page, DIGITS[7])
    answered(page)
    assert button.get_attribute("aria-disabled") == "false"
    page.keyboard.press("Delete")
    assert button.get_attribute("aria-disabled") == "true"
    page.evaluate("navigator.clipboard.writeText('as before')")
    button.click(force=True)
    page.wait_for_timeout(100)
    assert page.evaluate("navigator.clipboard.readText()") == "as before"


def test_copying_works_where_the_browser_gives_no_clipboard(page):
    draw(page, DIGITS[7])
    answered(page)
    page.evaluate("() => void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl ")


# The page itself


def test_the_page_asks_nobody_else_and_logs_no_error(browser, address):
    with closing(browser.new_page()) as page:
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        draw(page, DIGITS[7])
        predict(page)
        page.get_by_role("switch", name="Show why").check()
        page.get_by_text("spoke for").wait_for()
        assert {url for url in asked if not url.startswith("data:")} == {address, f"{address}api/v2/predict"}
        assert complaints == []
        assert page.get_by_role("link", name="API docs").get_attribute("href") == "docs"


def html() -> str:
    return files("eigen_digits").joinpath("web/index.html").read_text(encoding="utf-8")


def test_the_page_is_small_and_whole():
    text = html()
    assert len(text.encode()) < 40_000
    assert not re.search(r"""(src|href|url\()=?["']?(https?:)?//""", text)


def test_the_page_works_under_the_policy_that_it_comes_with(browser, address):
    with closing(browser.new_page()) as page:
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        policy = page.goto(address).header_value("content-security-policy")
        page.get_by_role("switch", name="Show why").check()
        draw(page, DIGITS[7])
        assert answered(page) == "7"
        page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo(4)})
        until(page, lambda: page.evaluate("photo !== null"))
        assert answered(page) == "4"
        assert complaints == []
    digests = r"( 'sha256-[\w+/]+=')"
    pictures = "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    assert re.fullmatch(rf"default-src 'none'; script-src{digests}; style-src{digests}; {pictures}", policy)


@pytest.mark.parametrize("width", [320, 360, 760, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_and_the_paper_stays_white(browser, address, width, scheme):
    with opened(browser, address, (width, 800), color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        box = page.locator("#paper").bounding_box()
        assert box["width"] == box["height"] >= 280
        assert box["y"] + box["height"] <= 800, "all of it without scrolling"
        assert paper_is_white(page)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 3 * 128) == (scheme == "light")


def test_a_small_phone_shows_paper_and_answer_and_tools_at_once(browser, address):
    with opened(browser, address, (360, 640), **TOUCH) as page:
        for place in ("#answer", "#paper", "#undo", "#camera", "#brush", "#predict"):
            box = page.locator(place).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= 640, place


def test_each_state_is_accessible_and_nothing_moves(each_look):
    """Empty, answered with everything switched on, and failed: axe finds nothing, and no answer shifts the page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it comes with [dev]").Axe()
    page, name = each_look

    def check(state: str) -> None:
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(700)  # what fades has faded
        keep(page, f"page-{name}-{state}")
        found = axe.run(page, options=None)
        assert found.violations_count == 0, found.generate_report()

    page.evaluate("""() => {
            globalThis.moved = 0;
            new PerformanceObserver(list => list.getEntries().forEach(entry => (moved += entry.value)))
                .observe({ type: "layout-shift", buffered: true });
        }""")
    check("empty")
    page.get_by_role("switch", name="Show why").check()
    page.evaluate("scrollTo(0, 0)")
    draw(page, DIGITS[7])
    answered(page)
    page.keyboard.press("1")
    check("answered")
    page.route(PREDICT, lambda route: route.abort())
    draw(page, [[(20, 20), (40, 30)]])
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
    check("failed")
    assert page.evaluate("moved") == 0


def test_a_phone_shows_every_bar_and_how_to_correct_without_scrolling(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        touch(page, DIGITS[7])
        answered(page)
        for place in (*page.locator("#bars button").all(), page.locator("#hint")):
            box = place.bounding_box()
            assert box["y"] + box["height"] <= PHONE[1], place


def test_a_phone_that_is_scrolled_still_shows_the_answer(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        touch(page, DIGITS[7])
        answered(page)
        page.get_by_role("button", name="Copy as curl").scroll_into_view_if_needed()
        assert page.evaluate("scrollY") > 0
        box = page.locator("#digit").bounding_box()
        assert 0 <= box["y"] < 100


def test_what_is_said_in_passing_hides_neither_answer_nor_bars(browser, address):
    with opened(browser, address, PHONE, **TOUCH) as page:
        page.evaluate("tell(NO_PICTURE)")
        box = page.locator("#aside").bounding_box()
        assert box["y"] + box["height"] <= page.locator("#digit").bounding_box()["y"] + 10


@pytest.mark.parametrize("width", [320, 360, 800, 1280])
def test_every_label_has_room_in_its_bar(browser, address, width):
    with opened(browser, address, (width, 800)) as page:
        page.route(PREDICT, lambda route: route.fulfill(json=reply(8, 0.999)))
        draw(page, DIGITS[7])
        answered(page)
        best = page.locator("#bars button.best")
        left, right = best.evaluate("""bar => {
                const inside = new Range();
                inside.selectNodeContents(bar);
                const { left, right } = inside.getBoundingClientRect();
                return [left, right];
            }""")
        box = best.bounding_box()
        assert box["x"] <= left < right <= box["x"] + box["width"]


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_what_is_pressed_is_large_enough_and_text_can_be_read(browser, address, size):
    with opened(browser, address, size, **(TOUCH if size == PHONE else {})) as page:
        targets = page.locator("button:visible, a:visible, label:visible, input:not([type=checkbox]):visible")
        assert targets.count() >= 20
        for target in targets.all():
            box = target.bounding_box()
            assert min(box["width"], box["height"]) >= 44, target.evaluate("target => target.outerHTML")
        sizes = page.evaluate(
            "[...document.body.querySelectorAll('*')].map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
        assert page.title() == "Eigen Digits"
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("h1").count() == 1
        for name in ("description", "viewport"):
            assert page.locator(f"meta[name={name}]").get_attribute("content")
        assert "user-scalable" not in page.locator("meta[name=viewport]").get_attribute("content")


def test_focus_is_visible_and_goes_everywhere(page):
    names = []
    for _ in range(25):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if page.evaluate("document.activeElement !== document.body"):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    wanted = {"undo", "redo", "clear", "picture", "brush", "predict", "why", "curl", *map(str, range(10))}
    assert wanted <= set(names)


def test_the_ring_around_a_bar_strikes_nothing_through(page):
    draw(page, DIGITS[7])
    answered(page)
    page.locator("#predict").focus()
    page.keyboard.press("Tab")
    bar = page.locator("#bars button:focus-visible")
    ring = bar.evaluate(
        "bar => [getComputedStyle(bar)].map(s => parseFloat(s.outlineOffset) + parseFloat(s.outlineWidth))[0]"
    )
    box = bar.bounding_box()
    assert box["y"] + box["height"] + ring <= page.locator("#hint").bounding_box()["y"]


def test_a_small_laptop_shows_the_keys_without_scrolling(browser, address):
    with opened(browser, address, (1280, 720)) as page:
        box = page.locator(".keys").bounding_box()
        assert box["y"] + box["height"] <= 720


def test_nothing_moves_where_the_system_asks_for_that(browser, address):
    durations = "new Set([...document.querySelectorAll('*')].map(e => getComputedStyle(e).transitionDuration))"
    for wish, some in (("reduce", False), ("no-preference", True)):
        with opened(browser, address, reduced_motion=wish) as page:
            assert (page.evaluate(f"[...{durations}]") != ["0s"]) == some


def test_the_description_works_under_its_policy_and_asks_nobody_else(browser, address):
    with closing(browser.new_page()) as page:
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}docs")
        page.locator("#operations-v2-predict_v2_api_v2_predict_post").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / "docs.png")
        assert said == []
        assert [url for url in asked if not url.startswith((address, "data:"))] == []
