"""The objectives by name (the setting `objective`)."""

from collections.abc import Mapping
from typing import Any

from instructrl.training.objectives.base import ObjectiveKind
from instructrl.training.objectives.behavior_cloning import open_demonstrations, prepare_behavior_cloning
from instructrl.training.objectives.masked_pretraining import open_image_text, prepare_masked_pretraining

# Any: each entry has data and batches of its own types, which its two functions agree on.
OBJECTIVES: Mapping[str, ObjectiveKind[Any, Any]] = {
    "behavior_cloning": ObjectiveKind(open_demonstrations, prepare_behavior_cloning),
    "masked_pretraining": ObjectiveKind(open_image_text, prepare_masked_pretraining),
}
