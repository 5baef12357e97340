"""The section refuses what cannot work, by name, before anything runs."""

import json
import subprocess
import sys

import pytest

from components.data_synthesis.recordings.config import RecordingsConfig
from components.shared.runtime.errors import ConfigError

WRONG = {
    "unknown key": ({"colour": 1}, "recordings.colour = 1: no such key"),
    "unknown nested key": ({"twin": {"people": 3}}, "recordings.twin.people = 3: no such key"),
    "source": ({"source": "youtube"}, "recordings.source = 'youtube'"),
    "no people": ({"twin": {"num_train_people": 0}}, "recordings.twin.num_train_people = 0"),
    "spread": ({"twin": {"duration_spread": [2, 1]}}, "duration_spread"),
    "no path": ({"source": "segments"}, "recordings.path must name a folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_named(case: str) -> None:
    value, message = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        RecordingsConfig.parse(json.dumps(value), name="recordings")
    assert message in str(caught.value)


def test_importing_the_section_is_light() -> None:
    code = (
        "import sys, components.data_synthesis.recordings.config as c; "
        "heavy = {'torch', 'cv2', 'av', 'matplotlib', 'numpy'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
