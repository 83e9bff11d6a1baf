"""Values of options that several commands take."""

import argparse
import math


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none; argparse prints the message behind the option's name.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, 1 or more")
    return int(text)


def port(text: str) -> int:
    """A port's number, 1 to 65535.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, 1 to 65535")
    return int(text)


def price(text: str) -> float:
    """An amount of money, 0 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        money = float(text)
    except ValueError:
        money = math.nan
    if not 0 <= money < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give an amount of money, 0 or more, as 2.50")
    return money
