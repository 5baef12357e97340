"""`python -m components.sft`: alone or under torchrun; see components/shared/runtime/alone.py."""

from components.sft.config import SftConfig
from components.sft.train import SftInputs, SftOutputs, fine_tune
from components.shared.runtime.alone import main

if __name__ == "__main__":
    main("sft", fine_tune, SftConfig, SftInputs, SftOutputs)
