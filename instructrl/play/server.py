"""The page to type at, served to browsers on this machine: files by HTTP, and the scene over a websocket.

All pages show the same scene. A page sends a map in JSON, one of

    {"do": "obey", "text": SENTENCE}                    with "task" and "variation": in a scene that offers that goal
    {"do": "scene", "task": NAME, "seed": NUMBER}
    {"do": "restart"}
    {"do": "view", "azimuth": DEGREES, "elevation": DEGREES, "distance": METRES}

and is sent maps, whose "kind" is scene, image, sight, line or busy.
"""

import asyncio
import base64
import io
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from socket import socket
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from websockets.asyncio.server import Request, Response, ServerConnection, broadcast, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from instructrl.errors import InputError, UserError, format_value
from instructrl.package_files import PLAY_PAGE, REPORT_STYLE
from instructrl.play.drawing import heat_layer
from instructrl.play.sentences import Goal, Sentence
from instructrl.play.session import Session, Sight
from instructrl.sim import Outcome
from instructrl.sim.tabletop.render import View

T = TypeVar("T")
SIZE = 480  # pixels of the scene's image
LARGEST_MESSAGE = 10_000  # bytes
REMEMBERED = 40  # lines that a page is sent when it opens
FRAME_SECONDS = 0.06  # at least, between two images of a motion
CLOSE_TIMEOUT = 2.0  # seconds in which a browser shall answer that the connection ends
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FILES = {  # path -> type, and the files that it consists of
    "/": ("text/html; charset=utf-8", (PLAY_PAGE / "page.html",)),
    "/page.css": ("text/css; charset=utf-8", (REPORT_STYLE, PLAY_PAGE / "page.css")),
    "/page.js": ("text/javascript; charset=utf-8", (PLAY_PAGE / "page.js",)),
}
VIEW_BOUNDS = {"azimuth": (-1e6, 1e6), "elevation": (-5.0, 85.0), "distance": (0.6, 3.0)}
SEEDS = (0, 2**31 - 1)
SAID = {
    Outcome.SUCCESS: "Done.",
    Outcome.FAILURE: "That was the wrong one.",
    Outcome.TIME_LIMIT: "I did not manage it in as many keyframes as the task allows.",
    Outcome.UNREACHABLE: "I cannot move there.",
}


class PlayServer:
    """Lets pages in browsers type at one session."""

    def __init__(self, session: Session) -> None:
        """Prepare to serve a session that nobody else uses, from now on in a thread of its own."""
        self._session, self._thread = session, ThreadPoolExecutor(1, "simulator")
        self._pages: set[ServerConnection] = set()
        self._latest: dict[str, dict[str, Any]] = {}  # by kind, of what a page that opens is sent
        self._lines: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._command: asyncio.Task[None] | None = None  # what is being done
        self._drawn = 0.0  # when the last image of a motion was sent, seconds

    async def run(
        self,
        listener: socket,
        *,
        first: Sentence,
        seed: int,
        obey: str | None,
        ready: Callable[[], None],
        stop: asyncio.Event,
    ) -> None:
        """Serve on a bound socket until `stop` is set.

        Args:
            listener: the socket.
            first: sentence of the first scene.
            seed: of that scene.
            obey: what is typed first of all, which means `first`; None: nothing.
            ready: called when pages can be opened.
            stop: ends the server.
        """
        self._loop, self._stop = asyncio.get_running_loop(), stop
        try:
            await self._open(first.goal, seed)
            async with serve(
                self._converse,
                sock=listener,
                process_request=_admit,
                max_size=LARGEST_MESSAGE,
                close_timeout=CLOSE_TIMEOUT,
            ) as server:
                ready()
                if obey is not None:
                    self._begin(self._obey(obey, first.goal))
                await stop.wait()
                server.close(code=CloseCode.GOING_AWAY, reason="the server was stopped")
            if self._command is not None:
                await self._command
        finally:
            await self._in_thread(self._session.close)
            self._thread.shutdown()

    async def _converse(self, page: ServerConnection) -> None:
        """Serve one page."""
        for message in (*self._latest.values(), *self._lines):
            broadcast({page}, json.dumps(message))  # at once, before any news
        self._pages.add(page)
        try:
            async for text in page:
                try:
                    await self._do(_read(text))
                except InputError as error:
                    await page.send(json.dumps(_line("robot", str(error), tone="bad")))
        except ConnectionClosed:
            pass
        finally:
            self._pages.discard(page)

    async def _do(self, message: dict[str, Any]) -> None:
        """Do what a page asks for.

        Raises:
            InputError: it is nothing that can be done, or something else is being done.
        """
        action = message.get("do")
        if action == "view":
            self._session.look(View(**{key: _number(message, key, *VIEW_BOUNDS[key]) for key in VIEW_BOUNDS}))
            if not self._busy:
                await self._show_image()
            return
        if action == "obey":
            command = self._obey(_text(message, "text"), self._goal(message) if "task" in message else None)
        elif action == "scene":
            task, seed = _text(message, "task"), int(_number(message, "seed", *SEEDS))
            command = self._open(self._goal({"task": task, "variation": seed % self._variations(task)}), seed)
        elif action == "restart":
            command = self._restart()
        else:
            raise InputError(f"do: found {format_value(action)}; allowed: obey, scene, restart, view")
        if self._busy:
            command.close()
            raise InputError("The arm is moving; ask again when it rests.")
        self._begin(command)

    @property
    def _busy(self) -> bool:
        return self._command is not None and not self._command.done()

    def _begin(self, command: Coroutine[Any, Any, None]) -> None:
        """Begin a command, of which there is one at a time; pages go on being served."""

        async def run() -> None:
            self._tell({"kind": "busy", "busy": True})
            try:
                await command
            except UserError as error:
                self._say(_line("robot", str(error), tone="bad"))
            except BaseException:  # a fault of the program: `run` raises it
                self._stop.set()
                raise
            finally:
                self._tell({"kind": "busy", "busy": False})

        self._command = asyncio.create_task(run())

    async def _obey(self, text: str, goal: Goal | None) -> None:
        """Let the agent obey what was typed, in another scene if it asks for a goal that this one does not offer."""
        self._say(_line("you", text))
        if goal is None:
            reading = self._session.sentences.read(text, self._session.goals)
            if reading.sentence is None:
                return self._say(_line("robot", f"{_begun(reading.problem)}:", suggestions=reading.suggestions))
            goal = reading.sentence.goal
            if reading.sentence.text != text.strip().lower():
                self._say(_line("robot", f"I take it for \u201c{reading.sentence.text}\u201d."))
        elif goal not in self._session.goals:
            await self._open(goal, self._session.start.seed)
        outcome = await self._in_thread(
            self._session.obey, text, goal, size=SIZE, see=self._from_thread(_sight), film=self._from_thread(_image)
        )
        await self._show_image()  # of the cameras, the last keyframe with its heatmaps stays
        said = SAID.get(outcome, f"It ended with {outcome.replace('_', ' ')}.")
        self._say(_line("robot", said, tone="good" if outcome is Outcome.SUCCESS else "bad"))
        return None

    async def _open(self, goal: Goal, seed: int) -> None:
        await self._in_thread(self._session.open, goal, seed)
        session = self._session
        self._tell(
            {
                "kind": "scene",
                "tasks": session.tasks,
                "task": goal.task,
                "seed": seed,
                "cameras": session.cameras,
                "sentences": [_sentence(one) for one in session.sentences.first(session.goals)],
            }
        )
        await self._show()

    async def _restart(self) -> None:
        await self._in_thread(self._session.restart)
        await self._show()

    async def _show(self) -> None:
        """Send what is to be seen now."""
        self._tell(_sight(await self._in_thread(self._session.sight)))
        await self._show_image()

    async def _show_image(self) -> None:
        self._tell(_image(await self._in_thread(partial(self._session.image, size=SIZE))))

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message to all pages; those that open later are sent the last one of its kind."""
        self._latest[message["kind"]] = message
        broadcast(self._pages, json.dumps(message))

    def _say(self, line: dict[str, Any]) -> None:
        """Send a line to all pages, also to those that open later."""
        self._lines.append(line)
        broadcast(self._pages, json.dumps(line))

    async def _in_thread(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        return await self._loop.run_in_executor(self._thread, partial(function, *arguments, **options))

    def _from_thread(self, describe: Callable[[Any], dict[str, Any]]) -> Callable[[Any], None]:
        """A function for the simulator's thread that sends what it is given, images not too fast for the eye."""

        def tell(found: Any) -> None:
            if describe is _image:
                time.sleep(max(0.0, self._drawn + FRAME_SECONDS - time.monotonic()))
                self._drawn = time.monotonic()
            self._loop.call_soon_threadsafe(self._tell, describe(found))

        return tell

    def _variations(self, task: str) -> int:
        return max(len(self._session.sentences.goals_of(task)), 1)

    def _goal(self, message: dict[str, Any]) -> Goal:
        """The goal that a message names, which the session knows."""
        goal = Goal(_text(message, "task"), int(_number(message, "variation", *SEEDS)))
        if goal not in self._session.sentences.by_goal:
            raise InputError(f"task: found {format_value(goal.task)}, variation {goal.variation}; allowed: those shown")
        return goal


def _admit(connection: ServerConnection, request: Request) -> Response | None:
    """Answer what is no websocket, and what no page of this machine asks."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if _hostname(host) not in LOOPBACK or origin not in (None, f"http://{host}"):
        return connection.respond(HTTPStatus.FORBIDDEN, "only for pages of this machine\n")
    if request.path == "/socket":
        return None
    if request.path not in FILES:
        return connection.respond(HTTPStatus.NOT_FOUND, "no such page\n")
    kind, paths = FILES[request.path]
    content = b"\n".join(path.read_bytes() for path in paths)
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", **HEADERS})
    return Response(HTTPStatus.OK.value, HTTPStatus.OK.phrase, headers, content)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _read(text: str | bytes) -> dict[str, Any]:
    """The map in a message."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise InputError("message: found no map in JSON")
    return message


def _text(message: dict[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise InputError(f"{key}: found {format_value(value)}; allowed: a text")
    return value


def _number(message: dict[str, Any], key: str, low: float, high: float) -> float:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{key}: found {format_value(value)}; allowed: a number in {low:g}..{high:g}")
    return value


def _line(who: str, text: str, *, tone: str = "", suggestions: Sequence[Sentence] = ()) -> dict[str, Any]:
    """A line of the conversation, with sentences to choose from."""
    return {
        "kind": "line", "who": who, "text": text, "tone": tone, "suggestions": [_sentence(one) for one in suggestions]
    }  # fmt: skip


def _sentence(sentence: Sentence) -> dict[str, Any]:
    return {"text": sentence.text, **sentence.goal._asdict()}


def _image(image: np.ndarray) -> dict[str, Any]:
    return {"kind": "image", "image": data_url(Image.fromarray(image), "JPEG")}


def _sight(sight: Sight) -> dict[str, Any]:
    heatmaps = () if sight.heatmaps is None else sight.heatmaps
    return {
        "kind": "sight",
        "images": [data_url(Image.fromarray(image), "PNG") for image in sight.images],
        "heatmaps": [data_url(heat_layer(heatmap), "PNG") for heatmap in heatmaps],
    }


def data_url(image: Image.Image, form: str) -> str:
    """An image as a page shows it."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _begun(text: str) -> str:
    """A text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
