// The sound panel: record or open a clip, play it, see its waveform and timeline.

import { hue, percent } from "./answer.js";
import { bars, decode, paint, wav } from "./wave.js";

const $ = (id) => document.getElementById(id);
const LONGEST = 120; // seconds, after which a recording stops by itself
const LIVE = 1.5; // seconds: during a recording, the latest this long are classified

let labels = []; // of the model
let clip = null; // {duration, peaks}; peaks is null if the browser cannot decode the file
let spans = []; // {start, end, label, known, …}: the timeline, with consecutive windows of one label merged
let current = null; // the file that is shown
let url = null; // its object URL, for the player
let frame = 0; // id of the next animation frame, which moves the playhead
let recording = null; // {stream, context, blocks, peaks, rate, seconds}
let on; // callbacks, see soundPanel

/** Connects the panel. It calls `begin()` when a recording begins, `live(make)` during it, where `make()` returns a WAV
 * file of the last LIVE seconds, `clip(file, name)` when it ends, and `error(message)` if it fails. */
export function soundPanel(calls) {
  on = calls;
  $("record").addEventListener("click", () => (recording ? stop(true) : start()));
  const player = $("player");
  for (const event of ["play", "timeupdate", "seeked"]) player.addEventListener(event, movePlayhead);
  player.addEventListener("error", () => (player.hidden = true));
  $("track").addEventListener("click", (event) => {
    if (!clip || player.hidden) return;
    const box = $("track").getBoundingClientRect();
    player.currentTime = (clip.duration * (event.clientX - box.left)) / box.width;
    player.play().catch(() => {}); // the error event hides the player
  });
  new ResizeObserver(repaint).observe($("wave"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

/** Clears the panel for a model with these labels. */
export function resetSound(modelLabels) {
  if (recording) stop(false);
  labels = modelLabels;
  setClip(null);
  note("Play something into the microphone, or drop a clip here.");
}

/** Shows a clip before it is answered. Resolves to its length in seconds, or null if the browser cannot decode it. */
export async function showClip(file, name) {
  if (recording) stop(false);
  setClip(file);
  note("");
  $("clip").textContent = name;
  const sound = await decode(file).catch(() => null);
  if (file !== current) return null;
  if (!sound) {
    note("Your browser cannot decode this file, so there is no waveform.");
    return null;
  }
  clip = sound;
  $("clip").textContent = `${name} · ${time(sound.duration)}`;
  repaint();
  return sound.duration;
}

/** Shows the timeline of an answer. */
export function showTimeline(timeline) {
  spans = [];
  for (const window of timeline) {
    const last = spans.at(-1);
    if (last?.label === window.label && last.known === window.known) {
      last.end = window.end;
      last.confidence = Math.max(last.confidence, window.confidence);
    } else spans.push({ ...window });
  }
  const whole = timeline.at(-1).end;
  clip ??= { duration: whole, peaks: null };
  $("timeline").replaceChildren(
    ...spans.map(({ start, end, label, known, confidence }) => {
      const item = document.createElement("li");
      const name = Object.assign(document.createElement("span"), { textContent: label ?? "silence" });
      const when = Object.assign(document.createElement("span"), { className: "hidden" });
      when.textContent = ` ${start.toFixed(1)} to ${end.toFixed(1)} s${known === false ? ", unlike anything it was trained on" : ""}`;
      item.append(name, when);
      item.title = `${label ?? "silence"}${label ? `, up to ${percent(confidence)} confident` : ""},${when.textContent}`;
      item.className = label === null ? "silent" : known === false ? "unknown" : "";
      item.style.setProperty("--hue", hue(labels, label));
      item.style.left = `${(100 * start) / whole}%`;
      item.style.width = `${(100 * (end - start)) / whole}%`;
      return item;
    }),
  );
  repaint();
}

function setClip(file) {
  const player = $("player");
  player.pause();
  player.removeAttribute("src");
  if (url) URL.revokeObjectURL(url);
  current = file;
  url = file && URL.createObjectURL(file);
  if (url) player.src = url;
  player.hidden = !file;
  $("playhead").hidden = true;
  $("clip").textContent = "";
  $("timeline").replaceChildren();
  clip = null;
  spans = [];
  repaint();
}

function note(text) {
  $("wave-note").textContent = text;
}

/** Seconds as minutes:seconds. */
function time(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function repaint() {
  const canvas = $("wave");
  if (!canvas.clientWidth) return;
  canvas.className = recording ? "live" : "";
  const plain = getComputedStyle(canvas).color;
  if (recording) return paint(canvas, latest(recording.peaks, bars(canvas)), () => plain);
  const colours = [...$("timeline").children].map((item) => getComputedStyle(item).borderBottomColor);
  paint(canvas, clip?.peaks ?? [], (position) => {
    const span = spans.findIndex(({ end }) => position * clip.duration < end);
    return colours[span] ?? plain;
  });
}

/** The last n peaks, padded with silence at the front. */
function latest(peaks, n) {
  return peaks.length < n ? [...new Array(n - peaks.length).fill(0), ...peaks] : peaks.slice(-n);
}

/** Moves the playhead to the player's position, again in each frame while it plays. */
function movePlayhead() {
  const [player, head] = [$("player"), $("playhead")];
  head.hidden = !clip || player.hidden;
  if (head.hidden) return;
  const { currentTime } = player;
  head.style.left = `${Math.min(100, (100 * currentTime) / clip.duration)}%`;
  [...$("timeline").children].forEach((item, i) =>
    item.classList.toggle("now", spans[i].start <= currentTime && currentTime < spans[i].end),
  );
  cancelAnimationFrame(frame);
  if (!player.paused) frame = requestAnimationFrame(movePlayhead);
}

async function start() {
  const button = $("record");
  button.disabled = true;
  let stream;
  try {
    if (!navigator.mediaDevices) throw new Error("browsers allow it only over HTTPS or on localhost");
    // Filters made for speech distort music.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
    const context = new AudioContext();
    await context.audioWorklet.addModule("page/recorder.js");
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(node);
    if ($("audio").hidden) throw new Error("another model was chosen in the meantime");
    on.begin();
    setClip(null);
    note("");
    recording = { stream, context, blocks: [], peaks: [], rate: context.sampleRate, seconds: 0 };
    node.port.onmessage = ({ data }) => addBlock(data);
    await context.resume();
    button.textContent = "Stop";
    button.className = "live";
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    recording = null;
    on.error(`The microphone cannot be used: ${error.message}.`);
  }
  button.disabled = false;
}

function addBlock(block) {
  if (!recording) return;
  const { blocks, peaks, rate } = recording;
  blocks.push(block);
  peaks.push(block.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0));
  recording.seconds += block.length / rate;
  $("clip").textContent = time(recording.seconds);
  repaint();
  if (recording.seconds >= LONGEST) return stop(true);
  if (recording.seconds >= LIVE) on.live(() => wav(blocks.slice(-Math.ceil((LIVE * rate) / block.length)), rate));
}

/** Ends the recording; with `keep` it becomes the clip. */
function stop(keep) {
  const { stream, context, blocks, rate } = recording;
  recording = null;
  stream.getTracks().forEach((track) => track.stop());
  context.close();
  $("record").textContent = "Record";
  $("record").className = "primary";
  if (keep && blocks.length) on.clip(wav(blocks, rate), "Recording");
  else setClip(null);
}
