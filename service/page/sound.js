// The sound panel: record or take a clip, hear it, see its waveform and what is heard when.

import { hue, percent } from "./answer.js";
import { bars, decode, paint, wav } from "./wave.js";

const $ = (id) => document.getElementById(id);
const LONGEST = 120; // seconds; a recording ends by itself
const LIVE = 1.5; // seconds of a recording under way that are answered together

let labels = []; // of the model
let clip = null; // {duration, peaks}, peaks null where the browser cannot decode the file
let spans = []; // {start, end, label, known, …} of the timeline, neighbours of one label as one
let current = null; // the file that is shown
let url = null; // of it, for the player
let frame = 0; // the next one that moves the playhead
let recording = null; // {stream, context, blocks, peaks, rate, seconds}
let on; // what to call, see soundPanel

/** Makes the panel work. It calls `begin()` when a recording begins, `live(make)` during it, where `make()` is a WAV
 * file of its last moments, `clip(file, name)` when it ends, and `error(message)` if it cannot be. */
export function soundPanel(calls) {
  on = calls;
  $("record").addEventListener("click", () => (recording ? stop(true) : start()));
  const player = $("player");
  for (const event of ["play", "timeupdate", "seeked"]) player.addEventListener(event, follow);
  player.addEventListener("error", () => (player.hidden = true));
  $("track").addEventListener("click", (event) => {
    if (!clip || player.hidden) return;
    const box = $("track").getBoundingClientRect();
    player.currentTime = (clip.duration * (event.clientX - box.left)) / box.width;
    player.play().catch(() => {}); // a clip that cannot be played has hidden the player
  });
  new ResizeObserver(repaint).observe($("wave"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

/** Empties the panel for a model with these labels. */
export function resetSound(modelLabels) {
  if (recording) stop(false);
  labels = modelLabels;
  setClip(null);
  note("Play something into the microphone, or drop a clip here.");
}

/** Shows a clip, before its answer is there. The promise is kept once its length is known: in seconds, null if the
 * browser cannot decode it. */
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

/** Draws the timeline of an answer. */
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
      item.title = `${label ?? "silence"}${label ? `, at most ${percent(confidence)}` : ""},${when.textContent}`;
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

/** Minutes and seconds. */
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

/** The last n peaks, silence before them. */
function latest(peaks, n) {
  return peaks.length < n ? [...new Array(n - peaks.length).fill(0), ...peaks] : peaks.slice(-n);
}

/** Moves the playhead to where the player is, and goes on as long as it plays. */
function follow() {
  const [player, head] = [$("player"), $("playhead")];
  head.hidden = !clip || player.hidden;
  if (head.hidden) return;
  const { currentTime } = player;
  head.style.left = `${Math.min(100, (100 * currentTime) / clip.duration)}%`;
  [...$("timeline").children].forEach((item, i) =>
    item.classList.toggle("now", spans[i].start <= currentTime && currentTime < spans[i].end),
  );
  cancelAnimationFrame(frame);
  if (!player.paused) frame = requestAnimationFrame(follow);
}

async function start() {
  const button = $("record");
  button.disabled = true;
  let stream;
  try {
    if (!navigator.mediaDevices) throw new Error("a browser gives it to pages from HTTPS or localhost alone");
    // What makes speech clear takes music away.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
    const context = new AudioContext();
    await context.audioWorklet.addModule("page/recorder.js");
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(node);
    if ($("audio").hidden) throw new Error("another model was chosen meanwhile");
    on.begin();
    setClip(null);
    note("");
    recording = { stream, context, blocks: [], peaks: [], rate: context.sampleRate, seconds: 0 };
    node.port.onmessage = ({ data }) => hear(data);
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

function hear(block) {
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

/** Ends the recording; `use`: and makes it the clip. */
function stop(use) {
  const { stream, context, blocks, rate } = recording;
  recording = null;
  stream.getTracks().forEach((track) => track.stop());
  context.close();
  $("record").textContent = "Record";
  $("record").className = "primary";
  if (use && blocks.length) on.clip(wav(blocks, rate), "Recording");
  else setClip(null);
}
