"""Read demonstrations: what an episode, and a batch of episodes for training, consist of.

python -m data_tools.collect task=reach_target episodes=20 val_episodes=5 sim.image_size=96
python examples/read_demonstrations.py data/tabletop/reach_target-96px-front+left_shoulder+right_shoulder/train.hdf5
"""

import sys

import numpy as np

from instructrl.data.demonstrations.dataset import DemonstrationDataset


def main(path: str) -> None:
    with DemonstrationDataset(path) as dataset:
        print(f"{len(dataset)} episodes of {dataset.task}, cameras {', '.join(dataset.cameras)}")
        for number in range(min(3, len(dataset))):
            print(f"episode {number}: {dataset.instructions(number)[0]}")
            for name, value in dataset.episode(number)._asdict().items():
                if isinstance(value, np.ndarray):
                    print(f"  {name:<12}{value.dtype}{value.shape}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
