"""The paper's classes, in the order of its tables."""

BACKGROUND, FEMUR, HEAD = "BG", "FL", "FB"
IDS = {BACKGROUND: 0, FEMUR: 1, HEAD: 2}
COLOURS = {BACKGROUND: (0, 0, 0), FEMUR: (255, 0, 0), HEAD: (0, 255, 0)}  # its Fig. 4
