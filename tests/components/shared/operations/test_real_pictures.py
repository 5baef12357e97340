"""GET_PROPERTIES on real pictures, against what a person wrote down on looking at them, before any answer was seen."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.shared.operations import OperationsConfig, default_registry

DATA = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data")) / "coco_mini"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="real pictures are not on this machine (PIXELIS_SHARED_DATA)")
REGISTRY = default_registry(OperationsConfig(time_limit_s=600))
COLOURS = [
    ("000000000790", [720, 600, 880, 820], "blue", "dress"),
    ("000000000790", [300, 800, 480, 950], "orange brown", "tablecloth"),
    ("000000000790", [60, 520, 180, 700], "white grey", "shirt"),
    ("000000030752", [370, 230, 480, 400], "blue", "ski jacket"),
    ("000000030752", [100, 750, 400, 950], "white", "snow"),
    ("000000063217", [100, 50, 900, 200], "grey blue", "overcast sky"),
    ("000000078499", [100, 820, 500, 950], "green brown", "dry grass"),
    ("000000084533", [330, 300, 400, 450], "black grey", "leather jacket"),
    ("000000084533", [800, 150, 880, 300], "grey white", "garage door"),
    ("000000089232", [220, 630, 330, 700], "white grey", "toilet lid"),
    ("000000100667", [780, 480, 860, 640], "yellow orange", "banana"),
    ("000000107438", [200, 450, 500, 720], "blue", "sign with white letters"),
    ("000000114174", [100, 50, 300, 250], "blue", "painted wall"),
    ("000000129648", [620, 430, 760, 560], "blue", "pool floor"),
    ("000000133030", [300, 600, 420, 800], "brown", "umbrella"),
    ("000000157206", [550, 140, 900, 230], "red pink", "salmon wall"),
    ("000000157206", [300, 20, 900, 90], "blue", "painted wall"),
    ("000000159269", [90, 470, 180, 620], "blue black", "navy parasol at dusk"),
    ("000000161846", [110, 560, 180, 680], "orange", "carrots"),
    ("000000161846", [800, 650, 980, 950], "brown", "table top"),
    ("000000163497", [100, 100, 400, 400], "blue", "sky"),
    ("000000172123", [440, 760, 560, 880], "orange", "persimmon"),
    ("000000174375", [600, 800, 950, 950], "orange", "clay court"),
    ("000000174375", [430, 520, 520, 650], "blue", "player's shirt"),
    ("000000183872", [100, 300, 450, 700], "blue", "snow in bluish light"),
    ("000000187334", [50, 100, 250, 300], "green", "meadow"),
    ("000000187334", [320, 430, 560, 580], "white grey", "sheep"),
    ("000000194322", [580, 580, 690, 780], "yellow", "hydrant"),
    ("000000196393", [30, 350, 200, 650], "white", "cat"),
    ("000000196393", [690, 430, 750, 510], "green", "parakeet"),
    ("000000211325", [50, 50, 400, 250], "grey", "sea"),
    ("000000211891", [0, 350, 50, 800], "green", "train door in shade"),
    ("000000213148", [450, 50, 900, 200], "grey blue", "keyboard"),
    ("000000214704", [750, 100, 850, 300], "purple", "dark wall"),
    ("000000216794", [100, 820, 400, 980], "green", "hedge in shade"),
    ("000000249346", [700, 500, 950, 900], "grey", "asphalt"),
    ("000000370162", [730, 650, 850, 900], "black", "T-shirt"),
    ("000000370162", [30, 400, 150, 600], "brown orange yellow", "robe"),
]
"""Picture, box in thousandths, the names a person accepts, what it is."""
TEXTURES = [
    ("000000163497", [100, 100, 400, 400], "smooth", "clear sky"),
    ("000000063217", [100, 50, 400, 150], "smooth", "overcast sky"),
    ("000000157206", [600, 150, 850, 220], "smooth", "painted wall"),
    ("000000183872", [100, 300, 450, 600], "smooth", "untouched snow"),
    ("000000187334", [50, 100, 250, 300], "textured", "meadow"),
    ("000000249346", [700, 600, 950, 900], "textured", "asphalt"),
    ("000000000790", [430, 800, 600, 900], "striped", "tablecloth"),
]


def picture(name: str) -> np.ndarray:
    (path,) = DATA.glob(f"train*/{name}.jpg")
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_colour_names_are_a_persons() -> None:
    wrong = []
    for name, box, accepted, what in COLOURS:
        found = REGISTRY.execute("GET_PROPERTIES", {"frame": 0, "box": box}, [picture(name)]).data["colours"]
        if found[0][0] not in accepted.split():
            wrong.append((what, found))
    # three are missed when this is written: a banana and a cat in the shade, and a pool floor between grey and blue
    assert len(wrong) <= 3, wrong


@pytest.mark.parametrize(("name", "box", "texture", "what"), TEXTURES)
def test_textures_are_a_persons(name: str, box: list[int], texture: str, what: str) -> None:
    data = REGISTRY.execute("GET_PROPERTIES", {"frame": 0, "box": box}, [picture(name)]).data
    assert data["texture"] == texture, (what, data)


def test_the_stripes_of_a_tablecloth_run_as_a_person_sees_them() -> None:
    call = {"frame": 0, "box": [430, 800, 600, 900]}
    data = REGISTRY.execute("GET_PROPERTIES", call, [picture("000000000790")]).data
    assert data["stripes_degrees"] == pytest.approx(-60, abs=15)


def test_a_blurred_picture_is_less_sharp() -> None:
    for path in sorted(DATA.glob("train*/*.jpg"))[:10]:
        frame = picture(path.stem)
        call = {"frame": 0, "box": [200, 200, 800, 800]}
        sharp = REGISTRY.execute("GET_PROPERTIES", call, [frame]).data
        soft = REGISTRY.execute("GET_PROPERTIES", call, [cv2.GaussianBlur(frame, (0, 0), 3)]).data
        assert soft["sharpness"] < 0.5 * sharp["sharpness"], path.name
