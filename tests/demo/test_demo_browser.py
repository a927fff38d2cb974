"""The page in a real browser: needs Chromium, its driver and `pip install selenium`."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from hf_emktd.demo import UploadLimits, build_page, serve  # noqa: E402

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(None in (CHROMIUM, DRIVER), reason="chromium and chromedriver are not installed")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
SECONDS = 60


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def upload_and_ask(browser, address: str, clip) -> str:
    """The text of the answer."""
    browser.get(address)
    wait = WebDriverWait(browser, SECONDS)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(str(clip))
    wait.until(lambda page: [film for film in page.find_elements(By.TAG_NAME, "video") if film.get_attribute("src")])
    next(button for button in browser.find_elements(By.TAG_NAME, "button") if button.text == "Ask").click()
    return wait.until(lambda page: page.find_elements(By.CLASS_NAME, "emktd"))[0].text


def test_a_clip_is_uploaded_and_answered(browser, student, segmenter, media):
    limits = UploadLimits()
    for respondent, expected in ((student, "Sound only"), (segmenter, "Share of the picture that sounds")):
        page = build_page([respondent], limits)
        _, address, _ = serve(page, limits, prevent_thread_lock=True, quiet=True)
        try:
            assert expected in upload_and_ask(browser, address, media["scene"])
        finally:
            page.close()
        # a label of the student is an <img> that would say so in the title
        assert browser.title == "What it hears, what it sees"
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
        assert any(url.startswith(address) for url in asked)
        assert not [url for url in asked if not url.startswith((address, "data:", "blob:", "chrome://"))]
