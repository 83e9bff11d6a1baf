"""Reads what wandb records offline: a log in LevelDB's format, of protobuf records."""

import json
import struct
import time
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_records(path):
    """Every record of a `.wandb` file."""
    data = Path(path).read_bytes()
    assert data[:4] == b":W&B"
    place, parts, records = 7, [], []
    while place + HEADER <= len(data):
        room = BLOCK - place % BLOCK
        if room < HEADER:
            place += room  # the rest of a block is padding
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        parts.append(data[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (FULL, LAST):
            records.append(Record.FromString(b"".join(parts)))
            parts = []
    return records


class OfflineRun:
    """What the record of one run says."""

    def __init__(self, path):
        self.records = read_records(path)
        (self.run,) = [r.run for r in self.records if r.WhichOneof("record_type") == "run"][:1]
        self.config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in self.run.config.update}
        self.exit_codes = [r.exit.exit_code for r in self.records if r.WhichOneof("record_type") == "exit"]
        self.files = Path(path).parent / "files"

    @property
    def history(self):
        """Rows of logged values, by name."""
        rows = [r.history for r in self.records if r.WhichOneof("record_type") == "history"]
        return [{_key(item): json.loads(item.value_json) for item in row.item} for row in rows]

    def values(self, name):
        """Every value logged under a name."""
        return [row[name] for row in self.history if name in row]


def runs_in(folder, patience=60):
    """Every offline run below a folder; wandb's own process writes the end of a record after `finish` has returned."""
    paths = sorted(Path(folder).rglob("*.wandb"))
    until = time.monotonic() + patience
    while not all(_is_whole(path) for path in paths) and time.monotonic() < until:
        time.sleep(0.1)
    return [OfflineRun(path) for path in paths]


def _is_whole(path):
    return any(record.WhichOneof("record_type") == "exit" for record in read_records(path))


def _key(item):
    return item.key or ".".join(item.nested_key)
