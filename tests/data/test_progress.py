import time

import pytest

from famseg.data import progress


def test_results_come_in_the_order_of_the_items():
    def work(number):
        time.sleep(0.002 * (5 - number))
        return number * 10

    assert list(progress.parallel(work, range(5), "Working")) == [0, 10, 20, 30, 40]


def test_what_goes_wrong_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(progress.parallel(lambda number: 1 / number, [1, 0, 2], "Working"))


@pytest.mark.parametrize(("after", "shown"), [(0.0, True), (60.0, False)])
def test_a_line_is_shown_only_when_it_takes_a_while(monkeypatch, capsys, after, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setattr(progress, "SHOW_AFTER_S", after)
    list(progress.parallel(abs, [1, 2], "Working"))
    assert ("Working" in capsys.readouterr().err) == shown


def test_nothing_is_printed_into_a_log(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0.0)
    list(progress.parallel(abs, [1, 2], "Working"))
    assert capsys.readouterr() == ("", "")
