"""Stored demonstrations in RLBench's format, built from stand-in classes, and windows of the first release."""

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
NEAR, FAR = 0.1, 4.0


class Named:
    """A class of rlbench that exists only while pickling; it is absent when the pickle is read."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def classes() -> tuple[type, type]:
    return (
        type("Demo", (Named,), {"__module__": "rlbench.demo", "__qualname__": "Demo"}),
        type("Observation", (Named,), {"__module__": "rlbench.backend.observation", "__qualname__": "Observation"}),
    )


DEMO, OBSERVATION = classes()


def dump(path: Path, content: Any, protocol: int = 4) -> None:
    modules = {name: types.ModuleType(name) for name in ("rlbench", "rlbench.demo", "rlbench.backend",
                                                         "rlbench.backend.observation")}  # fmt: skip
    modules["rlbench.demo"].Demo = DEMO  # type: ignore[attr-defined]
    modules["rlbench.backend.observation"].Observation = OBSERVATION  # type: ignore[attr-defined]
    sys.modules |= modules
    try:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    finally:
        for name in modules:
            del sys.modules[name]


def motion(seed: int, *, keyframes: int = 2, between: int = 6) -> dict[str, np.ndarray]:
    """Return a dense episode: the arm moves, rests while the gripper changes, and moves again."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform([0.0, -0.3, 0.8], [0.4, 0.3, 1.2], (keyframes + 1, 3))
    places, opened = [corners[0]], [1.0]
    for leg in range(keyframes):
        for step in range(1, between + 1):
            places.append(corners[leg] + (corners[leg + 1] - corners[leg]) * step / between)
            opened.append(float(leg % 2 == 0) if step < between else float(leg % 2 == 1))
    poses = np.zeros((len(places), 7))
    poses[:, :3], poses[:, 3:] = places, [0, -1.0, 0, 0]
    moving = np.full((len(places), 7), 0.5)
    moving[0] = 0
    return {"poses": poses, "opened": np.array(opened), "velocities": moving,
            "joints": np.cumsum(moving, 0) * 0.05, "keyframes": np.arange(1, keyframes + 1) * between}  # fmt: skip


def frames(moved: dict[str, np.ndarray], **changes: Any) -> list[Any]:
    """Return observations without images, as they are pickled."""
    made = []
    for number in range(len(moved["poses"])):
        about: dict[str, Any] = {}
        for place, name in enumerate(CAMERAS):
            pose = np.eye(4)
            pose[:3, 3] = place, number, 1.5
            about[f"{name}_camera_intrinsics"] = np.array([[-20.0, 0, 8], [0, -20.0, 8], [0, 0, 1]])
            about[f"{name}_camera_extrinsics"] = pose
            about[f"{name}_camera_near"], about[f"{name}_camera_far"] = NEAR, FAR
        fields = {
            "joint_velocities": moved["velocities"][number],
            "joint_positions": moved["joints"][number],
            "gripper_pose": moved["poses"][number],
            "gripper_open": moved["opened"][number],
            "gripper_joint_positions": np.array([0.04, 0.04]) * moved["opened"][number],
            "front_rgb": None,
            "misc": about,
        }
        made.append(OBSERVATION(**{**fields, **changes}))
    return made


def colours(seed: int, number: int, camera: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, number, camera)).integers(0, 256, (size, size, 3), np.uint8)


def depth_image(depth: np.ndarray) -> np.ndarray:
    whole = np.round(depth * (2**24 - 1)).astype(np.int64)
    return np.stack([whole >> 16, whole >> 8 & 255, whole & 255], axis=-1).astype(np.uint8)


def store(folder: Path, seed: int, *, size: int = 16, protocol: int = 4, **changes: Any) -> dict[str, np.ndarray]:
    """Write an episode's images and low_dim_obs.pkl."""
    moved = motion(seed)
    folder.mkdir(parents=True)
    demo = DEMO(_observations=frames(moved, **changes), random_seed=np.random.RandomState(seed).get_state())
    dump(folder / "low_dim_obs.pkl", demo, protocol)
    for place, name in enumerate(CAMERAS):
        for kind in ("rgb", "depth"):
            (folder / f"{name}_{kind}").mkdir()
        for number in range(len(moved["poses"])):
            Image.fromarray(colours(seed, number, place, size)).save(folder / f"{name}_rgb" / f"{number}.png")
            depth = np.linspace(0.2, 0.9, size * size).reshape(size, size)
            Image.fromarray(depth_image(depth)).save(folder / f"{name}_depth" / f"{number}.png")
    return moved


def original(root: Path, *, variations: int = 3, episodes: int = 4, **changes: Any) -> Path:
    for variation in range(variations):
        for number in range(episodes):
            store(root / f"variation{variation}" / "episodes" / f"episode{number}", variation * 100 + number, **changes)
        dump(root / f"variation{variation}" / "variation_descriptions.pkl", [f"do it {variation}", f"make {variation}"])
    return root


def peract(root: Path, *, variations: int = 3, episodes: int = 12, **changes: Any) -> Path:
    for number in range(episodes):
        folder = root / "all_variations" / "episodes" / f"episode{number}"
        store(folder, number, **changes)
        dump(folder / "variation_number.pkl", number % variations)
        dump(folder / "variation_descriptions.pkl", [f"do it {number % variations}"])
    return root


def windows(
    path: Path, seeds: list[int], *, shuffled: bool = False, size: int = 16, task: str = "reach_target"
) -> Path:
    """Write windows of four frames as the release does: every frame, each followed by its future keyframes."""
    columns: dict[str, list[Any]] = {}
    for variation, seed in enumerate(seeds):
        moved = motion(seed)
        count, ahead = len(moved["poses"]), moved["keyframes"].tolist()
        rows = []
        for number in range(count - 1):
            ahead = [one for one in ahead if one > number]
            action = [*moved["poses"][ahead[0], :3], 0, 1, 0, 0, moved["opened"][ahead[0]]]
            time = (1 - number / (count - 1)) * 2 - 1
            rows += [(shown, action, time) for shown in (number, number, *ahead[:-1])]
        for place in range(len(rows)):
            window = [rows[max(place - back, 0)] for back in (3, 2, 1, 0)]
            of = [one for one, _, _ in window]
            fields = {
                "gripper_pose": moved["poses"][of],
                "gripper_open": moved["opened"][of][:, None],
                "gripper_joint_positions": np.repeat(moved["opened"][of][:, None] * 0.04, 2, axis=1),
                "cont_action": [action for _, action, _ in window],
                "time": [[time] for _, _, time in window],
                "variation_id": np.full((4, 1), variation),
            }
            fields |= {f"{n}_rgb": [colours(seed, one, k, size) for one in of] for k, n in enumerate(CAMERAS)}
            for name, value in fields.items():
                columns.setdefault(name, []).append(np.asarray(value))
    count = len(columns["time"])
    order = np.random.default_rng(0).permutation(count) if shuffled else np.arange(count)
    kinds = {"variation_id": np.uint8, "gripper_pose": np.float64, "gripper_joint_positions": np.float64}
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            kind = np.uint8 if name.endswith("rgb") else kinds.get(name, np.float32)
            file[name] = np.stack(values)[order].astype(kind)
        text = file.create_dataset("task_id", (count, 4), h5py.vlen_dtype(np.uint8))
        text[0, 0] = np.frombuffer(task.encode(), np.uint8)
    return path
