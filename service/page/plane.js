// A model of one or two numbers as a picture: its curve, or its surface over a plane, and the point that is asked.

import { hue } from "./answer.js";
import { ask } from "./ask.js";

const POINTS = [201, 51]; // along the axis of a curve, and along each axis of a plane
const STEPS = 40; // presses of an arrow key from one end of an axis to the other
const [LEFT, BELOW, MARGIN] = [56, 40, 12]; // around the plot, CSS pixels
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** A value on an axis that is `span` long, to `digits` digits of the span. */
const short = (value, span, digits = 2) => Number(value.toFixed(Math.min(100, Math.max(0, digits - Math.floor(Math.log10(span)))))).toString();

/** Connects the canvas, which calls `chosen(numbers)` for each point that is clicked, or chosen by arrow keys. */
export function plane(canvas, legend, chosen) {
  let card = null; // of a model of one or two numbers, else null
  let axes = []; // [low, high] of x, and of y: the second number, or the values of a curve
  let grid = null; // the model's answers: lists of one number for each label
  let point = null; // numbers

  const flat = () => axes.length && card.input.shape[1] === 1;
  const colour = (k, alpha = 1) => `oklch(0.66 0.15 ${hue(card.labels, card.labels[k])} / ${alpha})`;
  const ramp = (part) => `oklch(${0.3 + 0.6 * part} 0.13 ${300 - 200 * part})`;
  const along = ([low, high], part) => low + part * (high - low);

  async function open(chosenCard, signal) {
    const size = chosenCard.input.shape.at(-1);
    const numbers = chosenCard.input.kind === "vector" && !chosenCard.input.columns.length;
    card = numbers && (size === 1 || size === 2) ? chosenCard : null;
    canvas.parentElement.hidden = !card;
    [grid, point, axes] = [null, null, []];
    if (!card) return;
    canvas.ariaLabel = size === 1 ? "Curve over x" : "Plane of x1 and x2";
    legend.replaceChildren();
    const bounds = Array.from({ length: size }, (_, i) => {
      const [low, high] = card.ranges[i] ?? [0, 1];
      return low < high ? [low, high] : [low - 1, high + 1];
    });
    const n = POINTS[size - 1];
    const inputs = Array.from({ length: n ** size }, (_, i) =>
      bounds.map((bound, d) => along(bound, (d ? Math.floor(i / n) : i % n) / (n - 1))),
    );
    const body = {
      inputs: [{ name: card.input.name, datatype: "FP32", shape: [inputs.length, size], data: inputs.flat() }],
      outputs: [{ name: card.output }],
    };
    axes = bounds;
    try {
      const answer = await ask(`v2/models/${encodeURIComponent(card.name)}/infer`, JSON.stringify(body), signal);
      if (card !== chosenCard) return;
      const { data } = answer.outputs[0];
      grid = inputs.map((_, i) => data.slice(i * card.labels.length, (i + 1) * card.labels.length));
    } catch (error) {
      if (card === chosenCard && !signal.aborted)
        legend.replaceChildren(Object.assign(document.createElement("li"), { textContent: `No picture: ${error.message}` }));
      return repaint();
    }
    if (size === 1) {
      const values = card.kind === "regression" ? grid.flat() : [0, 1];
      const [low, high] = [Math.min(...values), Math.max(...values)];
      axes = [bounds[0], [low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)]];
    }
    describe();
    repaint();
  }

  function describe() {
    const entry = (text, background) => {
      const item = Object.assign(document.createElement("li"), { textContent: text });
      const swatch = document.createElement("i");
      swatch.style.background = background;
      item.prepend(swatch);
      return item;
    };
    const [low, high] = span();
    const bar = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp)})`;
    const entries =
      card.kind === "regression" && !flat()
        ? [entry(`${card.labels[0]}, ${[low, high].map((end) => short(end, high - low || 1)).join(" to ")}`, bar)]
        : card.labels.map((label, k) => entry(label, colour(k)));
    legend.replaceChildren(...entries);
  }

  function span() {
    const first = grid.map(([value]) => value);
    return [first.reduce((a, b) => Math.min(a, b)), first.reduce((a, b) => Math.max(a, b))];
  }

  function frame() {
    const letters = axes[1]?.map((end) => short(end, axes[1][1] - axes[1][0]).length) ?? [];
    const left = Math.max(LEFT, ...letters.map((n) => 12 + 8 * n));
    return { x: left, y: MARGIN, width: canvas.clientWidth - left - MARGIN, height: canvas.clientHeight - BELOW - MARGIN };
  }

  function repaint() {
    if (!canvas.clientWidth || !axes.length) return;
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    const context = canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const box = frame();
    const ink = getComputedStyle(canvas).color;
    if (grid) (flat() ? curve : surface)(context, box);
    context.strokeStyle = context.fillStyle = ink;
    context.strokeRect(box.x, box.y, box.width, box.height);
    label(context, box);
    mark(context, box);
  }

  function surface(context, box) {
    const n = POINTS[1];
    const [low, high] = span();
    grid.forEach((values, i) => {
      const k = values.indexOf(Math.max(...values));
      const sure = values.length > 1 ? (values[k] - 1 / values.length) / (1 - 1 / values.length) : 1;
      context.fillStyle = card.kind === "regression" ? ramp((values[0] - low) / (high - low || 1)) : colour(k, 0.85 * sure);
      const [left, right] = [i % n, (i % n) + 1].map((c) => Math.round(box.x + (c * box.width) / n));
      const [top, bottom] = [n - 1, n].map((r) => Math.round(box.y + ((r - Math.floor(i / n)) * box.height) / n));
      context.fillRect(left, top, right - left, bottom - top);
    });
  }

  function curve(context, box) {
    context.lineWidth = 2.5;
    context.lineJoin = "round";
    card.labels.forEach((_, k) => {
      context.strokeStyle = colour(k);
      context.beginPath();
      grid.forEach((values, i) => context.lineTo(box.x + (i * box.width) / (POINTS[0] - 1), down(box, values[k])));
      context.stroke();
    });
    context.lineWidth = 1;
  }

  const across = (box, value) => box.x + ((value - axes[0][0]) / (axes[0][1] - axes[0][0])) * box.width;
  const down = (box, value) => box.y + (1 - (value - axes[1][0]) / (axes[1][1] - axes[1][0])) * box.height;

  function label(context, box) {
    context.font = `13px ${getComputedStyle(canvas).fontFamily}`;
    const bottom = box.y + box.height;
    const write = (align, baseline, text, x, y) => {
      [context.textAlign, context.textBaseline] = [align, baseline];
      context.fillText(text, x, y);
    };
    for (const part of [0, 0.5, 1]) {
      const [x, y] = axes.map((axis) => short(along(axis, part), axis[1] - axis[0]));
      write(["left", "center", "right"][2 * part], "top", x, box.x + part * box.width, bottom + 6);
      if (y) write("right", "middle", y, box.x - 6, bottom - part * (box.height - 12) - 6);
    }
    write("center", "bottom", flat() ? "x" : "x1", box.x + box.width / 2, bottom + BELOW - 2);
    const second = !flat() ? "x2" : card.labels.length === 1 ? card.labels[0] : card.kind === "regression" ? "" : "p";
    write("right", "middle", second.slice(0, 6), box.x - 6, box.y + box.height / 4);
  }

  /** The point; on a curve, one for each label. */
  function mark(context, box) {
    if (!axes[1] || !point?.every((value, d) => axes[d][0] <= value && value <= axes[d][1])) return;
    const nearest = Math.round(((point[0] - axes[0][0]) / (axes[0][1] - axes[0][0])) * (POINTS[0] - 1));
    for (const y of flat() ? (grid?.[nearest] ?? []) : [point[1]]) {
      context.beginPath();
      context.arc(across(box, point[0]), down(box, y), 6, 0, 2 * Math.PI);
      context.fillStyle = "#fff";
      context.fill();
      context.lineWidth = 3;
      context.strokeStyle = "#111";
      context.stroke();
      context.lineWidth = 1;
    }
  }

  /** Chooses a point, inside the axes. */
  function choose(numbers) {
    chosen(numbers.map((value, d) => short(Math.min(axes[d][1], Math.max(axes[d][0], value)), axes[d][1] - axes[d][0], 3)));
  }

  let pointer = null;
  function follow(event) {
    const [box, place] = [frame(), canvas.getBoundingClientRect()];
    const parts = [(event.clientX - place.left - box.x) / box.width, 1 - (event.clientY - place.top - box.y) / box.height];
    choose(parts.slice(0, card.input.shape[1]).map((part, d) => along(axes[d], part)));
  }
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    follow(event);
  });
  canvas.addEventListener("pointermove", (event) => event.pointerId === pointer && follow(event));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (pointer = null));
  canvas.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey || (flat() && move[1])) return;
    event.preventDefault();
    const from = point ?? Array.from({ length: card.input.shape[1] }, (_, d) => along(axes[d], 0.5));
    choose(from.map((value, d) => value + (move[d] * (axes[d][1] - axes[d][0])) / STEPS));
  });
  new ResizeObserver(repaint).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  return {
    /** Draws the model of a card, if it takes one or two numbers. */
    open,
    /** Marks the numbers that are asked, or none for null. */
    mark(numbers) {
      point = numbers;
      repaint();
    },
  };
}
