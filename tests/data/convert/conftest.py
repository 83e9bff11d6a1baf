import json

import cv2
import numpy as np
import pytest

HEAD = [(10, 5), (40, 5), (40, 30), (10, 30)]  # 30 x 25 px
FEMUR = [(20, 32), (60, 32), (60, 38), (20, 38)]
SHAPE = (48, 72)


@pytest.fixture
def picture():
    """Writes a picture of noise and returns its pixels."""

    def write(path, seed=0, shape=SHAPE):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        assert cv2.imwrite(str(path), pixels)
        return pixels

    return write


@pytest.fixture
def expected():
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:30, 10:40] = 2
    mask[32:38, 20:60] = 1
    return mask


@pytest.fixture
def coco(tmp_path, picture):
    """Three pictures: polygons, a run-length mask, no annotation."""
    root = tmp_path / "coco"
    for number, name in enumerate(("a/1.png", "b/1.png", "c/1.png")):
        picture(root / name, number)
    mask = np.zeros(SHAPE, bool)
    mask[5:30, 10:40] = True
    flat = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=~flat[:1], append=~flat[-1:]))).tolist()
    annotations = [
        {"id": 7, "image_id": 1, "category_id": 3, "segmentation": [np.ravel(HEAD).tolist()]},
        {"id": 8, "image_id": 1, "category_id": 5, "segmentation": [np.ravel(FEMUR).tolist()]},
        {"id": 9, "image_id": 2, "category_id": 3, "segmentation": {"size": list(SHAPE), "counts": runs}},
    ]
    images = [
        {"id": i + 1, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]}
        for i, name in enumerate(("a/1.png", "b/1.png", "c/1.png"))
    ]
    categories = [{"id": 3, "name": "head"}, {"id": 5, "name": "femur"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json"


@pytest.fixture
def labelme(tmp_path, picture):
    root = tmp_path / "labelme"
    for number in range(3):
        picture(root / f"{number}.png", number)
        shapes = [
            {"label": "head", "points": HEAD, "shape_type": "polygon"},
            {"label": "femur", "points": [FEMUR[0], FEMUR[2]], "shape_type": "rectangle"},
        ]
        content = {"imagePath": f"{number}.png", "shapes": shapes, "imageData": None}
        content |= {"imageHeight": SHAPE[0], "imageWidth": SHAPE[1]}
        (root / f"{number}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def cvat(tmp_path, picture, expected):
    root = tmp_path / "cvat"
    for number in range(3):
        picture(root / "JPEGImages" / f"{number}.png", number)
        colours = np.array([(0, 0, 0), (0, 0, 250), (50, 250, 50)], np.uint8)[expected]  # blue, green, red
        (root / "SegmentationClass").mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / "SegmentationClass" / f"{number}.png"), colours)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nfemur:250,0,0::\nhead:50,250,50::\n"
    )
    return root


def edit(path, change):
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(name="edit")
def edit_fixture():
    return edit
