// A small curve of the last values of one time, with its median and 95th percentile.

const KEPT = 240;

export class Curve {
  #values = []; #svg; #now; #note; #name;

  constructor(name, { svg, now, note }) {
    this.#name = name;
    this.#svg = svg;
    this.#now = now;
    this.#note = note;
  }

  set history(values) { this.#values = values.slice(-KEPT); }

  add(value) {
    this.#values.push(value);
    if (this.#values.length > KEPT) this.#values.shift();
  }

  draw() {
    const values = this.#values;
    if (!values.length) return;
    const sorted = [...values].sort((a, b) => a - b);
    const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
    // A few that took far longer are cut off, so that the others still show.
    const top = Math.max(1, Math.min(sorted.at(-1), 2 * at(0.95))) * 1.08;
    const y = (value) => (48 - (48 * Math.min(value, top)) / top).toFixed(1);
    // The newest value is at the right edge, however few there are.
    const points = values.map((value, i) => `${KEPT - values.length + i + 1} ${y(value)}`);
    const line = `M${points.join("L")}`;
    this.#svg.querySelector(".line").setAttribute("d", line);
    this.#svg.querySelector(".area").setAttribute("d", `${line}L${KEPT} 48L${KEPT - values.length + 1} 48Z`);
    const median = at(0.5).toFixed(0), high = at(0.95).toFixed(0), now = values.at(-1).toFixed(0);
    this.#now.textContent = `${now} ms`;
    this.#note.textContent = `p50 ${median} · p95 ${high}`;
    this.#svg.setAttribute("aria-label", `${this.#name}: now ${now} ms, median ${median}, 95th percentile ${high}`);
  }
}
