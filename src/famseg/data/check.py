"""What `famseg data check` says: every bad input, before training meets it."""

from famseg.data.datamodule import SegmentationDataModule
from famseg.data.source import Problem, Source


def check(source: Source) -> list[Problem]:
    """Every problem of a source, images decoded; those that stop a training come first."""
    return sorted(source.problems(), key=lambda problem: not problem.fatal)


def check_report(data: SegmentationDataModule | Source) -> tuple[str, int]:
    """Check a data set and say what was found.

    Args:
        data: A source, or a datamodule, whose splits are then counted as well.

    Returns:
        The text, one line per problem and a summary, and the exit code: 1 when training would refuse the data, else 0.
    """
    source: Source = data.source if isinstance(data, SegmentationDataModule) else data
    problems = check(source)
    errors = sum(problem.fatal for problem in problems)
    lines = [f"{'error  ' if problem.fatal else 'warning'}  {problem}" for problem in problems]
    classes = ", ".join(f"{number} {name}" for name, number in source.classes.items())
    lines.append(f"{len(source)} images of {len(set(source.groups))} examinations or subjects, classes {classes}.")
    if isinstance(data, SegmentationDataModule):
        lines.append(", ".join(f"{split} {len(names)}" for split, names in data.splits.items()) + " images.")
    lines.append(f"Errors: {errors}. Warnings: {len(problems) - errors}.")
    return "\n".join(lines), int(errors > 0)
