"""Opens the built book in headless Chromium and prints what happened as JSON.

Run by `.venv-book`'s Python, which has Selenium: book_browser.py pages|explore BOOK CHROMIUM DRIVER
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = (375, 1200)  # a phone's and a desk's, in pixels
READY = """
const done = arguments[0], images = [...document.images];
images.forEach((each) => { each.loading = "eager"; });
const loaded = images.map((each) => each.decode().catch(() => 0));
Promise.all([window.MathJax?.startup?.promise, ...loaded]).then(() => done(true));
"""
LOOK = """
const math = [...document.querySelectorAll(".math")];
return {
  images: [...document.images].map((each) => [each.currentSrc.slice(0, 80), each.naturalWidth]),
  formulas: document.querySelectorAll("mjx-container").length,
  unset: math.filter((each) => !each.querySelector("mjx-container")).length,
  wrong: document.querySelectorAll("mjx-merror").length,
};
"""
LABELS = """
return [...document.querySelectorAll("#explorable [role=img]")].map((e) => e.ariaLabel);
"""
SHOWN = ("verdict", "report", "score", "fused", "dice", "oracle", "range")
CHOSEN = ("film", "concept", "method", "inverse", "threshold")


@contextmanager
def browser(chromium: str, driver: str) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield opened
        finally:
            opened.quit()


def set_width(opened: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requested(opened: webdriver.Chrome) -> list[str]:
    """What pages of files asked for since the last call; the browser's own tab left out."""
    messages = [json.loads(each["message"])["message"] for each in opened.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [each["request"]["url"] for each in sent if each["documentURL"].startswith("file:")]


def errors(opened: webdriver.Chrome) -> list[str]:
    found = opened.get_log("browser")
    return [each["message"] for each in found if each["level"] in ("SEVERE", "WARNING")]


def pages(opened: webdriver.Chrome, book: Path) -> dict[str, dict]:
    """Every page: its requests, console, pictures, formulas, and its width at both sizes."""
    seen = {}
    for path in sorted(book.rglob("*.html")):
        if "_static" in path.parts:
            continue
        set_width(opened, WIDTHS[0])
        opened.get(path.as_uri())
        opened.execute_async_script(READY)
        seen[path.relative_to(book).as_posix()] = found = opened.execute_script(LOOK)
        found["widths"] = []
        for width in WIDTHS:
            set_width(opened, width)
            wide = opened.execute_script("return document.documentElement.scrollWidth")
            found["widths"].append(wide)
        found |= {"requests": requested(opened), "errors": errors(opened)}
    return seen


def reading(opened: webdriver.Chrome) -> dict[str, str]:
    """What the explorable page shows, and what is chosen."""
    shown = {name: opened.find_element(By.ID, name).text for name in SHOWN}
    script = "return arguments[0].map((id) => document.getElementById(id).value)"
    return shown | dict(zip(CHOSEN, opened.execute_script(script, list(CHOSEN)), strict=True))


def explore(opened: webdriver.Chrome, book: Path) -> dict:
    """Go through the films by keyboard, then through concepts, methods and both sliders."""
    set_width(opened, WIDTHS[1])
    opened.get((book / "book" / "explorable.html").as_uri())
    WebDriverWait(opened, 20).until(lambda d: d.find_element(By.ID, "verdict").text)
    readings = [reading(opened)]

    def press(control: str, *keys: str) -> None:
        for key in keys:
            opened.find_element(By.ID, control).send_keys(key)
            readings.append(reading(opened))

    press("film", *[Keys.ARROW_DOWN] * 11)
    press("method", *[Keys.ARROW_DOWN] * 3)
    press("inverse", Keys.ARROW_RIGHT, Keys.HOME, Keys.END)
    press("threshold", Keys.ARROW_RIGHT, Keys.HOME, Keys.END)
    press("concept", Keys.HOME)
    for control in ("film", "method"):  # the same by clicking
        options = opened.find_element(By.ID, control).find_elements(By.TAG_NAME, "option")
        options[2].click()
        readings.append(reading(opened))
    opened.find_element(By.ID, "inverse").click()  # its middle
    readings.append(reading(opened))
    order = []
    opened.find_element(By.ID, "film").send_keys("")
    for _ in range(4):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        order.append(opened.switch_to.active_element.get_attribute("id"))
    lists = opened.find_elements(By.CSS_SELECTOR, "#explorable ol li")
    return {
        "readings": readings,
        "tab order": order,
        "labels": opened.execute_script(LABELS),
        "sentences": [each.text for each in lists],
        "errors": errors(opened),
        "requests": requested(opened),
    }


if __name__ == "__main__":
    what, folder, chromium, driver = sys.argv[1:]
    with browser(chromium, driver) as opened:
        found = {"pages": pages, "explore": explore}[what](opened, Path(folder).resolve())
    print(json.dumps(found))
