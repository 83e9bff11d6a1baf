"""Hydra's sweeper, for tables whose rows are not a product of axes."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


class RowSweeper(BasicSweeper):
    """Every row with every combination of the command line's axes.

    Args:
        max_batch_size: as Hydra's: cells that are handed to the launcher at once; None: all.
        params: as Hydra's: axes, key -> choices.
        rows: lists of overrides, each of which may be an axis of its own: `[[optimizer=sgd,adam, switch=none],
            [optimizer=adamw]]` are three rows. The command line wins over a row.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        rows: Sequence[Sequence[str]] = (),
    ) -> None:
        super().__init__(max_batch_size, params)
        self.rows = rows or [[]]

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        """The cells of all rows, in batches."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        every: list[list[str]] = []
        for row in self.rows:
            (cells,) = super().split_arguments([*parser.parse_overrides(list(row)), *overrides], None)
            every += [cell for cell in cells if cell not in every]
        return list(self.split_overrides_to_chunks(every, max_batch_size))
