"""Photograph the page of `famseg serve` with a result on it.

python docs/figures/serve.py --checkpoint RUN --image IMAGE --spacing MM --weeks 20+3

Needs selenium and Debian's chromium and chromium-driver.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --window-size=1280,990 --proxy-server=direct:// "
FLAGS += "--disable-quic --disable-background-networking --disable-component-update --disable-sync"
PORT = 7899


def photograph(image: Path, entries: dict[str, str], path: Path, profile: str) -> None:
    """Drop the image on the running page, wait for the report, and write what the browser shows."""
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.implicitly_wait(30)
    browser.get(f"http://127.0.0.1:{PORT}")
    for field, text in entries.items():
        browser.find_element("css selector", f"#{field} textarea, #{field} input").send_keys(text)
    browser.find_element("css selector", "#file input[type=file]").send_keys(str(image.resolve()))
    WebDriverWait(browser, 60).until(lambda page: "Quality" in page.find_element("css selector", "#report").text)
    picture = browser.find_element("css selector", "#result img")
    WebDriverWait(browser, 60).until(lambda _: picture.get_property("complete"))
    browser.save_screenshot(str(path))
    browser.quit()


def main() -> None:
    """Start the page, photograph it, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--image", required=True, type=Path)
    parser.add_argument("--spacing", default="")
    parser.add_argument("--weeks", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("serve.png"))
    options = parser.parse_args()
    command = [sys.executable, "-m", "famseg.cli", "serve", "--checkpoint", options.checkpoint, "--port", str(PORT)]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    try:
        page.stdout.readline()  # its address: it listens
        with tempfile.TemporaryDirectory() as profile:
            entries = {"spacing": options.spacing, "weeks": options.weeks}
            photograph(options.image, entries, options.out, profile)
    finally:
        page.terminate()
        page.wait()


if __name__ == "__main__":
    main()
