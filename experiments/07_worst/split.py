"""Split of the examinations that studies 01 and 02 do not test: python split.py ../02_hc18_models/split.csv split.csv.

The 154 test images are left out altogether; a quarter of the others, by examination, is tested here.
"""

import sys
from pathlib import Path

from famseg.data.splits import read_split, split_by_group, write_split
from famseg.data.tables import read_rows

source, out = map(Path, sys.argv[1:])
groups = {row["file"]: row["group"] for row in read_rows(source, ("file", "group", "split"), "Give a split.")}
outer = read_split(source, groups)
names = sorted(outer["train"] + outer["val"])
write_split(out, split_by_group(names, [groups[name] for name in names], folds=4, seed=1), groups)
