"""What the interpreter does not see: types that change in a loop, tuples, layouts. Only the compiler does.

And all kernels are compiled side by side before any is launched.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ALL = 30  # kernels of a step, at the least


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_of_a_step_compiles_for_a_gpu_before_it(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "compile_program.py"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = json.loads(done.stdout)
    assert len(set(names["early"])) >= ALL
    assert len(names["loaded"]) == len(names["early"])
    assert not names["late"], "a step compiles what was not compiled before it"
    assert not names["launched"], "a kernel was launched that was to be compiled only"
