"""Rendering: correct geometry, agreement of both renderers, distinguishable colours, and OpenGL failures."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.sim import EpisodeStart, available_renderer, egl_devices, rendering
from instructrl.sim.egl_devices import cuda_numbers
from instructrl.sim.mujoco.cameras import extrinsics, intrinsics
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.raycast import Raycaster
from instructrl.sim.tabletop.render import make_renderer
from instructrl.sim.tabletop.scene import CAMERAS, MOVING_GROUP
from instructrl.sim.tabletop.world import World

RENDERERS = ["raycast", "opengl"]
RADIUS = 0.04
BALL = f'<body name="ball" mocap="true"><geom name="ball" class="marker" type="sphere" size="{RADIUS}"/></body>'
GLASS = (
    '<body name="glass" mocap="true"><geom name="glass" class="glass" type="sphere" size=".06" rgba="1 1 1 .5"/></body>'
)


def need(renderer: str) -> None:
    if renderer == "opengl" and rendering.opengl_backend() is None:
        pytest.skip("OpenGL does not work on this machine")


def ball_world(*, extra: str = "") -> World:
    world = World(BALL + extra)
    world.reset()
    world.color("ball", (1.0, 0.0, 0.0))
    return world


def put_ball(world: World, point: np.ndarray) -> None:
    world.place("ball", point)
    world.refresh()


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("size", [37, 64, 200])
def test_known_points_are_found_where_the_matrices_say(renderer: str, size: int) -> None:
    """The ball's centre projects onto red pixels, and the depth there leads back to its surface."""
    need(renderer)
    world, rng, found = ball_world(), np.random.default_rng(0), 0
    drawer = make_renderer(renderer, world.model, size)
    for _ in range(12):
        point = rng.uniform((0.0, -0.3, 0.8), (0.45, 0.3, 1.2))
        put_ball(world, point)
        for name in CAMERAS:
            camera = world.model.camera(name).id
            inner, outer = intrinsics(world.model, camera, size), extrinsics(world.data, camera)
            eye = outer[:3, :3].T @ (point - outer[:3, 3])
            column, row, _ = (inner @ eye / eye[2]).tolist()
            if eye[2] < 0.1 or not (1 <= column < size - 1 and 1 <= row < size - 1):
                continue
            image, depth = drawer.draw(world.data, camera), drawer.depth(world.data, camera)
            metres = float(depth[int(row), int(column)])
            if metres < eye[2] - RADIUS - 0.02:
                continue  # the arm is in front of it
            found += 1
            red, green, blue = image[int(row), int(column)].astype(int)
            assert red > 100 > max(green, blue) + 60
            ray = np.linalg.inv(inner) @ (int(column) + 0.5, int(row) + 0.5, 1.0)
            surface = outer[:3, :3] @ (ray * metres) + outer[:3, 3]
            assert abs(np.linalg.norm(surface - point) - RADIUS) < 2e-3
    drawer.close()
    assert found > 20


def test_both_renderers_give_the_same_picture() -> None:
    need("opengl")
    for task in ("reach_target", "push_button", "pick_and_lift"):
        images, depths = [], []
        for renderer in RENDERERS:
            env = Tabletop(task, cameras=CAMERAS, image_size=128, renderer=renderer)
            images.append(env.reset(EpisodeStart(3, 11)).images.astype(int))
            depths.append(env.depths())
            env.close()
        gap = np.abs(images[0] - images[1]).max(axis=-1)
        assert gap.mean() < 1.0
        assert (gap > 20).mean() < 0.01  # edges
        assert (np.abs(depths[0] - depths[1]) < 2e-3).mean() > 0.99


@pytest.mark.parametrize("renderer", RENDERERS)
def test_any_two_colors_can_be_told_apart(renderer: str) -> None:
    """On the ball in the front camera: the lit pixels of each colour are closer to its own mean than to another's."""
    need(renderer)
    world = ball_world()
    put_ball(world, np.array([0.3, 0.1, 0.9]))
    camera, drawer = world.model.camera("front").id, make_renderer(renderer, world.model, 256)
    empty = drawer.depth(world.data, camera)
    put_ball(world, np.array([0.3, -0.1, 0.9]))
    mask = np.abs(drawer.depth(world.data, camera) - empty) > 0.02
    mask[:, :128] = False  # one of the two places
    means = []
    for name in COLOR_NAMES:
        world.color("ball", COLORS[name])
        put_ball(world, np.array([0.3, 0.1, 0.9]))
        means.append(drawer.draw(world.data, camera)[mask].astype(float).mean(axis=0))
    table = drawer.draw(world.data, camera)[-5, 128].astype(float)
    drawer.close()
    assert mask.sum() > 100
    every = np.array([*means, table])
    gaps = np.linalg.norm(every[:, None] - every[None], axis=-1) + 1e3 * np.eye(len(every))
    first, second = np.unravel_index(gaps.argmin(), gaps.shape)
    names = (*COLOR_NAMES, "table")
    assert gaps.min() > 35, f"{names[first]} and {names[second]} differ by {gaps.min():.0f}"


@pytest.mark.parametrize("renderer", RENDERERS)
def test_glass_is_seen_through(renderer: str) -> None:
    need(renderer)
    world, point = ball_world(extra=GLASS), np.array([0.25, 0.0, 1.0])
    camera, drawer = world.model.camera("front").id, make_renderer(renderer, world.model, 128)
    seen = []
    for place in ((0.0, 0.3, 1.0), point):
        world.place("glass", np.array(place))
        put_ball(world, point)
        inner, outer = intrinsics(world.model, camera, 128), extrinsics(world.data, camera)
        eye = inner @ outer[:3, :3].T @ (point - outer[:3, 3])
        seen.append(drawer.draw(world.data, camera)[int(eye[1] / eye[2]), int(eye[0] / eye[2])].astype(int))
        assert drawer.depth(world.data, camera)[int(eye[1] / eye[2]), int(eye[0] / eye[2])] == pytest.approx(
            np.linalg.norm(point - outer[:3, 3]) - RADIUS, abs=4e-3
        )
    drawer.close()
    clear, veiled = seen
    assert clear[0] > clear[1] + 80  # red
    assert veiled[1] > clear[1] + 60  # and whiter through the glass, but still red
    assert veiled[0] > veiled[1] + 30


def test_the_short_cuts_of_the_ray_caster_change_nothing() -> None:
    """Cached backgrounds and rectangles around moving geoms, against casting every ray again."""
    rng, kept = np.random.default_rng(3), None
    world = ball_world()
    for _ in range(6):
        world.data.qpos[world.arm] = rng.uniform(-0.6, 0.6, 7) + (0, 0.4, 0, -1.6, 0, 1.9, 0.8)
        put_ball(world, rng.uniform((0.0, -0.3, 0.8), (0.45, 0.3, 1.2)))
        kept = kept or Raycaster(world.model, 96)
        thorough = Raycaster(world.model, 96)
        thorough._near = lambda *_, **__: np.arange(96 * 96)  # type: ignore[method-assign]
        for camera in range(world.model.ncam):
            np.testing.assert_array_equal(kept.draw(world.data, camera), thorough.draw(world.data, camera))
            np.testing.assert_array_equal(kept.depth(world.data, camera), thorough.depth(world.data, camera))


def test_rays_meet_every_part_of_a_body() -> None:
    """Geoms without collisions and geoms of bodies with rotated inertia, against single rays."""
    size, camera_name = 48, "front"
    world = ball_world(
        extra='<body name="odd" mocap="true">'
        '<geom class="prop" type="box" size=".02 .02 .02"/>'
        '<geom class="prop" type="box" pos=".02 .26 0" size=".05 .05 .01"/>'
        '<geom class="marker" type="capsule" fromto="0 -.05 0 0 -.30 .05" size=".02"/>'
        "</body>"
    )
    world.place("odd", np.array([0.2, 0.0, 0.9]), yaw=0.4)
    world.refresh()
    camera, drawer = world.model.camera(camera_name).id, Raycaster(world.model, size)
    depth = drawer.depth(world.data, camera)
    inner, outer = intrinsics(world.model, camera, size), extrinsics(world.data, camera)
    met: set[int] = set()
    for row in range(size):
        for column in range(size):
            ray = outer[:3, :3].astype(float) @ np.linalg.inv(inner) @ (column + 0.5, row + 0.5, 1.0)
            geom = np.array([-1], np.int32)
            metres = mujoco.mj_ray(world.model, world.data, world.data.cam_xpos[camera], ray, None, True, -1, geom)
            assert geom[0] < 0 or depth[row, column] == pytest.approx(metres, abs=1e-3)
            met.add(int(geom[0]))
    odd = world.model.body("odd").id
    assert set(np.flatnonzero(world.model.geom_bodyid == odd)) <= met


def test_the_workspace_is_in_view() -> None:
    """Corners excepted: of the tasks' workspace, most is visible in the front camera, all in some camera."""
    world = ball_world()
    world.refresh()
    grid = np.stack(np.meshgrid(np.linspace(0, 0.45, 10), np.linspace(-0.32, 0.32, 10), np.linspace(0.78, 1.22, 8)), -1)
    points, seen = grid.reshape(-1, 3), []
    for name in CAMERAS[:3]:
        camera = world.model.camera(name).id
        inner, outer = intrinsics(world.model, camera, 100), extrinsics(world.data, camera)
        eye = (points - outer[:3, 3]) @ outer[:3, :3] @ inner.T
        seen.append(((eye[:, :2] / eye[:, 2:] > 0) & (eye[:, :2] / eye[:, 2:] < 100)).all(axis=1))
    assert seen[0].mean() > 0.97
    assert np.logical_or.reduce(seen).all()


def test_robot_is_drawn() -> None:
    """The arm is visible in every fixed camera and not in the group that the ray caster renders only once."""
    world = ball_world()
    world.refresh()
    drawer = Raycaster(world.model, 128)
    arm = [geom for geom in range(world.model.ngeom) if world.model.geom_bodyid[geom] > world.model.body("base").id]
    assert (world.model.geom_group[arm] == MOVING_GROUP).all()
    for name in CAMERAS[:3]:
        camera = world.model.camera(name).id
        bright = drawer.draw(world.data, camera).min(axis=-1) > 140
        assert bright.mean() > 0.01


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if key not in ("INSTRUCTRL_GL", "MUJOCO_GL")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**inherited, **environment}, check=False
    )


def test_a_broken_choice_of_backend_is_survived() -> None:
    done = run_python(
        "from instructrl.sim import available_renderer\n"
        "import instructrl.sim.tabletop.env, os\n"
        "print(available_renderer('raycast'), available_renderer('auto'), os.environ['MUJOCO_GL'])",
        MUJOCO_GL="bogus",
    )
    assert done.returncode == 0, done.stderr
    first, second, kept = done.stdout.split()
    assert (first, kept) == ("raycast", "bogus")
    assert second in ("raycast", "opengl")


def test_devices_without_a_number_of_cuda_are_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cuda_numbers(os.environ)
    assert all(number is None or number >= 0 for number in found)
    assert found or rendering.opengl_backend() != "egl"
    monkeypatch.setattr(egl_devices, "_QUERY", "import os; os.abort()")
    assert cuda_numbers(os.environ) == []
    monkeypatch.setattr(egl_devices, "_QUERY", "print('no list')")
    assert cuda_numbers(os.environ) == []


def test_opengl_is_not_promised_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTRL_GL", "none")
    assert available_renderer("auto") == "raycast"
    with pytest.raises(InputError, match=r"sim\.renderer=raycast"):
        available_renderer("opengl")
    with pytest.raises(InputError, match="expected one of auto, opengl, raycast"):
        available_renderer("vulkan")


def test_the_probe_runs_once_and_children_inherit_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTRUCTRL_GL", raising=False)
    calls: list[str] = []
    monkeypatch.setattr(rendering, "_works", lambda name: calls.append(name) or name == "osmesa")
    monkeypatch.setattr(rendering, "_candidates", lambda: ["egl", "osmesa", "glfw"])
    assert [available_renderer("auto"), available_renderer("opengl")] == ["opengl", "opengl"]
    assert calls == ["egl", "osmesa"]
    assert os.environ["INSTRUCTRL_GL"] == "osmesa"


@pytest.mark.skipif(rendering.opengl_backend() != "egl", reason="EGL does not work on this machine")
@pytest.mark.parametrize(("numbers", "device"), [([0], "0"), ([5, 0], None), ([], None)])
def test_the_device_of_the_gpu_is_used_if_it_renders_and_inherited(
    monkeypatch: pytest.MonkeyPatch, numbers: list[int], device: str | None
) -> None:
    for name in ("INSTRUCTRL_GL", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.setenv(name, "")  # and takes back what is chosen
        del os.environ[name]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(egl_devices, "cuda_numbers", lambda _: numbers)
    assert rendering.opengl_backend() == "egl", "MuJoCo chooses where there is no second device"
    assert os.environ.get("MUJOCO_EGL_DEVICE_ID") == device


def test_a_probe_that_fails_or_crashes_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not rendering._works("nonsense")
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.abort()")
    assert not rendering._works("egl")
    monkeypatch.setattr(rendering, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(rendering, "_PROBE_SECONDS", 0.5)
    assert not rendering._works("egl")
