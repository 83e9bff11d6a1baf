"""Numbers on the command line of `famseg`."""

import pytest

from famseg.cli import main


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["cost", "--size", "-3", "64"], "argument --size: -3: give a whole number, 1 or more"),
        (["cost", "--kernel", "7.5"], "argument --kernel: 7.5: give a whole number"),
        (["serve", "--checkpoint", "x", "--port", "70000"], "argument --port: 70000: give a whole number, 1 to 65535"),
        (["predict", "x", "--checkpoint", "x", "--out", "x", "--batch", "0"], "argument --batch: 0: give a whole"),
        *(
            (["report", "x", "--price", money], f"argument --price: {money}: give an")
            for money in ("-5", "nan", "much")
        ),
    ],
)
def test_what_is_no_number_is_named(command, words, capsys):
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2
    assert words in capsys.readouterr().err
