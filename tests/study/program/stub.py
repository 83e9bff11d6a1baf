"""A program under famseg's launchers that trains nothing: it notes its device and fails, dies or waits when told to.

The environment tells it, since that is no part of a cell: FAIL, KILL and HOLD are seeds.
"""

import json
import os
import signal
import time
from pathlib import Path

import hydra

from famseg.locks import locked


@hydra.main(version_base="1.3", config_path=".", config_name="stub")
def main(config):
    folder, study = Path(config.output), Path(config.output).parent

    def status(state, error=None):
        (folder / "status.json").write_text(json.dumps({"state": state, "error": error}))

    with locked(folder, "run"):
        (folder / "config.yaml").write_text(f"seed: {config.seed}\nmeet: {config.meet}\n")
        status("running")
        with (folder / "starts.jsonl").open("a") as file:
            file.write(json.dumps({"device": os.environ.get("CUDA_VISIBLE_DEVICES"), "start": time.time()}) + "\n")
        deadline = time.time() + 120
        while len(list(study.glob("*/starts.jsonl"))) < config.meet and time.time() < deadline:
            time.sleep(0.05)
        while str(config.seed) == os.environ.get("HOLD") and time.time() < deadline:
            time.sleep(0.05)
        if str(config.seed) == os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        if str(config.seed) == os.environ.get("FAIL"):
            status("failed", "Traceback\nValueError: told to fail")
            raise ValueError("told to fail")
        (folder / "end").write_text(str(time.time()))
        status("done")
        return 0.5


if __name__ == "__main__":
    main()
