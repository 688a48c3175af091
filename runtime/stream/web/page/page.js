// The page: what comes over the WebSocket is shown, what is pressed is sent to /control.
import { Curve } from "./curve.js";
import { photographs } from "./photo.js";
import { Picture } from "./picture.js";
import { list } from "./sentences.js";

const $ = (id) => document.getElementById(id);
const picture = new Picture($("picture"));
const latency = new Curve("Latency", { svg: $("latency"), now: $("latency-now"), note: $("latency-note") });
const age = new Curve("Frame age", { svg: $("age"), now: $("age-now"), note: $("age-note") });

let socket = null, retry = 500, connected = false, lastPicture = 0;
let paused = false, attention = false, options = null, dragging = false;
let newest = null; // the caption that came last
let shown = null; // the caption that is on the page: the newest, or the one that is held
let held = false, word = null; // a caption is held while somebody looks at its words; word is an index

// --- The connection

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    connected = true;
    retry = 500;
    next();
  };
  socket.onmessage = ({ data }) => (typeof data === "string" ? receive(JSON.parse(data)) : show(data));
  socket.onclose = async () => {
    connected = false;
    status();
    setTimeout(connect, retry);
    retry = Math.min(8000, retry * 2);
    // A stream that was started again may have another token.
    const answer = await fetch("/control").catch(() => null);
    if (answer?.status === 401) location.reload();
  };
}

// Asks for the next picture. A tab that nobody sees waits with that.
function next() {
  if (document.hidden) document.addEventListener("visibilitychange", next, { once: true });
  else if (socket.readyState === WebSocket.OPEN) socket.send("next");
}

async function show(data) {
  try {
    await picture.show(data.slice(8)); // after the frame's number
    lastPicture = performance.now();
  } finally {
    requestAnimationFrame(next);
  }
}

function receive(message) {
  if (message.type === "hello") hello(message);
  else if (message.type === "state") state(message);
  else if (message.type === "caption") caption(message);
  status();
}

function hello({ source, bundle, backend, precision, pixels, history }) {
  $("source").textContent = source;
  $("source").title = source;
  $("about").textContent = `${bundle}, ${precision} on ${backend}`;
  document.title = `${source} · camscribe`;
  picture.pixels = pixels;
  age.history = history.map(([value]) => value);
  latency.history = history.map(([, value]) => value);
  lastPicture = performance.now();
}

// --- Captions and attention

function caption(message) {
  const bytes = Uint8Array.from(atob(message.attention), (c) => c.charCodeAt(0));
  newest = { ...message, weights: bytes };
  age.add(message.age_ms);
  latency.add(message.latency_ms);
  if (!held) render();
}

function render() {
  if (!newest) return;
  const changed = shown?.words.join(" ") !== newest.words.join(" ");
  shown = newest;
  if (changed) {
    const words = shown.words.map((text, index) => {
      const button = document.createElement("button");
      button.className = "word";
      button.type = "button";
      button.textContent = text;
      button.dataset.index = index;
      button.setAttribute("aria-pressed", "false");
      return button;
    });
    $("caption").replaceChildren(...(words.length ? words.flatMap((each) => [each, " "]) : ["(no words)"]));
  }
  list($("sentences"), shown.hypotheses);
  heat();
}

// The map (or the boxes) of the word that is pointed at; else, if asked for, the mean over all words.
function heat() {
  if (!shown || !shown.words.length || (word === null && !attention)) {
    picture.heat = null;
    return;
  }
  const [rows, columns] = shown.grid, size = rows * columns;
  let weights = shown.weights.subarray((word ?? 0) * size, ((word ?? 0) + 1) * size);
  if (word === null) {
    weights = new Float32Array(size);
    shown.weights.forEach((value, index) => (weights[index % size] += value / shown.words.length));
    const top = Math.max(...weights, 1);
    // The mean is flat beside the map of a word; the square brings out where most of it lies.
    weights = weights.map((value) => 255 * (value / top) ** 2);
  }
  picture.heat = shown.boxes ? { weights, boxes: shown.boxes } : { weights, rows, columns };
}

async function hold() {
  if (held || !shown) return;
  held = true;
  status();
  const mine = shown;
  const answer = await fetch(`/frame.jpg?sequence=${mine.sequence}`).catch(() => null);
  const jpeg = answer?.ok ? await answer.blob().catch(() => null) : null;
  if (held && shown === mine) await picture.hold(jpeg);
  if (!held) picture.release(); // let go meanwhile
}

function release() {
  if (!held) return;
  held = false;
  point(null);
  picture.release();
  render();
  status();
}

function point(index) {
  word = index;
  for (const each of document.querySelectorAll(".word")) {
    each.setAttribute("aria-pressed", String(Number(each.dataset.index) === index));
  }
  heat();
}

const said = $("caption");
let pointer = "mouse"; // what pressed last; not all browsers say it with the click
document.addEventListener("pointerdown", (event) => (pointer = event.pointerType), { capture: true });
const indexOf = (event) => event.target.closest?.(".word")?.dataset.index;
said.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && hold());
said.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && release());
said.addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse") point(indexOf(event) === undefined ? null : Number(indexOf(event)));
});
said.addEventListener("focusin", (event) => {
  if (event.target.matches(":focus-visible")) {
    hold();
    point(Number(indexOf(event)));
  }
});
said.addEventListener("focusout", (event) => said.contains(event.relatedTarget) || said.matches(":hover") || release());
// A finger does not hover: it taps a word to see its map, and the same word or elsewhere to go on.
document.addEventListener("click", (event) => {
  if (pointer === "mouse" || event.detail === 0) return;
  const index = said.contains(event.target) ? indexOf(event) : undefined;
  if (index === undefined || word === Number(index)) release();
  else {
    hold();
    point(Number(index));
  }
});

// --- Settings and counters

async function change(what) {
  const answer = await fetch("/control", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(what),
  }).catch(() => null);
  if (!answer?.ok) toast(answer ? (await answer.json()).error : "camscribe does not answer");
}

function state({ counts, viewers, ...settings }) {
  paused = settings.paused;
  options = settings.options;
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
  if (!dragging) sliders(options.beams, options.nbest);
  const number = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const rate = (value) => (value === null ? "" : ` · ${value.toFixed(1)}/s`);
  for (const name of ["captured", "captioned", "dropped", "unchanged", "failed", "reopened"]) {
    $(name).textContent = number.format(counts[name]) + rate(counts[`${name}_per_s`] ?? null);
  }
  $("failed").classList.toggle("bad", counts.failed > 0);
  $("running").textContent = duration(counts.seconds);
  $("viewers").textContent = viewers;
}

function sliders(beams, nbest) {
  $("beams").disabled = $("nbest").disabled = false;
  $("beams").max = Math.max(10, beams);
  $("nbest").max = beams;
  $("beams").value = beams;
  $("nbest").value = Math.min(beams, nbest);
  $("beams-value").textContent = beams;
  $("nbest-value").textContent = Math.min(beams, nbest);
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

$("pause").onclick = () => change({ paused: !paused });
$("attention").onclick = () => {
  attention = !attention;
  $("attention").setAttribute("aria-pressed", String(attention));
  heat();
};
for (const name of ["beams", "nbest"]) {
  $(name).oninput = () => {
    dragging = true;
    sliders(Number($("beams").value), Number($("nbest").value));
  };
  $(name).onchange = async () => {
    await change({ beams: Number($("beams").value), nbest: Number($("nbest").value) });
    dragging = false;
  };
}

// --- How it looks

function status() {
  const silent = (performance.now() - lastPicture) / 1000;
  let name = "live", text = "live";
  if (!connected) [name, text] = lastPicture ? ["offline", "reconnecting"] : ["connecting", "connecting"];
  else if (held) [name, text] = ["held", "held"];
  else if (paused) [name, text] = ["paused", "paused"];
  else if (silent > 3 && !document.hidden) [name, text] = ["silent", `no frame for ${silent.toFixed(0)} s`];
  document.body.dataset.state = $("status").dataset.state = name;
  if ($("status").textContent !== text) $("status").textContent = text;
}

const THEMES = ["system", "light", "dark"];
const remembered = (() => {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
})();
theme(THEMES.includes(remembered) ? remembered : "system");

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  $("theme").textContent = `theme: ${name}`;
  $("theme").onclick = () => {
    const chosen = THEMES[(THEMES.indexOf(name) + 1) % THEMES.length];
    try {
      localStorage.setItem("theme", chosen);
    } catch { /* a browser that remembers nothing */ }
    theme(chosen);
  };
}

let awake = null;
async function wall(on) {
  document.body.classList.toggle("wall", on);
  $("wall").setAttribute("aria-pressed", String(on));
  if (on) {
    await document.documentElement.requestFullscreen?.().catch(() => {});
    awake = await navigator.wakeLock?.request("screen").catch(() => null);
  } else {
    if (document.fullscreenElement) await document.exitFullscreen();
    await awake?.release();
    awake = null;
  }
}
$("wall").onclick = () => wall(true);
document.addEventListener("fullscreenchange", () => document.fullscreenElement || wall(false));
// Where there is no full screen (iPhones), a tap beside the words leads back.
$("frame").onclick = () => document.body.classList.contains("wall") && !document.fullscreenElement && wall(false);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog")) return;
  const isButton = event.target.closest("button");
  if (event.key === "Escape") {
    release();
    wall(false);
  } else if (event.key === " " && !isButton) {
    event.preventDefault();
    $("pause").click();
  } else if (event.key === "a") $("attention").click();
  else if (event.key === "f") wall(!document.body.classList.contains("wall"));
});

let hiding = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => ($("toast").hidden = true), 6000);
}

photographs($, toast);
setInterval(() => {
  age.draw();
  latency.draw();
  status();
}, 500);
// Captions change many times a second; a screen reader hears one now and then.
setInterval(() => {
  const text = shown?.hypotheses[0].text ?? "";
  if ($("spoken").textContent !== text) $("spoken").textContent = text;
}, 8000);
connect();
