"""Tables as Markdown and as LaTeX."""

from collections.abc import Sequence

from famseg.report.layout import DASH, Number, Table

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "–": "--",
        **{letter: f"\\{letter}" for letter in "%_&#${}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
    }
)


def markdown(table: Table) -> str:
    """A table in Markdown: best bold, second best underlined."""
    heads = ["", *(column.heading for column in table.columns)]
    lines = [heads, ["---", *("---:" for _ in table.columns)]]
    lines += [
        [row.name, *(_markdown(number) for number in numbers)]
        for row, numbers in zip(table.rows, table.numbers(), strict=True)
    ]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return f"## {table.title}\n\n{body}\n\n" + "\n".join(table.notes) + "\n"


def latex(table: Table) -> str:
    """A table in LaTeX, for `booktabs`."""
    lines = [
        " & ".join([_escape(row.name), *(_latex(number) for number in numbers)]) + r" \\"
        for row, numbers in zip(table.rows, table.numbers(), strict=True)
    ]
    parts = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escape(table.title)}. {_escape(' '.join(table.notes))}}}",
        rf"  \label{{tab:{table.key}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"    \toprule",
        *(f"    {head}" for head in _heads(table)),
        r"    \midrule",
        *(f"    {line}" for line in lines),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def groups(table: Table) -> list[tuple[str, int]]:
    """Titles of the columns with the number of neighbours that share each."""
    found: list[tuple[str, int]] = []
    for column in table.columns:
        if found and found[-1][0] == column.title:
            found[-1] = (column.title, found[-1][1] + 1)
        else:
            found.append((column.title, 1))
    return found


def _heads(table: Table) -> Sequence[str]:
    spans = [rf"\multicolumn{{{n}}}{{c}}{{{_escape(title)}}}" for title, n in groups(table)]
    first = " & ".join(["", *spans]) + r" \\"
    if not any(column.source for column in table.columns):
        return [first]
    return [first, " & ".join(["", *(column.source for column in table.columns)]) + r" \\"]


def _markdown(number: Number) -> str:
    text = {1: f"**{number.text}**", 2: f"<u>{number.text}</u>"}.get(number.place, number.text)
    return f"{text} ± {number.spread}" if number.spread else text


def _latex(number: Number) -> str:
    if number.text == DASH:
        return "--"
    text = {1: rf"\textbf{{{number.text}}}", 2: rf"\underline{{{number.text}}}"}.get(number.place, number.text)
    return rf"{text} $\pm$ {number.spread}" if number.spread else text


def _escape(text: str) -> str:
    return text.translate(_LATEX)
