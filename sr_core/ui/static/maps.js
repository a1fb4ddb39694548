const find = (selector) => element.querySelector(selector);
const section = find(".sr-maps"), select = find("select"), names = ["spread", "above"];
const figures = Object.fromEntries(names.map((name) => [name, find('figure[data-map="' + name + '"]')]));
const held = { spread: null, above: null };
let shown = null, wanted = "";

function ask() {
  if (!shown) return;
  wanted = shown.run + "|" + select.value + "|" + shown.stamp;
  for (const name of names) {
    figures[name].querySelector(".sr-maps-words").textContent = "Reading the pictures\u2026";
    figures[name].setAttribute("aria-busy", "true");
  }
  trigger("want_maps", { picture: select.value, wanted });
}

async function take(answer) {
  if (answer.wanted !== wanted) return;
  find(".sr-maps-numbers .sr-scroller").innerHTML = answer.table;
  for (const name of names) {
    const map = answer[name], figure = figures[name], canvas = figure.querySelector("canvas");
    figure.setAttribute("aria-busy", "false");
    figure.querySelector(".sr-maps-legend").hidden = canvas.hidden = !map.url;
    figure.querySelector("button").disabled = !map.url;
    figure.querySelector(".sr-maps-words").textContent = map.words;
    held[name] = null;
    if (!map.url) continue;
    const response = await fetch(map.url);
    const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    if (answer.wanted !== wanted) return;
    canvas.width = bitmap.width; canvas.height = bitmap.height;
    canvas.style.setProperty("--ratio", bitmap.width / bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const image = context.getImageData(0, 0, bitmap.width, bitmap.height), data = image.data, values = new Uint16Array(bitmap.width * bitmap.height);
    for (let i = 0, p = 0; i < data.length; i += 4, p++) {
      values[p] = data[i] * 256 + data[i + 1];
      const colour = shown.colours[Math.round(255 * Math.min(1, values[p] / 256 / map.top))];
      data[i] = colour[0]; data[i + 1] = colour[1]; data[i + 2] = colour[2];
    }
    context.putImageData(image, 0, 0);
    bitmap.close();
    canvas.setAttribute("aria-label", map.words + ". " + map.spoken);
    figure.querySelector(".sr-maps-legend-words").textContent = map.legend;
    const ticks = figure.querySelectorAll(".sr-maps-ticks span");
    ticks[1].textContent = map.top / 2; ticks[2].textContent = map.top + " levels or more";
    held[name] = { ...map, values, width: canvas.width };
  }
  section.dataset.ready = wanted;
}

function render() {
  const value = props.value;
  section.hidden = !value;
  if (!value) { shown = null; return; }
  const before = shown && shown.run === value.run ? select.value : "";
  const same = shown && shown.run === value.run && shown.stamp === value.stamp;
  shown = value;
  select.replaceChildren(...value.pictures.map(([id, words]) => new Option(words, id)));
  if (value.pictures.some(([id]) => id === before)) select.value = before;
  if (!same || !section.dataset.ready) ask();
}

function placeAt(event, name) {
  const canvas = figures[name].querySelector("canvas"), frame = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - frame.left) / frame.width * canvas.width), y = Math.floor((event.clientY - frame.top) / frame.height * canvas.height);
  return { x: Math.min(canvas.width - 1, Math.max(0, x)), y: Math.min(canvas.height - 1, Math.max(0, y)) };
}

for (const name of names) {
  const canvas = figures[name].querySelector("canvas"), words = figures[name].querySelector(".sr-maps-words");
  canvas.addEventListener("pointermove", (event) => {
    if (!held[name]) return;
    const { x, y } = placeAt(event, name);
    words.textContent = "x " + x + ", y " + y + ": " + (held[name].values[y * held[name].width + x] / 256).toFixed(2) + " levels";
  });
  canvas.addEventListener("pointerleave", () => { if (held[name]) words.textContent = held[name].words; });
  canvas.addEventListener("click", (event) => { if (held[name]) window.dispatchEvent(new CustomEvent("sr-point", { detail: placeAt(event, name) })); });
  figures[name].querySelector("button").addEventListener("click", () => window.dispatchEvent(new CustomEvent("sr-overlay", { detail: { map: name, picture: select.value } })));
}
select.addEventListener("change", ask);

window.addEventListener("sr-maps-answer", function hear(event) {
  if (!element.isConnected) { window.removeEventListener("sr-maps-answer", hear); return; }
  take(event.detail);
});
watch("value", render);
render();
