"""`python -m components.rft`: the step alone; see components/shared/runtime/alone.py."""

from components.rft.config import RftConfig
from components.rft.train import RftInputs, RftOutputs, reinforce
from components.shared.runtime.alone import main

if __name__ == "__main__":
    main("rft", reinforce, RftConfig, RftInputs, RftOutputs)
