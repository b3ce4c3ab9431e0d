// The page: the chosen model, and the inputs that are sent to it.

import { blank, percent, prepare, show } from "./answer.js";
import { ask, newest } from "./ask.js";
import { drawingPad } from "./pad.js";
import { plane } from "./plane.js";
import { resetSound, showClip, showTimeline, soundPanel } from "./sound.js";

const $ = (id) => document.getElementById(id);
const WINDOW = 0.5; // seconds, of a timeline; longer for clips of more than a minute
const FIELDS = 16; // a longer vector is typed into a single field
const INVITATION = { image: "Draw something.", audio: "Play something.", vector: "Enter some numbers." };

let models = []; // their cards
let card = null; // of the chosen one
let session = newSession(0); // a new one for each new input; answers to earlier inputs are dropped
let pad;
let drawing = new AbortController(); // of the request for its picture
let plot; // of a model of one or two numbers
let pictureFile = null; // shown on the pad instead of a drawing
let clip = null; // [file, name] of the last one

/** Sends the result of `make()` to the chosen model and shows the answer, if session `id` is still the current one.
 * `then` gets the answer; a Refusal for which `ignore` is true is not shown. */
async function send(id, make, { query = "", then = () => {}, ignore = () => false } = {}) {
  if (id !== session.id) return;
  try {
    const body = await make();
    const builtIn = ["digits", "instruments"].includes(card.name);
    $("answer").ariaBusy = "true";
    const answer = await ask((builtIn ? "" : "predict/") + encodeURIComponent(card.name) + query, body, session.signal);
    if (id !== session.id) return;
    showError("");
    show(answer);
    then(answer);
  } catch (error) {
    if (id !== session.id || ignore(error)) return;
    blank(INVITATION[card.input.kind]);
    showError(error.message);
  } finally {
    if (id === session.id) $("answer").ariaBusy = "false";
  }
}
const queue = newest((call) => send(...call));
const request = (...call) => queue([session.id, ...call]);

/** Begins a new session, and aborts the request of the old one. */
function restart() {
  session.abort();
  session = newSession(session.id + 1);
  showError("");
  $("answer").ariaBusy = "false";
  blank(INVITATION[card.input.kind]);
}

function newSession(id) {
  const controller = new AbortController();
  return { id, signal: controller.signal, abort: () => controller.abort() };
}

function showError(message) {
  $("error").textContent = message;
}

// Pictures

function drawingChanged() {
  if (pictureFile || pad.empty) restart();
  pictureFile = null;
  $("pad-hint").hidden = !pad.empty;
  if (!pad.empty) request(() => pad.png());
}

async function openPicture(file) {
  restart();
  pictureFile = file;
  $("pad-hint").textContent = file.name;
  $("pad-hint").hidden = false;
  pad.show(null);
  request(() => file);
  const bitmap = await createImageBitmap(file).catch(() => null); // the service reads more formats than browsers do
  if (file !== pictureFile) return bitmap?.close();
  $("pad-hint").hidden = bitmap !== null;
  pad.show(bitmap);
}

// Sounds

async function openClip(file, name = file.name) {
  restart();
  clip = [file, name];
  const { id } = session;
  const duration = await showClip(file, name);
  if (id !== session.id) return;
  const window = Math.min(60, Math.max(WINDOW, Math.ceil((duration ?? 0) / 60) / 2)); // at most 120 windows
  request(() => file, { query: `?timeline=${window}`, then: (answer) => showTimeline(answer.timeline) });
}

function listen(make) {
  request(make, { ignore: (error) => error.status === 422 }); // silent so far
}

// Numbers

function layOutFields(size) {
  const single = size === null || size > FIELDS;
  const fields = single ? [numberField("textarea", `${size ?? "Any number of"} numbers, separated by commas or spaces`)] : [];
  for (let i = 1; !single && i <= size; i++) fields.push(numberField("input", nameOf(i, size)));
  $("fields").replaceChildren(...fields);
}

/** The name of a number, as its plot has it. */
const nameOf = (i, size) => (size === 1 ? "x" : size === 2 ? `x${i}` : `Number ${i}`);

function fillFields(words) {
  [...$("fields").querySelectorAll("[name=number]")].forEach((field, i) => (field.value = words[i]));
  sendNumbers(false);
}

function numberField(tag, text) {
  const label = Object.assign(document.createElement("label"), { textContent: text });
  const field = Object.assign(document.createElement(tag), { name: "number", autocomplete: "off" });
  field.spellcheck = false;
  label.append(field);
  return label;
}

function sendNumbers(final) {
  const fields = [...$("fields").querySelectorAll("[name=number]")];
  const words = fields.flatMap((field) => field.value.split(/[\s,;[\]]+/)).filter(Boolean);
  const wrong = words.find((word) => !Number.isFinite(Number(word)));
  const missing = fields.find((field) => !field.value.trim());
  const valid = wrong === undefined && !missing;
  plot.mark(valid ? words.map(Number) : null);
  if (valid) return request(() => new Blob([`[${words.map(Number)}]`], { type: "application/json" }));
  restart();
  if (!final) return;
  showError(missing ? "A number is missing." : `“${wrong}” is not a number.`);
  (missing ?? fields.find((field) => field.value.includes(wrong))).focus();
}

// Models

function choose() {
  card = models.find(({ name }) => `#${encodeURIComponent(name)}` === location.hash) ?? models.find((model) => model.name === "digits") ?? models[0];
  for (const link of $("models").querySelectorAll("a")) {
    link.removeAttribute("aria-current");
    if (link.dataset.name !== card.name) continue;
    link.setAttribute("aria-current", "page");
    $("models").scrollLeft = link.offsetLeft - 16; // scrollIntoView would also move the starting point of Tab
  }
  document.title = `${card.name} · percept`;
  $("desk").dataset.kind = card.input.kind;
  for (const kind of ["image", "audio", "vector"]) $(kind).hidden = kind !== card.input.kind;
  prepare(card);
  restart();
  resetSound(card.labels);
  layOutFields(card.input.shape.at(-1));
  drawing.abort();
  drawing = new AbortController();
  plot.open(card, drawing.signal);
  describe();
  // Show this model's answer to the same picture or clip.
  if (card.input.kind === "image" && pictureFile) request(() => pictureFile);
  else if (card.input.kind === "image" && !pad.empty) request(() => pad.png());
  else if (card.input.kind === "audio" && clip) openClip(...clip);
}

function describe() {
  const { metrics, samples } = card;
  const facts = [["Version", card.version]];
  if ("accuracy" in metrics) facts.push(["Test accuracy", `${percent(metrics.accuracy)} of ${samples.test.toLocaleString("en")} samples`]);
  else for (const [name, value] of Object.entries(metrics)) facts.push([`Test ${name}`, Number(value.toPrecision(3))]);
  if (card.tested) facts.push(["Tested on", card.tested]);
  facts.push(["Trained", new Date(card.created).toLocaleDateString("en", { dateStyle: "long" })]);
  if (!card.gate_passed) facts.push(["Gate", "not passed"]);
  $("card").replaceChildren(
    ...facts.flatMap(([term, fact]) => [
      Object.assign(document.createElement("dt"), { textContent: term }),
      Object.assign(document.createElement("dd"), { textContent: fact }),
    ]),
  );
}

async function open() {
  let failed;
  try {
    ({ models, failed } = await ask("models"));
  } catch (error) {
    return showError(error.message);
  }
  const KINDS = { image: "image", audio: "sound", vector: "numbers" };
  $("models").replaceChildren(
    ...models.map(({ name, input }) => {
      const [item, link, kind] = ["li", "a", "small"].map((tag) => document.createElement(tag));
      link.href = `#${encodeURIComponent(name)}`;
      link.dataset.name = name;
      kind.textContent = KINDS[input.kind];
      link.append(name, " ", kind);
      item.append(link);
      return item;
    }),
  );
  $("failed").replaceChildren(
    ...Object.entries(failed).map(([name, reason]) =>
      Object.assign(document.createElement("li"), { textContent: `${name} is unavailable: ${reason}` }),
    ),
  );
  if (!models.length) return showError("No model is served yet. Export one with `percept run`, and reload this page.");
  $("desk").hidden = false;
  pad = drawingPad($("pad"), drawingChanged);
  $("undo").addEventListener("click", () => pad.undo());
  $("clear").addEventListener("click", () => pad.clear());
  plot = plane($("plane"), $("plane-legend"), fillFields);
  soundPanel({ begin: restart, live: listen, clip: openClip, error: showError });
  $("numbers").addEventListener("input", () => sendNumbers(false));
  $("numbers").addEventListener("submit", (event) => {
    event.preventDefault();
    sendNumbers(true);
  });
  const openers = { image: openPicture, audio: openClip };
  for (const [kind, openFile] of Object.entries(openers)) {
    $(`${kind}-file`).addEventListener("change", ({ target }) => {
      if (target.files[0]) openFile(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  const dropped = ([file]) => {
    if (file) (openers[card.input.kind] ?? (() => showError("This model takes numbers, not files.")))(file);
  };
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    $("desk").classList.add("drop");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? $("desk").classList.remove("drop"));
  addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    $("desk").classList.remove("drop");
    dropped(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => dropped(event.clipboardData.files));
  addEventListener("hashchange", choose);
  choose();
}

open();
