// The page: the chosen model, and the inputs that are sent to it.

import { blank, percent, prepare, show } from "./answer.js";
import { ask, newest } from "./ask.js";
import { camera } from "./camera.js";
import { describeRequest } from "./curl.js";
import { showExamples } from "./examples.js";
import { drawingPad } from "./pad.js";
import { plane } from "./plane.js";
import { resetSound, showClip, showTimeline, soundPanel } from "./sound.js";
import { columnFields, columnValues } from "./table.js";

const $ = (id) => document.getElementById(id);
const WINDOW = 0.5; // seconds, of a timeline; longer for clips of more than a minute
const FIELDS = 16; // a longer vector is typed into a single field
const INVITATION = { image: "Draw something.", audio: "Play something.", vector: "Enter some numbers." };
const METRICS = { rmse: "RMSE", mse: "MSE", mae: "MAE", r2: "R²" };
const isColoured = () => card.input.shape.length === 4; // pictures of anything, not of what a pen draws
const padHint = () => (isColoured() ? "Drop a picture, or draw here" : "Draw here");
const invitation = () => (isColoured() ? "Open a picture." : INVITATION[card.input.kind]);

let models = []; // their cards
let limits = {}; // bytes of a file, by kind
let card = null; // of the chosen one
let session = newSession(0); // a new one for each new input; answers to earlier inputs are dropped
let pad;
let closeCamera;
let drawing = new AbortController(); // of the request for its picture
let plot; // of a model of one or two numbers
let pictureFile = null; // shown on the pad instead of a drawing
let clip = null; // [file, name] of the last one

/** Sends the result of `make()` to the chosen model and shows the answer, if session `id` is still the current one.
 * `then` gets the answer; a Refusal for which `ignore` is true is not shown, and `refused` is called after any other. */
async function send(id, make, { query = {}, then = () => {}, ignore = () => false, refused = () => {} } = {}) {
  if (id !== session.id) return;
  try {
    const body = await make();
    const builtIn = ["digits", "instruments"].includes(card.name);
    $("answer").ariaBusy = "true";
    const path = (builtIn ? "" : "predict/") + encodeURIComponent(card.name);
    const seen = card.input.kind === "vector" ? {} : { seen: true };
    const answer = await ask(withQuery(path, { ...query, ...seen }), body, session.signal);
    if (id !== session.id) return;
    showError("");
    show(answer);
    await describeRequest(withQuery(path, query), body);
    then(answer);
  } catch (error) {
    if (id !== session.id || ignore(error)) return;
    blank(invitation());
    showError(error.message);
    refused();
  } finally {
    if (id === session.id) $("answer").ariaBusy = "false";
  }
}
const withQuery = (path, query) => [path, new URLSearchParams(query)].filter(String).join("?");
const queue = newest((call) => send(...call));
const request = (...call) => queue([session.id, ...call]);

/** Begins a new session, and aborts the request of the old one. */
function restart() {
  closeCamera();
  session.abort();
  session = newSession(session.id + 1);
  showError("");
  $("answer").ariaBusy = "false";
  describeRequest("", null);
  blank(invitation());
}

function newSession(id) {
  const controller = new AbortController();
  return { id, signal: controller.signal, abort: () => controller.abort() };
}

function showError(message) {
  $("error").textContent = message;
}

const megabytes = (bytes, round) => `${round(bytes / 1e5) / 10} MB`;

/** Whether a file is too large to be sent, which is said. */
function isTooLarge(file) {
  const most = limits[card.input.kind] ?? Infinity;
  if (file.size <= most) return false;
  showError(`${file.name ?? "The clip"} has ${megabytes(file.size, Math.ceil)}; at most ${megabytes(most, Math.floor)} are read.`);
  return true;
}

// Pictures

function drawingChanged() {
  if (pictureFile || pad.empty) restart();
  pictureFile = null;
  $("pad-hint").hidden = !pad.empty;
  if (!pad.empty) request(() => pad.png());
}

async function openPicture(file) {
  if (isTooLarge(file)) return;
  restart();
  pictureFile = file;
  $("pad-hint").textContent = file.name;
  $("pad-hint").hidden = false;
  pad.show(null);
  request(() => file, { refused: () => file === pictureFile && leavePad() });
  const bitmap = await createImageBitmap(file).catch(() => null); // the service reads more formats than browsers do
  if (file !== pictureFile) return bitmap?.close();
  $("pad-hint").hidden = bitmap !== null;
  pad.show(bitmap);
}

/** Takes a refused picture from the pad. */
function leavePad() {
  pictureFile = null;
  pad.show(null);
  $("pad-hint").textContent = padHint();
  $("pad-hint").hidden = false;
}

// Sounds

async function openClip(file, name = file.name) {
  if (isTooLarge(file)) return;
  restart();
  clip = [file, name];
  const { id } = session;
  const duration = await showClip(file, name);
  if (id !== session.id) return;
  const window = Math.min(60, Math.max(WINDOW, Math.ceil((duration ?? 0) / 60) / 2)); // at most 120 windows
  request(() => file, { query: { timeline: window }, then: (answer) => showTimeline(answer.timeline) });
}

function listen(make) {
  request(make, { ignore: (error) => error.status === 422 }); // silent so far
}

// Numbers

function layOutFields({ shape, columns }) {
  const size = shape.at(-1);
  if (columns.length) return $("fields").replaceChildren(...columnFields(columns));
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

/** Fills the fields with the numbers, or the row, of a JSON file. */
async function openNumbers(file) {
  const values = JSON.parse(await file.text());
  const fields = [...$("fields").querySelectorAll("input, select, textarea")];
  const columns = card.input.columns;
  if (columns.length) columns.forEach(({ name }, i) => (fields[i].value = values[name] ?? ""));
  else if (fields.length === 1) fields[0].value = values.join(", ");
  else fields.forEach((field, i) => (field.value = values[i]));
  sendNumbers(true);
}

function numberField(tag, text) {
  const label = Object.assign(document.createElement("label"), { textContent: text });
  const field = Object.assign(document.createElement(tag), { name: "number", autocomplete: "off" });
  field.spellcheck = false;
  label.append(field);
  return label;
}

function sendNumbers(final) {
  return card.input.columns.length ? sendRow(final) : sendVector(final);
}

function sendRow(final) {
  const { row, wrong, field } = columnValues($("fields"), card.input.columns);
  if (!wrong) return request(() => new Blob([JSON.stringify(row)], { type: "application/json" }));
  restart();
  if (!final) return;
  showError(wrong);
  field.focus();
}

function sendVector(final) {
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
  if (!pictureFile) $("pad-hint").textContent = padHint();
  restart();
  resetSound(card.labels);
  layOutFields(card.input);
  drawing.abort();
  drawing = new AbortController();
  plot.open(card, drawing.signal);
  describe();
  const openers = { image: openPicture, audio: openClip, vector: openNumbers };
  showExamples(card.name, drawing.signal, openers[card.input.kind]);
  // Show this model's answer to the same picture or clip.
  if (card.input.kind === "image" && pictureFile) request(() => pictureFile);
  else if (card.input.kind === "image" && !pad.empty) request(() => pad.png());
  else if (card.input.kind === "audio" && clip) openClip(...clip);
}

function describe() {
  const { metrics, samples } = card;
  const facts = [["Version", card.version]];
  if ("accuracy" in metrics) facts.push(["Test accuracy", `${percent(metrics.accuracy)} of ${samples.test.toLocaleString("en")} samples`]);
  else for (const [name, value] of Object.entries(metrics)) facts.push(name === "known" ? ["Known", percent(value)] : [`Test ${METRICS[name] ?? name}`, Number(value.toPrecision(3))]);
  if ("macro_recall" in metrics) facts.push(["Macro recall", percent(metrics.macro_recall)]);
  if (card.coverage) facts.push(["Set of labels", `holds the true one in ${percent(card.coverage)} of cases`]);
  if (card.scope.length) facts.push(["Scope", card.scope.map((line) => `${line[0].toUpperCase()}${line.slice(1)}.`).join(" ")]);
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
    ({ models, failed, limits } = await ask("models"));
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
  closeCamera = camera({ taken: openPicture, error: showError });
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
