"""GET_PROPERTIES on real pictures, against what a person wrote down when looking at them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from components.shared.operations import OperationsConfig, default_registry

DATA = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data")) / "coco_mini"
SEEN = [
    ("000000000790", [720, 600, 880, 820], {"blue"}, "dress"),
    ("000000000790", [300, 800, 480, 950], {"orange", "brown"}, "tablecloth"),
    ("000000000790", [60, 520, 180, 700], {"white", "grey"}, "shirt"),
    ("000000084533", [330, 300, 400, 450], {"black", "grey"}, "leather jacket"),
    ("000000084533", [800, 150, 880, 300], {"grey", "white"}, "garage door"),
    ("000000163497", [100, 100, 400, 400], {"blue"}, "sky"),
    ("000000183872", [100, 300, 450, 700], {"blue"}, "snow in bluish light"),
    ("000000216794", [100, 820, 400, 980], {"green"}, "hedge in shade"),
    ("000000249346", [700, 500, 950, 900], {"grey"}, "asphalt"),
    ("000000370162", [730, 650, 850, 900], {"black"}, "T-shirt"),
    ("000000133030", [300, 600, 420, 800], {"brown"}, "umbrella"),
    ("000000370162", [30, 400, 150, 600], {"brown", "orange", "yellow"}, "robe"),
    ("000000211891", [0, 350, 50, 800], {"green"}, "train door in shade"),
]
"""Picture, box in thousandths, names a person accepts, what it is."""


def test_most_colour_names_are_a_persons() -> None:
    if not DATA.is_dir():
        pytest.skip("real pictures are not on this machine (PIXELIS_SHARED_DATA)")
    registry = default_registry(OperationsConfig())
    wrong = []
    for name, box, accepted, what in SEEN:
        (path,) = DATA.glob(f"train*/{name}.jpg")
        frame = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        found = registry.execute("GET_PROPERTIES", {"frame": 0, "box": box}, [frame]).data["colours"]
        if found[0][0] not in accepted:
            wrong.append((what, found))
    assert len(wrong) <= 1, wrong


def test_a_blurred_picture_is_less_sharp_and_a_stripe_less_smooth() -> None:
    if not DATA.is_dir():
        pytest.skip("real pictures are not on this machine (PIXELIS_SHARED_DATA)")
    registry = default_registry(OperationsConfig())
    for path in sorted(DATA.glob("train*/*.jpg"))[:10]:
        frame = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        call = {"frame": 0, "box": [200, 200, 800, 800]}
        sharp = registry.execute("GET_PROPERTIES", call, [frame]).data
        soft = registry.execute("GET_PROPERTIES", call, [cv2.GaussianBlur(frame, (0, 0), 3)]).data
        assert soft["sharpness"] < 0.5 * sharp["sharpness"], path.name
