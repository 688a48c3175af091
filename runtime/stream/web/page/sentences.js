// The n best sentences, each with its score and a bar: how likely it is beside the best, were both as long as that.

const SVG = "http://www.w3.org/2000/svg";

export function list(parent, hypotheses) {
  while (parent.children.length > hypotheses.length) parent.lastChild.remove();
  while (parent.children.length < hypotheses.length) parent.append(row());
  const [best] = hypotheses, words = (best?.text.split(" ").length ?? 0) + 1; // the end of the sentence counts
  hypotheses.forEach(({ text, score, truncated }, index) => {
    const item = parent.children[index];
    item.querySelector(".text").textContent = text + (truncated ? " …" : "");
    item.querySelector(".score").textContent = score.toFixed(2);
    const part = Math.min(1, Math.exp((score - best.score) * words)); // scores are logarithms, for each word
    item.querySelector(".fill").setAttribute("width", String(100 * part));
  });
}

function row() {
  const item = document.createElement("li");
  for (const name of ["text", "score"]) {
    const part = document.createElement("span");
    part.className = name;
    item.append(part);
  }
  const bar = document.createElementNS(SVG, "svg");
  bar.setAttribute("class", "bar");
  bar.setAttribute("viewBox", "0 0 100 3");
  bar.setAttribute("preserveAspectRatio", "none");
  bar.setAttribute("aria-hidden", "true");
  for (const name of ["track", "fill"]) {
    const part = document.createElementNS(SVG, "rect");
    part.setAttribute("class", name);
    part.setAttribute("width", "100");
    part.setAttribute("height", "3");
    bar.append(part);
  }
  item.append(bar);
  return item;
}
