// A drawing pad: strokes by mouse, finger, pen or keyboard, or a picture.

const WIDTH = 0.14; // of the drawing's longer side: close to the stroke width of MNIST once it is scaled to its box
const [THINNEST, WIDEST] = [0.02, 0.1]; // of the pad
const FILLED = 0.75; // of the PNG's side, by the drawing, however small it is and wherever it lies
const SIDE = 224; // pixels of the PNG that is sent: 8 × 28, the model's input
const STEP = 0.04; // of the pad, per press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Makes `canvas` a drawing pad that calls `changed()` whenever its drawing changes. */
export function drawingPad(canvas, changed) {
  const strokes = []; // lists of [x, y], from 0 to 1
  let picture = null; // an ImageBitmap shown instead of strokes
  let pointer = null; // id of the pointer that is drawing
  let pen = null; // for the keyboard: {x, y, down}

  function repaint() {
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, side, side);
    if (picture) {
      const scale = side / Math.max(picture.width, picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      context.drawImage(picture, (side - width) / 2, (side - height) / 2, width, height);
    }
    const style = getComputedStyle(canvas);
    trace(context, side, style.color);
    if (pen && document.activeElement === canvas) {
      context.strokeStyle = context.fillStyle = style.caretColor;
      context.lineWidth = 2 * devicePixelRatio;
      context.beginPath();
      context.arc(pen.x * side, pen.y * side, (width() / 2) * side, 0, 2 * Math.PI);
      if (pen.down) context.fill();
      else context.stroke();
    }
  }

  /** The centre and the longer side of the box around the drawing; of an empty one, those of a point. */
  function extent() {
    const [x, y] = [0, 1].map((axis) => {
      const values = strokes.flat().map((point) => point[axis]);
      const [least, most] = [Math.min, Math.max].map((of) => values.reduce((a, b) => of(a, b), values[0] ?? 0));
      return { middle: (least + most) / 2, size: most - least };
    });
    return { x: x.middle, y: y.middle, size: Math.max(x.size, y.size) };
  }

  /** Of the pen, in parts of the pad: the larger the drawing, the wider. */
  const width = () => Math.min(WIDEST, Math.max(THINNEST, WIDTH * extent().size));

  function trace(context, side, ink) {
    context.strokeStyle = ink;
    context.lineWidth = width() * side;
    context.lineCap = context.lineJoin = "round";
    for (const points of strokes) {
      const at = (i) => [points[i][0] * side, points[i][1] * side];
      context.beginPath();
      context.moveTo(...at(0));
      for (let i = 1; i < points.length - 1; i++) {
        const [[x, y], [nextX, nextY]] = [at(i), at(i + 1)];
        context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
      }
      const [x, y] = at(points.length - 1);
      context.lineTo(x, y + 0.01); // a line of zero length would draw no dot
      context.stroke();
    }
  }

  function begin(point) {
    picture?.close();
    picture = null;
    strokes.push([point]);
  }

  function update() {
    repaint();
    changed();
  }

  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    pen = null;
    begin(position(event));
    update();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1)?.push(...(moves.length ? moves : [event]).map(position));
    update();
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => {
      if (event.pointerId === pointer) pointer = null;
    });

  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || (event.ctrlKey || event.metaKey) !== (event.key === "z")) return;
    if (event.key in ARROWS) {
      pen ??= { x: 0.5, y: 0.5, down: false };
      const [dx, dy] = ARROWS[event.key];
      pen.x = Math.min(1, Math.max(0, pen.x + dx * STEP));
      pen.y = Math.min(1, Math.max(0, pen.y + dy * STEP));
      if (pen.down) strokes.at(-1).push([pen.x, pen.y]);
    } else if (event.key === " ") {
      pen ??= { x: 0.5, y: 0.5, down: false };
      pen.down = !pen.down;
      if (pen.down) begin([pen.x, pen.y]);
    } else if (event.key === "Backspace" || event.key === "z") self.undo();
    else if (event.key === "Escape") self.clear();
    else return;
    event.preventDefault();
    if (pen?.down) update();
    else repaint();
  });
  canvas.addEventListener("focus", () => {
    if (canvas.matches(":focus-visible")) pen ??= { x: 0.5, y: 0.5, down: false };
    repaint();
  });
  canvas.addEventListener("blur", () => {
    if (pen) pen.down = false;
    repaint();
  });
  new ResizeObserver(repaint).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  const self = {
    /** Whether there are no strokes. */
    get empty() {
      return strokes.length === 0;
    },
    /** Removes the last stroke, or the picture. */
    undo() {
      if (pen) pen.down = false;
      pointer = null;
      if (!strokes.pop()) self.show(null);
      update();
    },
    clear() {
      self.show(null);
      update();
    },
    /** Shows a picture (an ImageBitmap, or null for none) instead of the strokes. */
    show(bitmap) {
      if (pen) pen.down = false;
      pointer = null;
      strokes.length = 0;
      picture?.close();
      picture = bitmap;
      repaint();
    },
    /** The strokes as a PNG, white on black: in the middle, and as large as the PNG allows. */
    png() {
      const copy = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
      const context = copy.getContext("2d");
      context.fillRect(0, 0, SIDE, SIDE);
      const { x, y, size } = extent();
      const scale = FILLED / Math.max(size, THINNEST / WIDTH); // a dot stays a dot
      context.translate((0.5 - x * scale) * SIDE, (0.5 - y * scale) * SIDE);
      trace(context, scale * SIDE, "#fff");
      return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
    },
  };
  return self;
}
