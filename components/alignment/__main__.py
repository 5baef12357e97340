"""`python -m components.alignment`: the step alone; see components/shared/runtime/alone.py."""

from components.alignment.config import AlignmentConfig
from components.alignment.train import AlignmentInputs, AlignmentOutputs, align
from components.shared.runtime.alone import main

if __name__ == "__main__":
    main("alignment", align, AlignmentConfig, AlignmentInputs, AlignmentOutputs)
