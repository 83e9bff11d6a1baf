"""What the interpreter does not see: types that change in a loop, tuples, layouts. Only the compiler does.

And all kernels are compiled side by side before any is launched.
"""

import pytest

ALL = 30  # kernels of a step, at the least


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_of_a_step_compiles_for_a_gpu_before_it(outcome):
    names = outcome("compile_program.py")
    assert len(set(names["early"])) >= ALL
    assert len(names["loaded"]) == len(names["early"])
    assert not names["late"], "a step compiles what was not compiled before it"
    assert not names["launched"], "a kernel was launched that was to be compiled only"
