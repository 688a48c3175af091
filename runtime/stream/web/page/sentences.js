// The n best sentences, each with its score and a bar: its probability beside that of the likeliest.

const SVG = "http://www.w3.org/2000/svg";

export function list(parent, hypotheses) {
  while (parent.children.length > hypotheses.length) parent.lastChild.remove();
  while (parent.children.length < hypotheses.length) parent.append(row());
  const likeliest = Math.max(...hypotheses.map((each) => each.log_prob));
  hypotheses.forEach(({ text, score, log_prob, truncated }, index) => {
    const item = parent.children[index];
    item.querySelector(".text").textContent = text + (truncated ? " …" : "");
    item.querySelector(".score").textContent = score.toFixed(2);
    item.querySelector(".fill").setAttribute("width", String(100 * Math.exp(log_prob - likeliest)));
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
