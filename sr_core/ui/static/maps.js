const find = (selector) => element.querySelector(selector);
const section = find(".sr-maps"), select = find("select"), said = find(".sr-maps-said"), again = find(".sr-maps-again");
const names = ["spread", "above"];
const figures = Object.fromEntries(names.map((name) => [name, find('figure[data-map="' + name + '"]')]));
const held = { spread: null, above: null };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let shown = null, wanted = "", point = null;

const askMaps = asker("want_maps", () => shown && shown.run, (answer, asked) => { if (JSON.stringify(asked) === wanted) take(answer); });

function ask() {
  if (!shown) return;
  const question = { run: shown.run, picture: select.value, stamp: shown.stamp };
  wanted = JSON.stringify(question);
  delete section.dataset.ready;
  again.hidden = true;
  for (const name of names) tell(name, { words: "Reading the pictures\u2026" }, true);
  askMaps(question);
}

// A figure without a map: words alone.
function tell(name, map, busy) {
  const figure = figures[name];
  figure.setAttribute("aria-busy", String(busy));
  figure.querySelector(".sr-maps-words").textContent = map.words;
  if (busy) return;
  held[name] = null;
  figure.querySelector(".sr-maps-legend").hidden = figure.querySelector(".sr-maps-canvas").hidden = true;
  for (const button of figure.querySelectorAll("button")) button.disabled = true;
}

function fail(words, mayHelp) {
  for (const name of names) tell(name, { words: sentence(words) }, false);
  find(".sr-maps-numbers .sr-scroller").replaceChildren();
  again.hidden = !mayHelp;
}

async function take(answer) {
  const key = wanted, colours = shown.colours;
  if (answer.problem) { fail(answer.problem, answer.again); return; }
  find(".sr-maps-numbers .sr-scroller").innerHTML = answer.table;
  for (const name of names) {
    const map = answer[name];
    if (!map.url) { tell(name, { words: sentence(map.words) }, false); continue; }
    try {
      const response = await fetch(map.url);
      if (!response.ok) throw new Error(map.url);
      const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
      if (key !== wanted || !shown) return;
      show(name, map, bitmap, colours);
    } catch {
      if (key === wanted) fail("a map's file could not be read", true);
      return;
    }
  }
  section.dataset.ready = key;
}

function show(name, map, bitmap, colours) {
  const figure = figures[name], canvas = figure.querySelector("canvas"), frame = figure.querySelector(".sr-maps-canvas");
  canvas.width = bitmap.width; canvas.height = bitmap.height;
  frame.style.setProperty("--ratio", bitmap.width / bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, bitmap.width, bitmap.height), data = image.data, values = new Uint16Array(bitmap.width * bitmap.height);
  for (let i = 0, p = 0; i < data.length; i += 4, p++) {
    values[p] = data[i] * 256 + data[i + 1];
    const colour = colours[Math.round(255 * Math.min(1, values[p] / 256 / map.top))];
    data[i] = colour[0]; data[i + 1] = colour[1]; data[i + 2] = colour[2];
  }
  context.putImageData(image, 0, 0);
  bitmap.close();
  held[name] = { ...map, values, width: canvas.width, height: canvas.height };
  figure.setAttribute("aria-busy", "false");
  figure.querySelector(".sr-maps-legend-words").textContent = map.legend;
  const ticks = figure.querySelectorAll(".sr-maps-ticks span");
  ticks[1].textContent = map.top / 2; ticks[2].textContent = map.top + " levels or more";
  figure.querySelector(".sr-maps-legend").hidden = frame.hidden = false;
  figure.querySelector("[data-over]").disabled = false;
  showWords();
}

function render() {
  const value = props.value;
  section.hidden = !value;
  if (!value) { shown = null; return; }
  const sameRun = shown && shown.run === value.run, before = sameRun ? select.value : "";
  const same = sameRun && shown.stamp === value.stamp, failed = !again.hidden;
  if (!sameRun) point = null;
  shown = value;
  select.replaceChildren(...value.pictures.map(([id, words]) => new Option(words, id)));
  if (value.pictures.some(([id]) => id === before)) select.value = before;
  if (!same || failed) ask();
  // Another order changes what pictures are called, and no pixel of their maps.
  else if (section.dataset.ready) showWords();
}

// ---- The point: one for both maps, set by a click, a tap or keys.

// A picture is called what it is called now, whatever it was called when its map was asked for.
function wordsOf(map) {
  const named = map.picture && shown.pictures.find(([id]) => id === map.picture);
  return named ? map.words + ": " + named[1] : map.words;
}

function showWords() {
  for (const name of names)
    if (held[name]) figures[name].querySelector("canvas").setAttribute("aria-label", wordsOf(held[name]) + ". " + held[name].spoken + ". Arrow keys move the point.");
  showPoint();
}

const valueAt = (name, { x, y }) => "x " + x + ", y " + y + ": " + (held[name].values[y * held[name].width + x] / 256).toFixed(2) + " levels";

function showPoint() {
  for (const name of names) {
    const mark = figures[name].querySelector(".sr-maps-mark"), map = held[name];
    figures[name].querySelector("[data-go]").disabled = !map || !point;
    mark.hidden = !map || !point;
    if (map) figures[name].querySelector(".sr-maps-words").textContent = point ? valueAt(name, point) : wordsOf(map);
    if (mark.hidden) continue;
    mark.style.left = 100 * (point.x + 0.5) / map.width + "%";
    mark.style.top = 100 * (point.y + 0.5) / map.height + "%";
  }
}

function placeAt(event, name) {
  const canvas = figures[name].querySelector("canvas"), frame = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - frame.left) / frame.width * canvas.width), y = Math.floor((event.clientY - frame.top) / frame.height * canvas.height);
  return { x: Math.min(canvas.width - 1, Math.max(0, x)), y: Math.min(canvas.height - 1, Math.max(0, y)) };
}

const goThere = () => window.dispatchEvent(new CustomEvent("sr-point", { detail: point }));

for (const name of names) {
  const canvas = figures[name].querySelector("canvas"), words = figures[name].querySelector(".sr-maps-words");
  canvas.addEventListener("pointermove", (event) => { if (held[name] && event.pointerType !== "touch") words.textContent = valueAt(name, placeAt(event, name)); });
  canvas.addEventListener("pointerleave", (event) => { if (held[name] && event.pointerType !== "touch") showPoint(); });
  canvas.addEventListener("click", (event) => {
    if (!held[name]) return;
    point = placeAt(event, name);
    showPoint();
    // A finger covers what it points at: the value first, the pictures above by the button.
    if (event.pointerType === "touch") said.textContent = valueAt(name, point); else goThere();
  });
  canvas.addEventListener("keydown", (event) => {
    const map = held[name];
    if (!map || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && point) { event.preventDefault(); goThere(); return; }
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    const [dx, dy] = ARROWS[event.key], by = event.shiftKey ? 10 : 1, from = point || { x: Math.floor(map.width / 2), y: Math.floor(map.height / 2) };
    point = { x: Math.min(map.width - 1, Math.max(0, from.x + dx * by)), y: Math.min(map.height - 1, Math.max(0, from.y + dy * by)) };
    showPoint();
    said.textContent = valueAt(name, point);
  });
  figures[name].querySelector("[data-go]").addEventListener("click", goThere);
  figures[name].querySelector("[data-over]").addEventListener("click", () => window.dispatchEvent(new CustomEvent("sr-overlay", { detail: { map: name, picture: select.value } })));
}
select.addEventListener("change", ask);
again.addEventListener("click", ask);

watch("value", render);
render();
