/* The explorable page: reads the controls, asks `measures`, draws. DATA comes from films.js. */
"use strict";

const byId = (id) => document.getElementById(id);
const fixed = (value) => value.toFixed(3).replace("-", "−");
const THRESHOLDS = Array.from({ length: 49 }, (_, k) => (k + 1) / 50);
const INVERSES = Array.from({ length: 160 }, (_, k) => k + 1);
const sheet = new Image();

function choose(id, names) {
  byId(id).replaceChildren(...names.map((name, k) => new Option(name, k)));
}

/** The chosen film, concept and method with their map on the film's pixels. */
function chosen() {
  const film = DATA.films[byId("film").value];
  const method = DATA.methods[byId("method").value];
  const k = Number(byId("concept").value);
  const all = measures.unpack(film.cells[method], DATA.step, film.grid[0] * film.grid[1]);
  const map = measures.onFilm(all[k], film.grid, film.size);
  const runs = film.lesions[DATA.concepts[k]];
  return { film, method, k, all, map, heat: measures.stretch(map), mask: runs && measures.maskOf(runs) };
}

function paint({ film, heat }) {
  const [height, width] = film.size;
  const canvas = byId("picture");
  [canvas.width, canvas.height] = [3 * width, 3 * height];
  const context = canvas.getContext("2d");
  const place = DATA.films.indexOf(film) * width;
  context.drawImage(sheet, place, 0, width, height, 0, 0, canvas.width, canvas.height);
  const layer = new OffscreenCanvas(width, height);
  const colors = new ImageData(width, height);
  heat.forEach((value, at) => colors.data.set([255, 150 * (1 - value) + 60, 0, 150 * value * value], 4 * at));
  layer.getContext("2d").putImageData(colors, 0, 0);
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
}

function mark({ film, heat, mask, map }, threshold) {
  const [height, width] = film.size;
  const at = measures.peak(map);
  const [x, y] = [(at % width) + 0.5, Math.floor(at / width) + 0.5];
  byId("marks").setAttribute("viewBox", `0 0 ${width} ${height}`);
  byId("marks").innerHTML =
    `<path class="region" d="${measures.outline((k) => heat[k] >= threshold, film.size)}"/>` +
    (mask ? `<path class="lesion" d="${measures.outline((k) => mask[k] === 1, film.size)}"/>` : "") +
    `<path class="peak" d="M${x - 3} ${y}h6M${x} ${y - 3}v6"/>`;
}

/** What the pointing game says, in words, and whether the concept is labeled. */
function verdict({ film, k, map, mask }) {
  const concept = DATA.concepts[k];
  const said = { 1: "labeled present", 0: "labeled absent" }[film.labels[concept]] ?? "not labeled";
  if (!mask) return `${concept}: ${said}. Pointing game: no lesion of it is drawn.`;
  return `${concept}: ${said}. Pointing game: ${measures.points(map, mask) ? "hit" : "miss"}.`;
}

/** A line chart of ys by xs with a point at the chosen x. */
function curve(id, xs, ys, x, label) {
  const [width, height, pad] = [300, 96, 22];
  const [low, high] = [Math.min(0, ...ys), Math.max(0.01, ...ys)];
  const across = (value) => pad + ((value - xs[0]) / (xs.at(-1) - xs[0])) * (width - 2 * pad);
  const up = (value) => height - 16 - ((value - low) / (high - low)) * (height - 28);
  const y = ys[xs.findIndex((each) => Math.abs(each - x) < 1e-9)];
  const line = ys.map((each, k) => `${across(xs[k]).toFixed(1)},${up(each).toFixed(1)}`).join(" ");
  const svg = byId(id);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `${label}: ${fixed(y)} at ${x}, from ${fixed(Math.min(...ys))} to ${fixed(Math.max(...ys))}`);
  svg.innerHTML =
    `<line x1="${pad}" x2="${width - pad}" y1="${up(0)}" y2="${up(0)}"/><polyline points="${line}"/>` +
    `<circle cx="${across(x)}" cy="${up(y)}" r="4"/>` +
    `<text x="${pad}" y="${height - 2}">${xs[0]}</text><text x="${width - pad}" y="${height - 2}" text-anchor="end">${xs.at(-1)}</text>` +
    `<text x="${pad}" y="11">${fixed(high)}</text>`;
}

function bars(id, scores, { film, k }) {
  const low = Math.min(0, ...scores);
  const unit = 150 / (Math.max(0.01, ...scores) - low);
  const row = (score, n) => {
    const labeled = film.labels[DATA.concepts[n]] === 1 ? " ●" : "";
    const [from, to] = [Math.min(0, score), Math.max(0, score)].map((value) => 125 + (value - low) * unit);
    return (
      `<g class="${n === k ? "chosen" : ""}"><text x="118" y="${18 * n + 13}" text-anchor="end">${DATA.concepts[n]}${labeled}</text>` +
      `<rect x="${from}" y="${18 * n + 3}" width="${to - from}" height="12"/>` +
      `<text x="320" y="${18 * n + 13}" text-anchor="end">${fixed(score)}</text></g>`
    );
  };
  byId(id).setAttribute("viewBox", `0 0 322 ${18 * scores.length}`);
  byId(id).setAttribute("aria-label", scores.map((score, n) => `${DATA.concepts[n]} ${fixed(score)}`).join(", "));
  byId(id).innerHTML = scores.map(row).join("");
}

function sentences(id, found) {
  byId(id).replaceChildren(
    ...found.map(([place, cosine]) => {
      const item = document.createElement("li");
      item.textContent = `${DATA.sentences[place]} (${fixed(cosine)})`;
      return item;
    }),
  );
}

function update() {
  const now = chosen();
  const { film, method, k, all, heat, mask } = now;
  const [inverse, threshold] = [Number(byId("inverse").value), Number(byId("threshold").value)];
  const concept = all.map((cells) => measures.aggregate(cells, inverse));
  const fused = concept.map((score, n) => (score + film.report[method][n]) / 2);
  const dices = mask && THRESHOLDS.map((each) => measures.dice(heat, mask, each));
  paint(now);
  mark(now, threshold);
  byId("verdict").textContent = verdict(now);
  byId("picture").setAttribute("aria-label", `Simulated film ${film.image} with the map of ${method}. ${verdict(now)}`);
  byId("range").textContent = `Cosines of cells from ${fixed(Math.min(...all[k]))} to ${fixed(Math.max(...all[k]))}.`;
  byId("inverse-value").textContent = inverse;
  byId("threshold-value").textContent = threshold.toFixed(2);
  byId("report").textContent = fixed(film.report[method][k]);
  byId("score").textContent = fixed(concept[k]);
  byId("fused").textContent = fixed(fused[k]);
  byId("dice").textContent = mask ? fixed(measures.dice(heat, mask, threshold)) : "no lesion drawn";
  byId("oracle").textContent = mask ? fixed(Math.max(...dices)) : "no lesion drawn";
  curve("inverse-curve", INVERSES, INVERSES.map((each) => measures.aggregate(all[k], each)), inverse, "p′ by 1 / tau_c");
  byId("dice-curve").parentElement.hidden = !mask;
  if (mask) curve("dice-curve", THRESHOLDS, dices, threshold, "Dice by threshold");
  bars("bars", fused, now);
  sentences("of-film", film.nearest);
  sentences("of-method", DATA.said[method][k]);
}

/** A new film shows its own lesion first. */
function takeFilm() {
  byId("concept").value = DATA.concepts.indexOf(Object.keys(DATA.films[byId("film").value].lesions)[0]);
}

choose("film", DATA.films.map((film, k) => `${k + 1} of ${DATA.films.length}: ${Object.keys(film.lesions).join(", ")} (${film.dataset})`));
choose("concept", DATA.concepts);
choose("method", DATA.methods);
byId("inverse").value = DATA.inverse_temperature;
takeFilm();
byId("film").addEventListener("change", takeFilm);
byId("explorable").addEventListener("change", update);
byId("explorable").addEventListener("input", (event) => event.target.type === "range" && update());
sheet.addEventListener("load", update);
sheet.src = "../_static/films.webp";
