"use strict";
// The page's side of the protocol that server.py describes.
const by = (id) => document.getElementById(id);
const view = { azimuth: -35, elevation: 21, distance: 1.9 };
let socket, scene, wanted = false, waiting = false;

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
  socket.onopen = () => { by("log").replaceChildren(); by("status").hidden = true; waiting = false; };
  socket.onmessage = (event) => { const message = JSON.parse(event.data); show[message.kind](message); };
  socket.onclose = () => {
    by("status").hidden = false;
    by("status").textContent = "The robot is gone. Start it again: python -m instructrl.play";
    setTimeout(connect, 2000);
  };
}

const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const choices = (sentences) => sentences.map((one) => make("button", {
  type: "button", textContent: one.text, onclick: () => send({ do: "obey", ...one }),
}));

const show = {
  scene(message) {
    scene = message;
    by("task").replaceChildren(...scene.tasks.map((name) => make("option", { value: name, textContent: name.replaceAll("_", " ") })));
    by("task").value = scene.task;
    by("seed").value = scene.seed;
    by("sentences").replaceChildren(...choices(scene.sentences));
    by("text").placeholder = scene.sentences[0].text;
  },
  image(message) {
    by("image").src = message.image;
    waiting = false;
    if (wanted) look();
  },
  sight(message) {
    by("sight").replaceChildren(...message.images.map((image, number) => {
      const layers = [make("img", { src: image, alt: "" })];
      if (message.heatmaps.length) layers.push(make("img", { src: message.heatmaps[number], alt: "", className: "layer" }));
      return make("figure", {}, make("div", {}, ...layers), make("figcaption", { textContent: scene.cameras[number].replaceAll("_", " ") }));
    }));
  },
  line(message) {
    const line = make("div", { className: `${message.who} ${message.tone}` }, message.text);
    if (message.suggestions.length) line.append(make("div", { className: "choices" }, ...choices(message.suggestions)));
    by("log").append(line);
    by("log").scrollTop = by("log").scrollHeight;
  },
  busy(message) {
    document.body.dataset.busy = message.busy;
  },
};

// At most one image is asked for at a time, so that a slow renderer is never behind the hand.
function look() {
  wanted = waiting;
  if (waiting) return;
  waiting = true;
  send({ do: "view", ...view });
}

const bounded = (value, low, high) => Math.min(Math.max(value, low), high);

by("image").onpointerdown = (event) => {
  event.target.setPointerCapture(event.pointerId);
  event.target.classList.add("held");
};
by("image").onpointermove = (event) => {
  if (!event.target.hasPointerCapture(event.pointerId)) return;
  view.azimuth -= event.movementX * 0.5;
  view.elevation = bounded(view.elevation + event.movementY * 0.4, -5, 85);
  look();
};
by("image").onlostpointercapture = (event) => event.target.classList.remove("held");
by("image").addEventListener("wheel", (event) => {
  event.preventDefault();
  view.distance = bounded(view.distance * Math.exp(event.deltaY / 800), 0.6, 3);
  look();
}, { passive: false });

by("heat").onchange = (event) => by("sight").classList.toggle("cold", !event.target.checked);
by("say").onsubmit = (event) => {
  event.preventDefault();
  send({ do: "obey", text: by("text").value });
  by("text").value = "";
};
by("change").onsubmit = (event) => {
  event.preventDefault();
  send({ do: "scene", task: by("task").value, seed: Number(by("seed").value) });
};
by("task").onchange = () => by("change").requestSubmit();
by("another").onclick = () => send({ do: "scene", task: by("task").value, seed: scene.seed + 1 });
by("restart").onclick = () => send({ do: "restart" });

connect();
