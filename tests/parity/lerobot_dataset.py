"""Open LeRobot data sets with the package lerobot, in an environment of its own, and compare them with the originals.

python3 -m venv .venv-lerobot && .venv-lerobot/bin/pip install lerobot==0.4.4 h5py hdf5plugin
python -m data_tools.lerobot export src=DEMONSTRATIONS.hdf5 out=EXPORT
.venv-lerobot/bin/python tests/parity/lerobot_dataset.py compare DEMONSTRATIONS.hdf5 EXPORT
.venv-lerobot/bin/python tests/parity/lerobot_dataset.py make FOLDER [EPISODES]
.venv-lerobot/bin/python tests/parity/lerobot_dataset.py copy EXPORT FOLDER

compare: every frame, in the order of LeRobot's own index, has the state, camera matrices, action and sentence of the
file, and images of which the loss is printed in dB. make: a small data set written by lerobot itself, which
tests/golden/lerobot_tiny is. copy: the episodes of a data set, recorded again by lerobot, frame by frame, as a robot's
would be. Imports nothing of InstructRL: both packages need versions that exclude each other.
"""

import json
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

SIZE, FPS, STEPS = 48, 10, 12
SENTENCES = ("go to the red blob", "go to the green blob")


def decibels(error: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error of pixels in [0, 255]."""
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def compare(file: Path, folder: Path) -> None:
    """Compare an export with the file from which it was made."""
    data = LeRobotDataset("compared", root=folder, video_backend="pyav")  # torchcodec needs a FFmpeg of the system
    with h5py.File(file) as given:
        cameras = [str(name.decode()) for name in given.attrs["cameras"]]
        frames = {name: given[f"frames/{name}"][:] for name in ("images", "state", "intrinsics", "extrinsics")}
        keyframes, actions = given["keyframes/frame"][:], given["keyframes/action"][:]
        first, counts = given["episodes/first_keyframe"][:], given["episodes/keyframes"][:]
        lengths, sentences = given["episodes/frames"][:], given["sentences"][:]
        first_sentence = given["episodes/first_sentence"][:]
    assert len(data) == len(frames["state"]) and data.num_episodes == len(lengths)
    errors: dict[str, list[float]] = {name: [] for name in cameras}
    number = 0
    for episode, length in enumerate(lengths):
        own = slice(first[episode], first[episode] + counts[episode])
        for step in range(length):
            item = data[number]
            following = min(int((keyframes[own] <= step).sum()), counts[episode] - 1)
            np.testing.assert_array_equal(item["action"].numpy(), actions[own][following])
            np.testing.assert_array_equal(item["observation.state"].numpy(), frames["state"][number])
            assert item["task"] == sentences[first_sentence[episode]].decode()
            assert int(item["episode_index"]) == episode and int(item["frame_index"]) == step
            for view, name in enumerate(cameras):
                for kind in ("intrinsics", "extrinsics"):
                    expected = frames[kind][number, view].reshape(-1)
                    np.testing.assert_array_equal(item[f"observation.{kind}.{name}"].numpy(), expected)
                pixels = np.rint(255 * item[f"observation.images.{name}"].numpy().transpose(1, 2, 0).astype(np.float64))
                errors[name].append(float(np.mean((pixels - frames["images"][number, view]) ** 2)))
            number += 1
    print(f"{len(lengths)} episodes, {number} frames: states, actions, matrices and sentences are equal")
    for name, found in errors.items():
        print(f"{name}: {decibels(float(np.mean(found))):.1f} dB, the worst frame {decibels(max(found)):.1f} dB")


def blob(target: np.ndarray, colour: int) -> np.ndarray:
    """An image uint8 [SIZE SIZE 3] with a blob at a place x y in [0, 1], the brighter the higher it is."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    shape = np.exp(-((rows - 0.15 - 0.7 * target[0]) ** 2 + (columns - 0.15 - 0.7 * target[1]) ** 2) / 0.01)
    pixels = np.full((SIZE, SIZE, 3), 40.0)
    pixels[..., colour] += (60 + 140 * target[2]) * shape
    return pixels.astype(np.uint8)


def make(folder: Path, episodes: int) -> None:
    """Write a data set of episodes that go to a blob: two sentences, a camera as video and one as images."""
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
    image = {"shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    pose = {"dtype": "float32", "shape": (8,), "names": names}
    features = {
        "observation.images.front": {"dtype": "video", **image},
        "observation.images.wrist": {"dtype": "image", **image},
        "observation.state": pose,
        "observation.joints": {"dtype": "float32", "shape": (2,), "names": ["shoulder", "elbow"]},
        "action": pose,
    }
    data = LeRobotDataset.create("tiny", FPS, features, root=folder, robot_type="blob", video_backend="pyav")
    for episode in range(episodes):
        rng = np.random.default_rng(episode)
        home, target, colour = np.array([0.5, 0.5, 0.2]), rng.uniform(0, 1, 3), episode % 2
        way = np.minimum(np.arange(STEPS + 1) / (STEPS - 4), 1)  # arrives, and rests
        poses = [np.array([*home + (target - home) * share, 0, 1, 0, 0, share < 1], np.float32) for share in way]
        for step in range(STEPS):
            data.add_frame(
                {
                    "observation.images.front": blob(target, colour),
                    "observation.images.wrist": blob(poses[step][:3], 2),
                    "observation.state": poses[step],
                    "observation.joints": (np.array([0.1, 0.2]) * way[step]).astype(np.float32),
                    "action": poses[step + 1],
                    "task": SENTENCES[colour],
                }
            )
        data.save_episode(parallel_encoding=False)
    data.finalize()
    print(json.dumps({"frames": len(data), "bytes": sum(one.stat().st_size for one in folder.rglob("*.*"))}))


def copy(source: Path, folder: Path) -> None:
    """Record the episodes of a data set again."""
    data = LeRobotDataset("source", root=source, video_backend="pyav")
    indices = {"index", "episode_index", "frame_index", "timestamp", "task_index"}
    features = {name: feature for name, feature in data.features.items() if name not in indices}
    copied = LeRobotDataset.create("copy", data.fps, features, root=folder, robot_type="copy", video_backend="pyav")
    episode = 0
    for number in range(len(data)):
        item = data[number]
        if int(item["episode_index"]) != episode:
            copied.save_episode(parallel_encoding=False)
            episode += 1
        frame = {name: item[name].numpy() for name in features}
        for name, feature in features.items():
            if feature["dtype"] in ("video", "image"):
                frame[name] = np.rint(255 * frame[name].transpose(1, 2, 0)).astype(np.uint8)
        copied.add_frame({**frame, "task": item["task"]})
    copied.save_episode(parallel_encoding=False)
    copied.finalize()
    print(f"{copied.num_episodes} episodes, {len(copied)} frames")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    elif sys.argv[1] == "copy":
        copy(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        compare(Path(sys.argv[2]), Path(sys.argv[3]))
