"""Photograph the page of a report in a real browser.

python docs/figures/report.py --report runs/STUDY/report [--out FILE] [--section ID] [--height PX]

Needs selenium and Debian's chromium and chromium-driver.
"""

import argparse
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --proxy-server=direct:// --disable-quic --disable-sync "
FLAGS += "--disable-background-networking --disable-component-update --hide-scrollbars"


def photograph(page: Path, out: Path, section: str, height: int, profile: str) -> list[str]:
    """Open the page, wait until its figures are drawn, go to a section and write what the browser shows.

    Returns:
        What the browser complained of.
    """
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--window-size=1280,{height}", f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = "/usr/bin/chromium"
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.get(page.resolve().as_uri())
    drawn = "return [...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
    WebDriverWait(browser, 60).until(lambda page: page.execute_script(drawn))
    if section:
        browser.execute_script("document.getElementById(arguments[0]).scrollIntoView()", section)
    browser.save_screenshot(str(out))
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    browser.quit()
    return complaints


def main() -> None:
    """Write docs/figures/report.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("report.png"))
    parser.add_argument("--section", default="")
    parser.add_argument("--height", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        page = options.report / "index.html"
        for complaint in photograph(page, options.out, options.section, options.height, profile):
            print(complaint)


if __name__ == "__main__":
    main()
