"""Precompute a frozen encoder's features, for example on another machine. Settings as for train.py.

python -m data_tools.features task=reach_target encoder=m3ae_b16
python -m data_tools.features task=multi_10 encoder=m3ae_b16
"""

from instructrl.cli.entry import entry_point
from instructrl.config.training import TrainConfig, uses_cached_features
from instructrl.errors import InputError


@entry_point("train", TrainConfig)
def main(config: TrainConfig) -> None:
    """Collect missing demonstrations, and compute missing features."""
    if not uses_cached_features(config) or config.encoder.weights is None:
        raise InputError(
            f"encoder: found {config.encoder.name}; allowed: one that is frozen, has weights in a file, "
            "and features=auto or cached, such as encoder=m3ae_b16"
        )
    from instructrl.training.preflight import check_inputs

    check_inputs(config)
    from instructrl.collection.collect import ensure_demonstrations
    from instructrl.training.distributed.platform import select_platform
    from instructrl.training.run_dir import feature_outputs

    select_platform(config.hardware)
    data = ensure_demonstrations(config.task, config.sim, config.data, outputs=feature_outputs(config))
    from instructrl.training.feature_extraction import compute_features
    from instructrl.training.objectives.behavior_cloning import open_demonstrations

    with open_demonstrations(config, data) as sets:
        compute_features(config, [*sets.train, *sets.val])


if __name__ == "__main__":
    main()
