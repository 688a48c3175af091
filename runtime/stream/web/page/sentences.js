// The n best sentences, each with its score and a bar of its probability beside that of the best.

const SVG = "http://www.w3.org/2000/svg";

export function list(parent, hypotheses) {
  while (parent.children.length > hypotheses.length) parent.lastChild.remove();
  while (parent.children.length < hypotheses.length) parent.append(row());
  const best = Math.max(...hypotheses.map((each) => each.score));
  hypotheses.forEach(({ text, score, truncated }, index) => {
    const item = parent.children[index];
    item.querySelector(".text").textContent = text + (truncated ? " …" : "");
    item.querySelector(".score").textContent = score.toFixed(2);
    // Scores are logarithms a word: what is left is how likely a word is beside one of the best sentence.
    item.querySelector(".fill").setAttribute("width", String(100 * Math.exp(score - best)));
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
