import hashlib
import http.server
import io
import json
import os
import threading
import zipfile
from functools import partial

import pytest

from famseg.data.download import download_femur, download_hc18, fetch, unpack
from famseg.errors import UserError

CONTENT = bytes(range(256)) * 4000  # 1 MB


def md5(data):
    return f"md5:{hashlib.md5(data).hexdigest()}"


CHECKSUM = md5(CONTENT)


class Handler(http.server.BaseHTTPRequestHandler):
    """Files from memory, with ranges, cut after `server.cut` bytes as long as `server.cuts` lasts."""

    def do_GET(self):
        name, server = self.path.lstrip("/").split("?")[0], self.server
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")) if server.ranges else 0
        server.log.append((name, start))
        if server.status != 200 or name not in server.files:
            return self.send_error(404 if server.status == 200 else server.status)
        data = server.files[name]
        if start >= len(data):
            return self.send_error(416)
        self.send_response(206 if server.ranges else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if server.cuts:
            server.cuts -= 1
            end = start + server.cut
        self.wfile.write(data[start:end])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.log, server.cuts, server.cut = {"a.bin": CONTENT}, [], 0, 300_000
        server.ranges, server.status = True, 200
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


def get(server, folder, checksum=CHECKSUM, attempts=3):
    fetch(f"{server.url}/a.bin?download=1", folder / "a.bin", checksum, attempts=attempts, pause=0)
    return (folder / "a.bin").read_bytes()


def test_a_file_is_fetched_once(server, tmp_path):
    assert get(server, tmp_path) == CONTENT
    assert get(server, tmp_path) == CONTENT
    assert server.log == [("a.bin", 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = 2
    assert get(server, tmp_path) == CONTENT
    assert server.log == [("a.bin", 0), ("a.bin", 300_000), ("a.bin", 600_000)]


def test_a_second_call_goes_on_where_the_first_gave_up(server, tmp_path):
    server.cuts = 3
    with pytest.raises(UserError, match=r"the connection broke \(0\.6 MB so far\)\. Run the same command again"):
        get(server, tmp_path, attempts=2)
    server.cuts = 0
    assert get(server, tmp_path) == CONTENT
    assert server.log[-1] == ("a.bin", 600_000)


def test_a_complete_part_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert get(server, tmp_path) == CONTENT


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"old" * 1000)
    server.ranges = False
    assert get(server, tmp_path) == CONTENT


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match=r"a\.bin\?download=1: what came is not the published file"):
        get(server, tmp_path, checksum=md5(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_on_disk_is_fetched_again(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"damaged")
    assert get(server, tmp_path) == CONTENT


def test_a_missing_file_is_named_at_once(server, tmp_path):
    server.files = {}
    with pytest.raises(UserError, match=r"a\.bin\?download=1: the server answers 404"):
        get(server, tmp_path)
    assert len(server.log) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(UserError, match="the server answers 503"):
        get(server, tmp_path)
    assert len(server.log) == 3


def test_no_server_is_said_plainly(tmp_path):
    with pytest.raises(UserError, match="the connection failed"):
        fetch("http://127.0.0.1:1/a.bin", tmp_path / "a.bin", md5(CONTENT), attempts=1)


def archive(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name in names:
            content.writestr(name, name)
    return buffer.getvalue()


def test_hc18_arrives_in_its_official_layout(server, tmp_path):
    server.files = {
        "training_set.zip": archive(["training_set/000_HC.png", "training_set/000_HC_Annotation.png"]),
        "training_set_pixel_size_and_HC.csv": b"filename\n",
    }
    files = {name: md5(data) for name, data in server.files.items()}
    root = download_hc18(tmp_path / "deep/hc18", base_url=server.url, files=files, pause=0)
    assert (root / "training_set/000_HC_Annotation.png").exists()
    assert (root / "training_set_pixel_size_and_HC.csv").read_bytes() == b"filename\n"


def femur_record(server, **changes):
    table = b"image_name\n"
    entry = {"name": "FP.csv", "download_url": f"{server.url}/files/1", "computed_md5": md5(table)[4:]} | changes
    server.files = {"record": json.dumps({"files": [entry]}).encode(), "files/1": table}
    server.files["images.zip"] = archive(["Images/a.png"])


def test_femora_are_what_their_record_lists_and_the_images(server, tmp_path):
    femur_record(server)
    files = {"images.zip": md5(server.files["images.zip"])}
    options = {"record": f"{server.url}/record", "base_url": server.url, "files": files, "pause": 0}
    root = download_femur(tmp_path, **options)
    assert (root / "FP.csv").read_bytes() == b"image_name\n"
    assert (root / "Images/a.png").exists()
    femur_record(server, name="../../evil.csv")
    download_femur(tmp_path / "in" / "deep", **options)
    assert (tmp_path / "in" / "deep" / "evil.csv").exists()
    assert not (tmp_path / "evil.csv").exists()


def test_a_record_that_lists_nothing_is_named(server, tmp_path):
    server.files = {"record": b"<html>"}
    with pytest.raises(UserError, match="does not list its files as expected"):
        download_femur(tmp_path, record=f"{server.url}/record")
    with pytest.raises(UserError, match="the connection failed"):
        download_femur(tmp_path, record="http://127.0.0.1:1/record")


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "training_set/../../evil.png"])
def test_an_archive_may_not_write_elsewhere(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.zip").write_bytes(archive(["training_set/a.png", name]))
    with pytest.raises(UserError, match="outside of"):
        unpack(folder / "a.zip", folder)
    assert [path.name for path in folder.iterdir()] == ["a.zip"]


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive(["a.png"])[:40])
    with pytest.raises(UserError, match=r"a\.zip: is no complete zip archive"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{os.sep}file.*: cannot be written"):
        download_hc18(tmp_path / "file/hc18", base_url=server.url)
