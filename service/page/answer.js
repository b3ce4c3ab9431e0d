// The answer of a model, in words and bars.

const $ = (id) => document.getElementById(id);
const SORTED = 10; // labels, beyond which the likeliest come first
const MOST = 16; // labels shown; if there are more, the likeliest
const NAMED = 5; // other labels that the headline names
const UNKNOWN = "Unknown: unlike anything it was trained on.";
const PAUSE = 500; // milliseconds without a newer answer before screen readers announce one

export const percent = (p) => `${(100 * p).toFixed(1)} %`;

/** The hue, in degrees, of a model's label; neighbouring labels differ strongly. */
export const hue = (labels, label) => (265 + 137.5 * labels.indexOf(label)) % 360;

let rows = new Map(); // label → {item, fill, value}
let announcement; // timer

/** Creates the bars for a model from its card. */
export function prepare(card) {
  const answer = $("answer");
  const columns = card.labels.length <= SORTED && card.labels.every((label) => label.length <= 2);
  answer.dataset.form = card.kind === "regression" ? "values" : columns ? "columns" : "rows";
  answer.classList.toggle("hued", card.input.kind === "audio");
  $("bars").ariaLabel = card.kind === "regression" ? "Values" : "Probabilities";
  rows = new Map();
  for (const label of card.labels) {
    const [item, name, track, fill, value] = ["li", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
    name.className = "name";
    track.className = "track";
    value.className = "value";
    name.textContent = label;
    item.style.setProperty("--hue", hue(card.labels, label));
    track.append(fill);
    item.append(name, track, value);
    rows.set(label, { item, fill, value });
  }
  $("bars").replaceChildren(...[...rows.values()].slice(0, MOST).map((row) => row.item));
}

/** Shows `invitation` instead of an answer, and empties the bars. */
export function blank(invitation) {
  $("answer").dataset.state = "blank";
  showSeen(null);
  headline("", invitation, "");
  for (const { item, fill, value } of rows.values()) {
    item.classList.remove("top");
    fill.style.transform = "";
    value.textContent = "";
  }
  announce("");
}

/** Shows an answer of the service. */
export function show(answer) {
  showSeen(answer.seen);
  if (answer.value) return showValues(answer.value, answer.known);
  const { label, confidence, known, probabilities, set = [] } = answer;
  $("answer").dataset.state = known === false ? "unknown" : "known";
  const judgement =
    known === false ? UNKNOWN
    : known ? "Like what it was trained on."
    : "It cannot tell whether this is like what it was trained on.";
  const more = set.length > NAMED + 1 ? ` and ${set.length - NAMED - 1} more` : "";
  const others = set.length > 1 ? `; may also be ${set.slice(1, NAMED + 1).join(", ")}${more}` : "";
  headline(
    label,
    known === false ? `The nearest of its classes, ${percent(confidence)}` : `${percent(confidence)} confident${others}`,
    judgement,
  );
  for (const [name, { item, fill, value }] of rows) {
    const p = probabilities[name];
    const columns = $("answer").dataset.form === "columns";
    fill.style.transform = columns ? `translateY(${100 - 100 * p}%)` : `translateX(${100 * p - 100}%)`;
    value.textContent = !columns ? percent(p) : p < 0.005 ? "" : `${Math.round(100 * p)}%`;
    item.classList.toggle("top", name === label);
  }
  if (rows.size > SORTED) {
    const likeliest = [...rows.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, MOST);
    $("bars").replaceChildren(...likeliest.map((name) => rows.get(name).item));
  }
  announce(known === false ? `${UNKNOWN} Nearest: ${label}.` : `${label}, ${percent(confidence)} confident.`);
}

/** Shows what the model sees, a PNG in Base64; nothing if there is none. */
function showSeen(png) {
  const figure = $("seen");
  figure.hidden = !png;
  if (!png) return;
  const [image, caption] = figure.children;
  image.src = `data:image/png;base64,${png}`;
  const isSound = $("answer").classList.contains("hued");
  image.alt = isSound ? "Mel spectrogram of the sound, low at the bottom" : "The picture as the model sees it";
  caption.textContent = isSound ? "What it hears" : "What it sees";
}

function showValues(values, known) {
  $("answer").dataset.state = known === false ? "unknown" : "known";
  headline("", "", known === false ? UNKNOWN : "");
  for (const [name, { value }] of rows) value.textContent = Number(values[name].toPrecision(6)).toString();
  announce(Object.entries(values).map(([name, value]) => `${name} ${Number(value.toPrecision(6))}`).join(", "));
}

function headline(label, confidence, known) {
  $("label").textContent = label;
  $("label").className = label.length <= 2 ? "short" : "";
  $("confidence").textContent = confidence;
  $("known").textContent = known;
  if ($("answer").dataset.state === "unknown") $("answer").prepend($("known")); // before any confidence is read
  else $("confidence").after($("known"));
}

/** Announces `text` to screen readers, unless another comes within PAUSE. */
function announce(text) {
  clearTimeout(announcement);
  announcement = setTimeout(() => ($("status").textContent = text), PAUSE);
}
