"""Draw a 7 on the page and keep pictures of it for the README: a wide screen and a phone, light and dark.

With the `dev` extra and Chromium installed:

    python tools/screenshots.py             write nbs/images/page-*.png
    python tools/screenshots.py FOLDER      write them there
"""

import argparse
import io
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from eigen_digits import serving

IMAGES = Path(__file__).parent.parent / "nbs" / "images"
SIZES = {"wide": (1120, 760), "phone": (360, 640)}  # pixels of the window
COLOURS = 128  # of a picture: enough for a page of few, and a third of the size
# A 7 as many write it in Europe, in two strokes on 280×280.
SEVEN = [
    [(84, 82), (88, 73), (97, 69), (118, 68), (150, 69), (180, 68), (199, 65), (197, 73), (186, 92), (172, 116)]
    + [(158, 141), (147, 164), (138, 188), (132, 210), (129, 226)],
    [(108, 149), (124, 146), (146, 144), (168, 144), (186, 143)],
]


@contextmanager
def served() -> Iterator[str]:
    """Serve the page on a free port of this machine; gives its address."""
    settings = serving.TestSettings(_env_file=None)
    server = uvicorn.Server(uvicorn.Config(serving.create_app(settings), log_level="warning"))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def screenshot(browser: Browser, address: str, size: str, scheme: str) -> bytes:
    """The page with a 7 on it and its answer, as a PNG at twice the size for sharp screens."""
    width, height = SIZES[size]
    is_phone = size == "phone"
    look = {"color_scheme": scheme, "device_scale_factor": 2, "has_touch": is_phone, "is_mobile": is_phone}
    with closing(browser.new_context(viewport={"width": width, "height": height}, **look)) as context:
        page = context.new_page()
        page.goto(address)
        page.get_by_role("switch", name="Show why").check()
        page.evaluate("scrollTo(0, 0)")
        box = page.locator("#paper").bounding_box()
        scale = box["width"] / 280
        for stroke in SEVEN:
            (x, y), *rest = ((box["x"] + x * scale, box["y"] + y * scale) for x, y in stroke)
            page.mouse.move(x, y)
            page.mouse.down()
            for x, y in rest:
                page.mouse.move(x, y)
            page.mouse.up()
        page.locator("#answer[aria-busy=false]").wait_for()
        page.mouse.move(1, 1)
        page.wait_for_timeout(500)
        return page.screenshot(animations="disabled")


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=IMAGES)
    folder = parser.parse_args().folder
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for size, scheme in product(SIZES, ("light", "dark")):
            with Image.open(io.BytesIO(screenshot(browser, address, size, scheme))) as image:
                few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            path = folder / f"page-{size}-{scheme}.png"
            few.save(path, optimize=True)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
