"""`python -m components.base_model`: the step alone; see components/shared/runtime/alone.py."""

from components.base_model.config import BaseModelConfig
from components.base_model.prepare import BaseInputs, BaseOutputs, prepare_base
from components.shared.runtime.alone import main

if __name__ == "__main__":
    main("base_model", prepare_base, BaseModelConfig, BaseInputs, BaseOutputs)
