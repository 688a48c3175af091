// The canvas: the newest frame or one that is held, and over it where the model looked.

// From no attention to most, at equal distances; as in runtime/draw.py.
const HEAT = [[20, 12, 60], [120, 28, 109], [220, 70, 60], [252, 165, 10], [252, 255, 164]];
const FINER = 8;
// Boxes of a word that are drawn: so many, with at least this share of the weight of the first; as in runtime/draw.py.
const BOXES_SHOWN = 4, FAINT = 0.3;

export class Picture {
  #canvas; #context; #newest = null; #held = null; #heat = null; #pixels = { fit: "squash", width: 1, height: 1 };

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  // What part of a frame the model sees: the bundle's pixel spec.
  set pixels(spec) { this.#pixels = spec; }

  // Decodes and shows a JPEG of the stream; while a frame is held it waits.
  async show(jpeg) {
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    this.#newest?.close();
    this.#newest = bitmap;
    if (!this.#held) this.#draw();
  }

  // Stays on a frame: that of a JPEG, or the one that shows now.
  async hold(jpeg) {
    const source = jpeg ?? this.#newest;
    if (!source) return;
    const held = await createImageBitmap(source);
    this.#held?.close();
    this.#held = held;
    this.#draw();
  }

  release() {
    this.#held?.close();
    this.#held = null;
    this.#draw();
  }

  // Weights 0 to 255 laid over whatever shows, rows times columns of them or one for each box; null for none.
  set heat(map) {
    this.#heat = map && (map.boxes ? heaviest(map) : colour(map));
    this.#draw();
  }

  #draw() {
    const bitmap = this.#held ?? this.#newest;
    if (!bitmap) return;
    const canvas = this.#canvas, context = this.#context;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      canvas.parentElement.style.setProperty("--shape", `${bitmap.width} / ${bitmap.height}`);
    }
    context.drawImage(bitmap, 0, 0);
    if (!this.#heat) return;
    // What got no attention stays recognisable, but grey and dark.
    const { width, height } = canvas;
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "rgb(128 128 128)";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "multiply";
    context.fillStyle = "rgb(140 140 140)";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
    if (Array.isArray(this.#heat)) {
      for (const box of this.#heat) uncover(context, bitmap, box);
      for (const box of this.#heat) outline(context, box);
      return;
    }
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#heat, ...this.#seen(width, height));
  }

  // Left, top, width and height of what the model sees; see visible_box in runtime/pixels.py.
  #seen(width, height) {
    if (this.#pixels.fit === "squash") return [0, 0, width, height];
    const ratio = this.#pixels.height / this.#pixels.width;
    const rows = Math.min(height, Math.round(width * ratio)), columns = Math.min(width, Math.round(height / ratio));
    return [(width - columns) / 2, (height - rows) / 2, columns, rows];
  }
}

// The boxes to draw, the heaviest last: left, top, right and bottom as fractions of the frame, and a weight up to 1.
function heaviest({ weights, boxes }) {
  const found = boxes.map((corners, index) => ({ corners, weight: weights[index] / 255 }));
  found.sort((one, other) => one.weight - other.weight);
  const least = Math.max(0.001, FAINT * found.at(-1).weight);
  return found.slice(-BOXES_SHOWN).filter(({ weight, corners: [left, top, right, bottom] }) => (
    weight >= least && right > left && bottom > top
  ));
}

function rectangle({ width, height }, [left, top, right, bottom]) {
  return [left * width, top * height, (right - left) * width, (bottom - top) * height];
}

// The frame as it is, in a box; less of it where the weight is less.
function uncover(context, bitmap, { corners, weight }) {
  const where = rectangle(context.canvas, corners);
  context.globalAlpha = Math.sqrt(weight);
  context.drawImage(bitmap, ...where, ...where);
  context.globalAlpha = 1;
}

function outline(context, { corners, weight }) {
  const heat = Math.sqrt(weight), unit = Math.max(1, context.canvas.width / 400);
  context.globalAlpha = heat;
  context.lineWidth = unit * (1 + 2 * weight);
  context.strokeStyle = `rgb(${heatColour(0.3 + 0.7 * heat).map(Math.round).join(" ")})`;
  const [left, top, width, height] = rectangle(context.canvas, corners), inset = context.lineWidth / 2;
  context.strokeRect(left + inset, top + inset, width - 2 * inset, height - 2 * inset);
  context.globalAlpha = 1;
}

function heatColour(heat) {
  const place = heat * (HEAT.length - 1), below = Math.min(HEAT.length - 2, Math.floor(place)), part = place - below;
  return HEAT[below].map((value, c) => value * (1 - part) + HEAT[below + 1][c] * part);
}

// A map of weights as a small coloured canvas, smooth as a bicubic filter makes it.
function colour({ weights, rows, columns }) {
  const height = rows * FINER, width = columns * FINER;
  const across = enlarge(weights, rows, columns, columns, 1);
  const smooth = enlarge(across, width, rows, 1, width);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      // Less than linear, so that weak attention shows, too.
      const heat = Math.min(1, Math.max(0, smooth[x * height + y] / 255)) ** 0.7;
      image.data.set([...heatColour(heat), 255 * 0.7 * heat], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Each of `lines` lines of `length` values FINER times as long (Catmull-Rom); lines lie `stride` apart, values `step`.
function enlarge(values, lines, length, stride, step) {
  const result = new Float32Array(lines * length * FINER);
  for (let i = 0; i < length * FINER; i++) {
    const place = (i + 0.5) / FINER - 0.5, first = Math.floor(place), t = place - first;
    const w = [((2 - t) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2, ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2];
    for (let line = 0; line < lines; line++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) {
        sum += w[k] * values[line * stride + step * Math.min(length - 1, Math.max(0, first - 1 + k))];
      }
      result[line * length * FINER + i] = sum;
    }
  }
  return result;
}
