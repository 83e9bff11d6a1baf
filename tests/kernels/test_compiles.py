"""What the interpreter does not see: types that change in a loop, tuples, layouts. Only the compiler does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ALL = 30  # kernels of a step, at the least
TOUCHES = re.compile(r"(ld|st|atom|red|cp)\.(?!param)")  # memory, but for the arguments


def waits_first(ptx):
    """Whether the kernel waits for the one before it, ahead of any instruction that touches memory."""
    before, wait, behind = ptx.partition("griddepcontrol.wait;")
    return bool(wait) and not TOUCHES.search(before) and "griddepcontrol.launch_dependents;" in behind


def test_one_that_does_not_wait_is_found():
    wait, load = "griddepcontrol.wait; // dummy\ngriddepcontrol.launch_dependents;", "ld.global.b32 %r1, [%rd1];"
    assert waits_first(f"ld.param.b64 %rd1, [kernel_param_0];\n{wait}\n{load}")
    assert not waits_first(f"{load}\n{wait}")
    assert not waits_first(load)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_of_a_step_compiles_for_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "compile_program.py"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.split()) >= ALL
    codes = {path.parent: path.read_text() for path in tmp_path.rglob("*.ptx")}
    assert len(codes) >= ALL
    assert [path.name for path, ptx in codes.items() if not waits_first(ptx)] == []
    for path in codes:
        (about,) = (json.loads(file.read_text()) for file in path.glob("*.json") if not file.name.startswith("__grp__"))
        assert about["launch_pdl"], about["name"]
