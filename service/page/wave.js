// Waveforms: written as WAV files, decoded from files, and drawn.

const BUCKETS = 2400; // peaks kept of a recording; more than the bars that fit on a screen
const BAR = 3; // width of a bar, CSS pixels
const GAP = 1.5; // between bars, CSS pixels

/** A 16-bit mono WAV file of blocks of samples, Float32Array in [-1, 1], at `rate` Hz. */
export function wav(blocks, rate) {
  const length = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + length));
  const text = (offset, word) => [...word].forEach((letter, i) => view.setUint8(offset + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true); // bits
  text(36, "data");
  view.setUint32(40, length, true);
  let offset = 44;
  for (const block of blocks)
    for (const sample of block) {
      view.setInt16(offset, Math.round(32767 * Math.min(1, Math.max(-1, sample))), true);
      offset += 2;
    }
  return new Blob([view], { type: "audio/wav" });
}

/** {duration in seconds, peaks} of an audio file; rejects if the browser cannot decode it. */
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, 22050); // a low rate, to save memory with long recordings
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const peaks = new Float32Array(Math.min(BUCKETS, sound.length));
  for (let c = 0; c < sound.numberOfChannels; c++)
    sound.getChannelData(c).forEach((sample, i) => {
      const bucket = Math.floor((i * peaks.length) / sound.length);
      peaks[bucket] = Math.max(peaks[bucket], Math.abs(sample));
    });
  return { duration: sound.duration, peaks };
}

/** The number of bars that fit on a canvas. */
export const bars = (canvas) => Math.max(1, Math.floor(canvas.clientWidth / (BAR + GAP)));

/** Draws peaks across a canvas; `colour` gives the colour at a position from 0 to 1. */
export function paint(canvas, peaks, colour) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  const n = peaks.length && bars(canvas);
  const most = Math.max(0.02, peaks.reduce((a, b) => Math.max(a, b), 0)); // so that mere noise stays small
  for (let i = 0; i < n; i++) {
    const from = Math.floor((i * peaks.length) / n);
    const to = Math.max(from + 1, Math.floor(((i + 1) * peaks.length) / n));
    const peak = peaks.slice(from, to).reduce((a, b) => Math.max(a, b), 0);
    const length = Math.max(BAR, (peak / most) * (height - 8));
    context.fillStyle = colour((i + 0.5) / n);
    context.beginPath();
    context.roundRect((i * width) / n, (height - length) / 2, BAR, length, BAR / 2);
    context.fill();
  }
}
