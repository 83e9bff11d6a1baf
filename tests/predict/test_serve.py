"""The page in a real browser, headless. Needs Debian's chromium and chromium-driver."""

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
wait = pytest.importorskip("selenium.webdriver.support.wait", reason="needs selenium")
pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs the extra [app]"),  # its import writes to /tmp
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver (apt-get install)"),
]
# The last ones keep Chromium from looking for its maker's servers.
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --window-size=1280,900 --proxy-server=direct:// "
FLAGS += "--disable-quic --disable-background-networking --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    """A page in a process of its own: its address and port. What it writes lies in one folder, and goes with it."""
    home = tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "famseg.cli", "serve", "--checkpoint", str(checkpoint), "--device", "cpu"]
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [*command, "--port", str(port)], cwd=home, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line
        yield f"http://127.0.0.1:{port}", port
        (folder,) = (home / "tmp").iterdir()
        written = [path for path in home.rglob("*") if path.is_file()]
        assert written
        assert all(folder in path.parents for path in written)
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert [path for path in home.rglob("*") if path.is_file() or home / "tmp" in path.parents] == []  # nothing is kept


@pytest.fixture
def browser(server, tmp_path):
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(30)
    driver.get(server[0])
    yield driver
    driver.quit()


def find(browser, selector):
    return browser.find_element("css selector", selector)


def upload(browser, path, words):
    """Drop a file on the page and wait for words in the report."""
    find(browser, "#file input[type=file]").send_keys(str(path))
    until(browser, lambda: words in find(browser, "#report").text)
    return find(browser, "#report").text


def until(browser, condition):
    wait.WebDriverWait(browser, 10).until(lambda _: condition())


@pytest.fixture
def scan(write_image, picture):
    return write_image("scan.png", picture)


def test_an_upload_is_measured_and_nothing_leaves_the_computer(browser, scan):
    find(browser, "#spacing textarea, #spacing input").send_keys("0.25")
    find(browser, "#weeks textarea, #weeks input").send_keys("20+3")
    text = upload(browser, scan, "Quality")
    assert {"HC", "BPD", "OFD", "FL"} <= set(text.split())
    shown = find(browser, "#result img")
    assert int(shown.get_attribute("naturalWidth")) >= 960
    assert "Not a medical device" in find(browser, "#notice").text
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("http://127.0.0.1") for url in asked)
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:", "chrome:"))] == []


def test_a_bad_file_is_named_and_no_earlier_result_stays(browser, scan, tmp_path):
    upload(browser, scan, "Quality")
    find(browser, "#file button[aria-label]").click()  # takes the image away
    (tmp_path / "bad.png").write_text("no image")
    text = upload(browser, tmp_path / "bad.png", "Not measured")
    assert "bad.png: is no readable image" in text
    assert "/" not in text
    browser.implicitly_wait(0)
    assert browser.find_elements("css selector", "#result img") == []


@pytest.mark.parametrize("name", ["scan.dcm", "IM_0001"])
def test_dicom_of_any_name_brings_its_pixel_size(browser, tmp_path, picture, name):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.3"
    dataset.PatientName = "Doe^Jane"
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelSpacing, dataset.PixelData = [0.25, 0.25], picture.tobytes()
    dataset.save_as(tmp_path / name, enforce_file_format=True)
    text = upload(browser, tmp_path / name, "Quality")
    assert "pixel size unknown" not in text
    assert "Doe" not in browser.page_source


def test_uploads_are_limited(browser, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5000, 4500), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "large.png"), noise)
    assert (tmp_path / "large.png").stat().st_size > 20e6
    find(browser, "#file input[type=file]").send_keys(str(tmp_path / "large.png"))
    until(browser, lambda: "exceed" in find(browser, ".toast-body").text.lower())
    assert find(browser, "#report").text == ""


def test_it_listens_on_this_computer_only(server):
    port = f":{server[1]:04X}"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {fields[1] for fields in listening if fields[1].endswith(port) and fields[3] == "0A"}
    assert addresses == {f"0100007F{port}"}
