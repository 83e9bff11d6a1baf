"""What watches the page asks it whether it lives; no browser is needed."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from importlib.util import find_spec

import pytest


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="needs the extra [app]")
def test_health_names_the_network_and_no_folder(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "famseg.cli", "serve", "--checkpoint", "famseg-t-hc18", "--device", "cpu"]
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--port", str(port)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert "FAMSeg" in process.stdout.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
                assert (answer.status, json.load(answer)) == (200, {"checkpoints": ["famseg-t-hc18"]})
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
                assert b"FAMSeg" in page.read()
        finally:
            process.terminate()
