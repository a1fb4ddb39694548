const find = (selector) => element.querySelector(selector);
const all = (selector) => Array.from(element.querySelectorAll(selector));
const section = find(".sr-cmp"), stage = find(".sr-cmp-stage"), marks = find(".sr-cmp-marks"), said = find(".sr-cmp-said");
const canvases = Object.fromEntries(["left", "right", "difference", "overlay"].map((name) => [name, find(".sr-cmp-canvas-" + name)]));
const lenses = { left: find(".sr-cmp-lens-left"), right: find(".sr-cmp-lens-right") };
const selects = { left: find(".sr-cmp-left"), right: find(".sr-cmp-right") };
const divider = find(".sr-cmp-divider"), handle = find(".sr-cmp-handle"), overlaySelect = find(".sr-cmp-overlay");
const MODES = ["side", "slider", "blink", "difference"];
const LADDER = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const LUMA = [0.299, 0.587, 0.114];
const KEPT_PIXELS = window.innerWidth < 860 ? 24e6 : 96e6;
const DIFFERENCE_PIXELS = 4e6;
const LENSES = { 11: 121, 21: 126, 41: 123 };
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

let shown = null;
const pins = { left: "input", right: "" };
let mode = "side", zoom = "fit", pinched = null, centre = { x: 0, y: 0 }, point = { x: 0, y: 0 };
let share = 50, channel = "luma", gain = 1, inputKind = "bicubic", overlay = "", opacity = 80;
let flipped = false, playing = false, pace = 800, timer = 0, arming = null, crop = null, crops = [], pending = null, numLoads = 0, asked = false, lens = 11;

// One picture pixel is one device pixel at 1:1, whatever the screen's density.
const density = () => window.devicePixelRatio || 1;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const picture = (side) => shown.pictures.find((one) => one.id === pins[side]);
const say = (words) => { said.textContent = words; };

// ---- Pictures: decoded once, without colour conversion, so that canvases hold the files' own 8-bit values; of what is
// not opaque they hold the product with its opacity, which the note below the values says.

let kept = new Map();
const maps = new Map();

function addressOf(one) {
  return one.kind === "input" && inputKind === "bicubic" && one.smooth ? one.smooth : one.url;
}

async function decoded(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(address);
  return createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

async function enlarged(bitmap) {
  if (bitmap.width === shown.width && bitmap.height === shown.height) return bitmap;
  const canvas = new OffscreenCanvas(shown.width, shown.height), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, shown.width, shown.height);
  bitmap.close();
  return canvas.transferToImageBitmap();
}

function load(one) {
  const address = addressOf(one);
  let entry = kept.get(address);
  if (entry) { kept.delete(address); kept.set(address, entry); return entry; }
  entry = { bitmap: null, ready: null };
  entry.ready = decoded(address).then(enlarged).then((bitmap) => { entry.bitmap = bitmap; return bitmap; });
  entry.ready.catch(() => kept.delete(address));
  kept.set(address, entry);
  let budget = Math.max(3, Math.floor(KEPT_PIXELS / (shown.width * shown.height)));
  for (const [key, old] of kept) {
    if (kept.size <= budget) break;
    if (["left", "right"].some((side) => picture(side) && addressOf(picture(side)) === key) || key === address) continue;
    kept.delete(key);
    old.ready.then((bitmap) => bitmap.close(), () => {});
  }
  return entry;
}

const bitmapOf = (side) => { const entry = picture(side) && kept.get(addressOf(picture(side))); return entry ? entry.bitmap : null; };

// The rest is decoded while nothing else goes on, so that pinning is only a matter of drawing.
function prefetch() {
  const run = shown, idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const budget = Math.floor(KEPT_PIXELS / (run.width * run.height));
  const rest = run.pictures.slice(0, budget);
  const next = () => {
    const one = rest.shift();
    if (!one || shown !== run || !element.isConnected) return;
    if (kept.size < budget || kept.has(addressOf(one))) load(one).ready.catch(() => {}).then(() => idle(next));
  };
  idle(next);
}

const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });

// 8-bit values of every k-th pixel of a part of a picture.
function read(bitmap, x, y, width, height, k = 1) {
  const across = Math.ceil(width / k), down = Math.ceil(height / k);
  if (scratch.canvas.width < across || scratch.canvas.height < down) {
    scratch.canvas.width = Math.max(across, scratch.canvas.width);
    scratch.canvas.height = Math.max(down, scratch.canvas.height);
  }
  scratch.imageSmoothingEnabled = false;
  scratch.clearRect(0, 0, across, down);
  if (k === 1) scratch.drawImage(bitmap, x, y, width, height, 0, 0, width, height);
  else scratch.drawImage(bitmap, x, y, across * k, down * k, 0, 0, across, down);
  return scratch.getImageData(0, 0, across, down).data;
}

// ---- The view: both panes show the same place at the same scale.

function panes() {
  const width = stage.clientWidth, height = stage.clientHeight;
  if (mode !== "side") return [{ side: "both", x: 0, y: 0, width, height }];
  const gap = 2;
  if (width < 620) {
    const half = (height - gap) / 2;
    return [{ side: "left", x: 0, y: 0, width, height: half }, { side: "right", x: 0, y: half + gap, width, height: half }];
  }
  const half = (width - gap) / 2;
  return [{ side: "left", x: 0, y: 0, width: half, height }, { side: "right", x: half + gap, y: 0, width: half, height }];
}

const deviceSize = (pane) => ({ width: Math.max(1, Math.floor(pane.width * density())), height: Math.max(1, Math.floor(pane.height * density())) });

function fitScale(pane) {
  const size = deviceSize(pane), scale = Math.min(size.width / shown.width, size.height / shown.height);
  return scale >= 1 ? Math.floor(scale) : scale;
}

const scaleIn = (pane) => pinched || (zoom === "fit" ? fitScale(pane) : Number(zoom));

function view(pane) {
  const size = deviceSize(pane), scale = scaleIn(pane);
  const along = (centreAt, length, extent) => {
    const whole = extent * scale;
    if (whole <= length) return Math.round((length - whole) / 2);
    return Math.round(clamp(length / 2 - centreAt * scale, length - whole, 0));
  };
  return { ...size, scale, x: along(centre.x, size.width, shown.width), y: along(centre.y, size.height, shown.height) };
}

function settleCentre() {
  const pane = panes()[0], size = deviceSize(pane), scale = scaleIn(pane);
  for (const [axis, length, extent] of [["x", size.width, shown.width], ["y", size.height, shown.height]]) {
    const half = length / 2 / scale;
    centre[axis] = extent <= 2 * half ? extent / 2 : clamp(centre[axis], half, extent - half);
  }
}

const pannable = () => panes().some((pane) => { const v = view(pane); return shown.width * v.scale > v.width + 1 || shown.height * v.scale > v.height + 1; });

function placed(canvas, pane) {
  const { width, height } = deviceSize(pane);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  canvas.style.left = pane.x + "px"; canvas.style.top = pane.y + "px";
  canvas.style.width = width / density() + "px"; canvas.style.height = height / density() + "px";
  return canvas.getContext("2d", { colorSpace: "srgb" });
}

function visible(v) {
  const x = clamp(Math.floor(-v.x / v.scale), 0, shown.width - 1), y = clamp(Math.floor(-v.y / v.scale), 0, shown.height - 1);
  const right = clamp(Math.ceil((v.width - v.x) / v.scale), x + 1, shown.width), bottom = clamp(Math.ceil((v.height - v.y) / v.scale), y + 1, shown.height);
  return { x, y, width: right - x, height: bottom - y };
}

function paint(context, source, v) {
  context.clearRect(0, 0, v.width, v.height);
  context.imageSmoothingEnabled = v.scale < 1;
  context.imageSmoothingQuality = "high";
  if (v.scale < 1) { context.drawImage(source, v.x, v.y, shown.width * v.scale, shown.height * v.scale); return; }
  const part = visible(v);
  context.drawImage(source, part.x, part.y, part.width, part.height, v.x + part.x * v.scale, v.y + part.y * v.scale, part.width * v.scale, part.height * v.scale);
}

function paneOf(side) { const list = panes(); return list.find((pane) => pane.side === side) || list[0]; }

function draw() {
  if (!shown || !stage.clientWidth) return;
  settleCentre();
  const bitmaps = { left: bitmapOf("left"), right: bitmapOf("right") };
  for (const side of ["left", "right"]) {
    const pane = paneOf(side), context = placed(canvases[side], pane);
    if (bitmaps[side]) paint(context, bitmaps[side], view(pane));
    else context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  }
  drawDifference(bitmaps);
  drawOverlay();
  showSides();
  placeMarks();
  drawPoint(bitmaps);
  stage.style.touchAction = pannable() || arming ? "none" : "pan-y";
  stage.classList.toggle("sr-cmp-pannable", pannable());
  const scale = scaleIn(panes()[0]);
  find(".sr-cmp-scale").textContent = scale >= 1 ? (Number.isInteger(scale) ? scale : scale.toFixed(1)) + ":1" : Math.round(scale * 100) + " %";
}

let queued = false;
function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; draw(); });
}

// ---- Difference: right minus left, from the true 8-bit pixels.

const STOPS = [[33, 102, 172], [146, 197, 222], [247, 247, 247], [253, 184, 99], [179, 88, 6]];
const signedColours = new Uint8ClampedArray(511 * 3);
for (let i = 0; i < 511; i++) {
  const t = i / 510 * 4, k = Math.min(3, Math.floor(t));
  for (let c = 0; c < 3; c++) signedColours[3 * i + c] = STOPS[k][c] + (STOPS[k + 1][c] - STOPS[k][c]) * (t - k);
}
let difference = { key: "", canvas: document.createElement("canvas"), words: "" };

function differenceOf(a, b, i) {
  return channel === "luma"
    ? LUMA[0] * (b[i] - a[i]) + LUMA[1] * (b[i + 1] - a[i + 1]) + LUMA[2] * (b[i + 2] - a[i + 2])
    : b[i + Number(channel)] - a[i + Number(channel)];
}

function drawDifference(bitmaps) {
  const canvas = canvases.difference;
  canvas.hidden = mode !== "difference";
  if (canvas.hidden || !bitmaps.left || !bitmaps.right) return;
  const pane = panes()[0], v = view(pane), part = visible(v), context = placed(canvas, pane);
  const k = Math.max(1, Math.ceil(Math.sqrt(part.width * part.height / DIFFERENCE_PIXELS)));
  const key = [pins.left, pins.right, inputKind, shown.run, channel, gain, part.x, part.y, part.width, part.height].join();
  if (difference.key !== key) computeDifference(bitmaps, part, k, key);
  context.clearRect(0, 0, v.width, v.height);
  context.imageSmoothingEnabled = v.scale < 1;
  const across = difference.canvas.width * k, down = difference.canvas.height * k;
  context.drawImage(difference.canvas, v.x + part.x * v.scale, v.y + part.y * v.scale, across * v.scale, down * v.scale);
  find(".sr-cmp-inview").textContent = difference.words;
}

function computeDifference(bitmaps, part, k, key) {
  const a = read(bitmaps.left, part.x, part.y, part.width, part.height, k);
  const b = read(bitmaps.right, part.x, part.y, part.width, part.height, k);
  const width = Math.ceil(part.width / k), height = Math.ceil(part.height / k);
  const image = new ImageData(width, height), out = image.data;
  let sum = 0, squares = 0, largest = 0;
  for (let i = 0; i < out.length; i += 4) {
    const d = differenceOf(a, b, i);
    sum += d; squares += d * d;
    if (Math.abs(d) > Math.abs(largest)) largest = d;
    const place = 3 * Math.round(clamp(d * gain, -255, 255) + 255);
    out[i] = signedColours[place]; out[i + 1] = signedColours[place + 1]; out[i + 2] = signedColours[place + 2]; out[i + 3] = 255;
  }
  difference.canvas.width = width; difference.canvas.height = height;
  difference.canvas.getContext("2d").putImageData(image, 0, 0);
  const count = width * height;
  difference.key = key;
  difference.words = "In view: mean " + signed(sum / count, 2) + ", root mean square " + Math.sqrt(squares / count).toFixed(2) + ", largest " + signed(largest, channel === "luma" ? 1 : 0) + (k > 1 ? " (every " + k + "th pixel)" : "");
}

function signed(value, digits) {
  const words = Math.abs(value).toFixed(digits);
  return Number(words) === 0 ? words : (value > 0 ? "+" : "\u2212") + words;
}

// ---- Overlays: maps of numbers, coloured here, so that they can also be read under the pointer.

const overlayKey = () => overlay && shown ? shown.run + "|" + overlay + "|" + (overlay === "above" ? pins.right : "") : "";

// What failed before may go well when it is asked for again.
function forgetProblem() { const map = maps.get(overlayKey()); if (map && map.problem) maps.delete(overlayKey()); }

function wantOverlay() {
  const key = overlayKey();
  if (!key || maps.has(key)) return;
  if (overlay === "above" && pins.right === "input") { maps.set(key, { problem: "the input has nothing above its own Nyquist frequency" }); return; }
  askMap({ run: shown.run, stamp: shown.stamp, map: overlay, picture: overlay === "above" ? pins.right : null });
}

const askMap = asker("want_map", () => shown && shown.run, async (answer, question) => {
  const key = question.run + "|" + question.map + "|" + (question.picture || ""), { colours } = shown;
  const stale = () => !shown || shown.run !== question.run || shown.stamp !== question.stamp;
  if (stale()) return;
  let map = answer;
  if (!answer.problem) {
    const bitmap = await decoded(answer.url).catch(() => null);
    if (stale()) return;
    map = bitmap ? coloured(bitmap, answer, colours) : { problem: "the map's file could not be read", again: true };
  }
  // Maps of large pictures are large; only a few are worth their memory.
  for (const old of Array.from(maps.keys()).slice(0, -6)) if (old !== key) maps.delete(old);
  maps.set(key, map);
  showOptions();
  redraw();
});

function coloured(bitmap, answer, colours) {
  const width = bitmap.width, height = bitmap.height;
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const image = context.getImageData(0, 0, width, height), data = image.data, values = new Uint16Array(width * height);
  for (let i = 0, p = 0; i < data.length; i += 4, p++) {
    values[p] = data[i] * 256 + data[i + 1];
    const t = Math.min(1, values[p] / 256 / answer.top), colour = colours[Math.round(255 * t)];
    data[i] = colour[0]; data[i + 1] = colour[1]; data[i + 2] = colour[2]; data[i + 3] = Math.round(255 * t);
  }
  context.putImageData(image, 0, 0);
  return { canvas, values, width, ...answer };
}

function drawOverlay() {
  const canvas = canvases.overlay, map = maps.get(overlayKey());
  canvas.hidden = !map || !map.canvas || mode === "difference" || (mode === "blink" && !flipped);
  stage.dataset.overlay = map && map.canvas ? overlay : "";
  if (canvas.hidden) return;
  const pane = paneOf("right"), context = placed(canvas, pane);
  paint(context, map.canvas, view(pane));
  canvas.style.opacity = opacity / 100;
  canvas.setAttribute("aria-label", map.words + ", over " + picture("right").label);
}

// ---- What is shown where.

function showSides() {
  const { left, right, overlay: over } = canvases;
  left.style.visibility = mode === "difference" || (mode === "blink" && flipped) ? "hidden" : "visible";
  right.style.visibility = mode === "difference" || (mode === "blink" && !flipped) ? "hidden" : "visible";
  left.style.clipPath = right.style.clipPath = over.style.clipPath = "none";
  divider.hidden = mode !== "slider";
  const tags = { left: find(".sr-cmp-tag-left"), right: find(".sr-cmp-tag-right") };
  for (const side of ["left", "right"]) { tags[side].hidden = false; tags[side].style.cssText = ""; }
  if (mode === "slider") {
    const x = splitAt();
    left.style.clipPath = "inset(0 " + Math.max(0, stage.clientWidth - x) + "px 0 0)";
    right.style.clipPath = over.style.clipPath = "inset(0 0 0 " + Math.max(0, x) + "px)";
    divider.style.left = x + "px";
    tags.left.hidden = share < 12; tags.right.hidden = share > 88;
  }
  if (mode === "side") {
    const [first, second] = panes();
    tags.left.style.maxWidth = tags.right.style.maxWidth = first.width - 24 + "px";
    if (second.y) tags.left.style.bottom = stage.clientHeight - first.height + 10 + "px";
    tags.right.style.cssText += second.y ? "left: 10px; right: auto;" : "left: " + (second.x + 10) + "px; right: auto;";
  }
  if (mode === "blink") { tags.left.hidden = flipped; tags.right.hidden = !flipped; }
  if (mode === "difference") { tags.left.hidden = true; tags.right.textContent = "Difference"; }
}

function extent() {
  const v = view(panes()[0]), part = visible(v), d = density();
  const left = (v.x + part.x * v.scale) / d;
  return { left: Math.max(0, left), right: Math.min(stage.clientWidth, left + part.width * v.scale / d) };
}

function splitAt() { const { left, right } = extent(); return left + (right - left) * share / 100; }

function setShare(value) {
  share = clamp(value, 0, 100);
  handle.setAttribute("aria-valuenow", String(Math.round(share)));
  handle.setAttribute("aria-valuetext", Math.round(share) + " % left, " + Math.round(100 - share) + " % right");
  redraw();
}

function pressed(name, value) {
  for (const button of all("button[data-" + name + "]")) button.setAttribute("aria-pressed", String(button.dataset[name] === String(value)));
}

function showOptions() {
  pressed("mode", mode); pressed("zoom", zoom); pressed("channel", channel); pressed("gain", gain); pressed("input", inputKind);
  for (const option of all("[data-for]")) option.hidden = option.dataset.for !== mode;
  const input = shown && ["left", "right"].map(picture).find((one) => one && one.kind === "input");
  find(".sr-cmp-input").hidden = !input;
  find('[data-input="bicubic"]').disabled = Boolean(input) && !input.smooth;
  const full = 255 / gain, ticks = find(".sr-cmp-legend-difference .sr-cmp-ticks").children;
  ticks[0].textContent = signed(-full, gain > 1 ? 1 : 0); ticks[2].textContent = signed(full, gain > 1 ? 1 : 0);
  overlaySelect.value = overlay;
  find(".sr-cmp-overlays").hidden = mode === "difference";
  const map = maps.get(overlayKey()), legend = find(".sr-cmp-legend-overlay");
  find(".sr-cmp-opacity-label").hidden = !overlay;
  find(".sr-cmp-opacity-words").textContent = opacity + " %";
  legend.hidden = !overlay;
  legend.classList.toggle("sr-cmp-waiting", Boolean(overlay) && !(map && map.canvas));
  if (overlay) {
    legend.querySelector(".sr-cmp-legend-words").textContent = map && map.canvas ? map.legend : map && map.problem ? sentence(map.problem) : "Reading the pictures\u2026";
    legend.querySelectorAll(".sr-cmp-ticks span")[1].textContent = map && map.canvas ? map.top + " levels" : "";
  }
  find('[data-again="map"]').hidden = mode === "difference" || !(map && map.again);
  find(".sr-cmp-play").textContent = playing ? "Pause" : "Play";
  find(".sr-cmp-pace-words").textContent = (pace / 1000).toFixed(1) + " s";
  find(".sr-cmp-draw").setAttribute("aria-pressed", String(Boolean(arming)));
}

function setMode(value) {
  mode = value;
  play(mode === "blink" && !calm.matches);
  if (mode !== "blink") flipped = false;
  stage.dataset.mode = mode;
  label();
  showOptions();
  draw();
  say({ side: "Side by side", slider: "Slider", blink: playing ? "Blink, playing" : "Blink; Space shows the other picture", difference: "Difference: right minus left" }[mode]);
}

function play(value) {
  clearInterval(timer);
  playing = value;
  if (playing) timer = setInterval(() => { if (element.isConnected && !document.hidden) flip(); }, pace);
  showOptions();
}

function flip() { flipped = !flipped; stage.dataset.flipped = String(flipped); drawOverlay(); showSides(); }

function label() {
  if (!shown) return;
  for (const side of ["left", "right"]) {
    const one = picture(side);
    if (!one) continue;
    canvases[side].setAttribute("aria-label", one.label);
    find(".sr-cmp-tag-" + side).textContent = one.words;
    lenses[side].setAttribute("aria-label", one.words + " around the point");
    selects[side].value = one.id;
  }
  const clear = ["left", "right"].filter((side) => picture(side) && picture(side).transparent).map((side) => picture(side).words);
  const glass = find(".sr-cmp-glass");
  glass.hidden = !clear.length;
  glass.textContent = "Has transparency: " + clear.join(" and ") + ". Where a pixel is not opaque, browsers keep its colour times its opacity: values, lens and difference are rounded there and need not be the file's own levels.";
  if (picture("left") && picture("right")) canvases.difference.setAttribute("aria-label", "Difference: " + picture("right").label + " minus " + picture("left").label);
}

// Both pictures are decoded before either is painted: never two pins half changed.
function showPins() {
  if (!shown) return;
  const load_ = ++numLoads, sides = ["left", "right"];
  label();
  wantOverlay();
  showOptions();
  const entries = sides.map((side) => load(picture(side)));
  const done = () => { stage.dataset.ready = "yes"; stage.dataset.pins = pins.left + " " + pins.right; draw(); };
  if (entries.every((entry) => entry.bitmap)) { done(); return; }
  stage.dataset.ready = "no";
  Promise.all(entries.map((entry) => entry.ready)).then(() => { if (load_ === numLoads && element.isConnected) done(); }, () => say("A picture could not be read."));
}

function pin(left, right) {
  for (const [side, id] of [["left", left], ["right", right]])
    if (id && shown.pictures.some((one) => one.id === id)) pins[side] = id;
  showPins();
}

function step(side, by) {
  const place = shown.pictures.findIndex((one) => one.id === pins[side]), count = shown.pictures.length;
  pins[side] = shown.pictures[(place + by + count) % count].id;
  showPins();
  say((side === "left" ? "Left: " : "Right: ") + picture(side).label);
}

function swap() { [pins.left, pins.right] = [pins.right, pins.left]; showPins(); say("Left: " + picture("left").label + ". Right: " + picture("right").label); }

// ---- Zoom and point.

function setZoom(value, around) {
  const pane = around ? around.pane : panes()[0], before = view(pane);
  const focus = around ? { x: around.x, y: around.y } : { x: (before.width / 2 - before.x) / before.scale, y: (before.height / 2 - before.y) / before.scale };
  const where = { x: before.x + focus.x * before.scale, y: before.y + focus.y * before.scale };
  zoom = value;
  pinched = null;
  const scale = scaleIn(pane);
  centre = { x: focus.x + (before.width / 2 - where.x) / scale, y: focus.y + (before.height / 2 - where.y) / scale };
  pressed("zoom", zoom);
  redraw();
}

function zoomBy(direction, around) {
  const scale = scaleIn(panes()[0]), fit = fitScale(panes()[0]);
  const steps = [fit, ...LADDER.filter((value) => value > fit)];
  const next = direction > 0 ? steps.find((value) => value > scale + 1e-6) : [...steps].reverse().find((value) => value < scale - 1e-6);
  if (next === undefined) return;
  setZoom(next === fit && !LADDER.includes(fit) || next === fit && direction < 0 ? "fit" : String(next), around);
}

// Where a pointer is, in picture pixels of the pane under it.
function located(event) {
  const frame = stage.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
  const list = panes(), pane = list.find((one) => x >= one.x && x < one.x + one.width && y >= one.y && y < one.y + one.height) || list[0];
  const v = view(pane), d = density();
  return { pane, x: ((x - pane.x) * d - v.x) / v.scale, y: ((y - pane.y) * d - v.y) / v.scale };
}

function setPoint(x, y, follow) {
  point = { x: clamp(Math.floor(x), 0, shown.width - 1), y: clamp(Math.floor(y), 0, shown.height - 1) };
  if (follow) {
    const v = view(panes()[0]);
    for (const [axis, length] of [["x", v.width], ["y", v.height]]) {
      const half = Math.max(0.5, length / 2 / v.scale - 4);
      centre[axis] = clamp(centre[axis], point[axis] + 0.5 - half, point[axis] + 0.5 + half);
    }
    redraw();
  } else { placeMarks(); drawPoint({ left: bitmapOf("left"), right: bitmapOf("right") }); }
}

function cellWords(row, values, words) {
  const cells = find(row).querySelectorAll("td");
  values.forEach((value, i) => { cells[i].textContent = words(value, i); });
}

function drawPoint(bitmaps) {
  if (!shown) return;
  const half = (lens - 1) / 2, size = LENSES[lens] / lens, values = {};
  for (const side of ["left", "right"]) {
    const context = lenses[side].getContext("2d");
    if (lenses[side].width !== LENSES[lens]) lenses[side].width = lenses[side].height = LENSES[lens];
    context.clearRect(0, 0, lenses[side].width, lenses[side].height);
    if (!bitmaps[side]) continue;
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmaps[side], point.x - half, point.y - half, lens, lens, 0, 0, lens * size, lens * size);
    context.strokeStyle = "#fff"; context.lineWidth = 1; context.strokeRect(half * size - 0.5, half * size - 0.5, size + 1, size + 1);
    context.strokeStyle = "#000"; context.strokeRect(half * size - 1.5, half * size - 1.5, size + 3, size + 3);
    const rgb = Array.from(read(bitmaps[side], point.x, point.y, 1, 1).slice(0, 3));
    values[side] = [...rgb, LUMA[0] * rgb[0] + LUMA[1] * rgb[1] + LUMA[2] * rgb[2]];
    cellWords(".sr-cmp-row-" + side, values[side], (value, i) => i < 3 ? String(value) : value.toFixed(1));
  }
  if (values.left && values.right) cellWords(".sr-cmp-row-difference", values.right.map((value, i) => value - values.left[i]), (value, i) => signed(value, i < 3 ? 0 : 1));
  const lq = shown.input;
  find(".sr-cmp-place").textContent = "x " + point.x + ", y " + point.y + " \u00b7 input pixel " + Math.floor((point.x + 0.5) * lq[0] / shown.width) + ", " + Math.floor((point.y + 0.5) * lq[1] / shown.height);
  const map = maps.get(overlayKey()), row = find(".sr-cmp-row-map");
  row.hidden = !(map && map.values);
  if (!row.hidden) {
    row.querySelector("th").textContent = overlay === "spread" ? "Varies by" : "Above Nyquist";
    row.querySelector("td").textContent = (map.values[point.y * map.width + point.x] / 256).toFixed(2) + " levels";
  }
}

function outline(kind, box) {
  const parts = [];
  for (const pane of panes()) {
    const v = view(pane), d = density(), part = document.createElement("span"), clip = document.createElement("span");
    clip.className = "sr-cmp-clip";
    clip.style.cssText = "left:" + pane.x + "px;top:" + pane.y + "px;width:" + pane.width + "px;height:" + pane.height + "px";
    part.className = "sr-cmp-mark sr-cmp-mark-" + kind;
    part.style.cssText = "left:" + (v.x + box[0] * v.scale) / d + "px;top:" + (v.y + box[1] * v.scale) / d + "px;width:" + box[2] * v.scale / d + "px;height:" + box[3] * v.scale / d + "px";
    clip.append(part);
    parts.push(clip);
  }
  return parts;
}

function placeMarks() {
  const parts = [];
  if (crop) parts.push(...outline("crop", crop));
  if (arming && arming.from) parts.push(...outline("crop", boxBetween(arming.from, arming.to || point)));
  parts.push(...outline("point", [point.x, point.y, 1, 1]));
  marks.replaceChildren(...parts);
}

// ---- Crops: found or drawn, zoomed to, with their numbers.

function boxBetween(a, b) {
  const left = clamp(Math.floor(Math.min(a.x, b.x)), 0, shown.width - 1), top = clamp(Math.floor(Math.min(a.y, b.y)), 0, shown.height - 1);
  const right = clamp(Math.floor(Math.max(a.x, b.x)) + 1, 1, shown.width), bottom = clamp(Math.floor(Math.max(a.y, b.y)) + 1, 1, shown.height);
  return [left, top, right - left, bottom - top];
}

function arm(value) { arming = value; stage.classList.toggle("sr-cmp-drawing", Boolean(arming)); showOptions(); redraw(); }

function takeCrop(box, words) {
  arm(null);
  if (box[2] < 4 || box[3] < 4) { say("A crop must be at least 4 x 4 pixels"); return; }
  crop = box;
  find(".sr-cmp-crops").open = true;
  const pane = panes()[0], size = deviceSize(pane), most = Math.min(size.width / (1.25 * box[2]), size.height / (1.25 * box[3]));
  const scale = [...LADDER].reverse().find((value) => value <= most);
  zoom = scale === undefined || scale <= fitScale(pane) ? "fit" : String(Math.min(16, scale));
  pinched = null;
  centre = { x: box[0] + box[2] / 2, y: box[1] + box[3] / 2 };
  point = { x: Math.floor(centre.x), y: Math.floor(centre.y) };
  pressed("zoom", zoom);
  for (const button of all("[data-crop]")) button.setAttribute("aria-pressed", String(crops[Number(button.dataset.crop)].box.join() === box.join()));
  draw();
  say(words || "Crop of " + box[2] + " by " + box[3] + " pixels");
  wantNumbers();
}

function showNote(words, again = false) {
  find(".sr-cmp-drift").hidden = true;
  find(".sr-cmp-drift-note").textContent = words;
  find('[data-again="numbers"]').hidden = !again;
}

function wantNumbers() {
  showNote("Measuring the edges\u2026");
  askNumbers({ run: shown.run, stamp: shown.stamp, box: crop });
}

const askNumbers = asker("want_numbers", () => shown && shown.run, (answer, question) => {
  if (!crop || question.box.join() !== crop.join() || question.stamp !== shown.stamp) return;
  if (answer.problem) { showNote(sentence(answer.problem), answer.again); return; }
  showNote(answer.note);
  const drift = find(".sr-cmp-drift");
  drift.innerHTML = answer.table;
  for (const row of drift.querySelectorAll("tbody tr")) row.dataset.picture = row.querySelector("th").textContent;
  nameRows();
  drift.hidden = false;
});

// Rows come with the ids of their pictures: what these are called, and which is first, is what holds now.
function nameRows() {
  for (const one of shown.pictures) {
    const row = find('.sr-cmp-drift tr[data-picture="' + CSS.escape(one.id) + '"]');
    if (!row) continue;
    row.querySelector("th").textContent = one.words;
    row.parentElement.append(row);
  }
}

function wantCrops() {
  if (asked || !shown) return;
  asked = true;
  showFound("Looking for faces and text\u2026");
  askRegions({ run: shown.run, picture: shown.right });
}

function showFound(words, again = false) {
  find(".sr-cmp-found").textContent = words;
  find('[data-again="regions"]').hidden = !again;
}

const askRegions = asker("want_regions", () => shown && shown.run, (answer, question) => {
  if (question.picture !== shown.right) return;
  if (answer.problem) { asked = false; showFound(sentence(answer.problem), answer.again); return; }
  crops = answer.regions;
  listCrops();
  showFound(crops.length ? "" : "Nothing found in the best candidate; draw a crop of your own.");
});

function listCrops() {
  for (const button of all("[data-crop]")) button.remove();
  const before = find(".sr-cmp-found");
  crops.forEach((one, place) => {
    const button = document.createElement("button");
    button.type = "button"; button.dataset.crop = place; button.setAttribute("aria-pressed", "false");
    button.textContent = one.words;
    before.before(button);
  });
}

// ---- Keys.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  s: () => setMode("side"), w: () => setMode("slider"), b: () => setMode("blink"), d: () => setMode("difference"),
  f: () => setZoom("fit"), 1: () => setZoom("1", atPoint()), 2: () => setZoom("2", atPoint()), 4: () => setZoom("4", atPoint()), 8: () => setZoom("8", atPoint()),
  "+": () => zoomBy(1, atPoint()), "=": () => zoomBy(1, atPoint()), "-": () => zoomBy(-1, atPoint()),
  x: swap, p: () => { if (mode === "blink") play(!playing); },
  ",": () => step("right", -1), ".": () => step("right", 1), "<": () => step("left", -1), ">": () => step("left", 1), ";": () => step("left", -1), ":": () => step("left", 1),
  "[": () => setShare(share - 5), "]": () => setShare(share + 5),
  h: () => { channel = { luma: "0", 0: "1", 1: "2", 2: "luma" }[channel]; showOptions(); draw(); say("Channel " + find('[data-channel="' + channel + '"]').textContent); },
  g: () => { gain = { 1: 4, 4: 16, 16: 1 }[gain]; showOptions(); draw(); say("Gain " + gain); },
  l: () => setLens({ 11: 21, 21: 41, 41: 11 }[lens]),
  i: () => setInput(inputKind === "bicubic" ? "nearest" : "bicubic"),
  o: () => setOverlay({ "": "spread", spread: "above", above: "" }[overlay]),
  c: () => { if (arming && arming.from) takeCrop(boxBetween(arming.from, point)); else { arm({ from: { ...point }, keys: true }); say("First corner; move the point and press C again"); } },
  n: () => { if (!crops.length) { find(".sr-cmp-crops").open = true; wantCrops(); return; } const place = crops.findIndex((one) => crop && one.box.join() === crop.join()); const next = crops[(place + 1) % crops.length]; takeCrop(next.box, next.words); },
};

const atPoint = () => { const v = view(panes()[0]); const inside = visible(v); const there = point.x >= inside.x && point.x < inside.x + inside.width && point.y >= inside.y && point.y < inside.y + inside.height; return there ? { pane: panes()[0], x: point.x + 0.5, y: point.y + 0.5 } : undefined; };

function setInput(value) { inputKind = value; showPins(); }
function setLens(value) { lens = value; find(".sr-cmp-lens-size").value = String(lens); draw(); say("Lens of " + lens + " pixels"); }
function setOverlay(value) { overlay = value; forgetProblem(); wantOverlay(); showOptions(); redraw(); if (overlay) say(overlaySelect.selectedOptions[0].textContent); }

element.addEventListener("keydown", (event) => {
  if (!shown || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, .sr-scroller")) return;
  const onButton = event.target.closest("button, summary");
  if (event.target === stage && event.key in ARROWS) {
    event.preventDefault();
    const [dx, dy] = ARROWS[event.key], by = event.shiftKey ? 10 : 1;
    setPoint(point.x + dx * by, point.y + dy * by, true);
    const row = (side) => Array.from(find(".sr-cmp-row-" + side).querySelectorAll("td")).slice(0, 3).map((cell) => cell.textContent).join(" ");
    requestAnimationFrame(() => say("x " + point.x + ", y " + point.y + ". Left " + row("left") + ". Right " + row("right")));
    return;
  }
  if (event.key === " " && !onButton) { event.preventDefault(); if (mode === "blink") { play(false); flip(); say(picture(flipped ? "right" : "left").label); } return; }
  if (event.key === "Escape" && (arming || crop) && !document.fullscreenElement) { event.preventDefault(); if (crop) { crop = null; showNote(""); } arm(null); return; }
  const action = KEYS[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

handle.addEventListener("keydown", (event) => {
  const by = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: -by, ArrowDown: -by, ArrowRight: by, ArrowUp: by, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
  if (!(event.key in moves)) return;
  event.preventDefault();
  event.stopPropagation();
  setShare(share + moves[event.key]);
});

const AGAIN = { map: () => setOverlay(overlay), regions: wantCrops, numbers: wantNumbers };

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !shown) return;
  const { mode: newMode, zoom: newZoom, channel: newChannel, gain: newGain, input, crop: place } = button.dataset;
  if (newMode) setMode(newMode);
  if (newZoom) setZoom(newZoom, atPoint());
  if (newChannel) { channel = newChannel; showOptions(); draw(); }
  if (newGain) { gain = Number(newGain); showOptions(); draw(); }
  if (input) setInput(input);
  if (place) takeCrop(crops[Number(place)].box, crops[Number(place)].words);
  if (button.dataset.again) AGAIN[button.dataset.again]();
  if (button.classList.contains("sr-cmp-swap")) swap();
  if (button.classList.contains("sr-cmp-play")) play(!playing);
  if (button.classList.contains("sr-cmp-draw")) arm(arming ? null : {});
  if (button.classList.contains("sr-cmp-full")) { if (document.fullscreenElement) document.exitFullscreen(); else section.requestFullscreen(); }
});

for (const side of ["left", "right"]) selects[side].addEventListener("change", () => { pins[side] = selects[side].value; showPins(); });
find(".sr-cmp-lens-size").addEventListener("change", (event) => setLens(Number(event.target.value)));
overlaySelect.addEventListener("change", () => setOverlay(overlaySelect.value));
find(".sr-cmp-opacity").addEventListener("input", (event) => { opacity = Number(event.target.value); showOptions(); drawOverlay(); });
find(".sr-cmp-pace").addEventListener("input", (event) => { pace = 1000 * Number(event.target.value); play(playing); });
find(".sr-cmp-crops").addEventListener("toggle", () => { if (find(".sr-cmp-crops").open) wantCrops(); });

// ---- Pointers: drag moves, two fingers pinch, a tap sets the point.

const fingers = new Map();
let drag = null;

function shareAt(event) { const { left, right } = extent(); return (event.clientX - stage.getBoundingClientRect().left - left) / Math.max(1, right - left) * 100; }

function startPinch() {
  const [a, b] = Array.from(fingers.values());
  const middle = { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
  drag = { pinch: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), scale: scaleIn(panes()[0]), at: located(middle) };
}

function movePinch() {
  const [a, b] = Array.from(fingers.values()), d = density();
  const apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  pinched = clamp(drag.scale * apart / drag.pinch, Math.min(1, fitScale(panes()[0])), 32);
  const pane = drag.at.pane, size = deviceSize(pane), frame = stage.getBoundingClientRect();
  const x = ((a.clientX + b.clientX) / 2 - frame.left - pane.x) * d, y = ((a.clientY + b.clientY) / 2 - frame.top - pane.y) * d;
  centre = { x: drag.at.x + (size.width / 2 - x) / pinched, y: drag.at.y + (size.height / 2 - y) / pinched };
  redraw();
}

// Fingers leave between two steps; pictures rest on one, so that every pixel is whole.
function endPinch() {
  if (pinched === null) return;
  const fit = fitScale(panes()[0]), steps = LADDER.filter((value) => value > fit);
  const nearest = [fit, ...steps].reduce((best, value) => Math.abs(Math.log(value / pinched)) < Math.abs(Math.log(best / pinched)) ? value : best);
  pinched = null;
  zoom = nearest === fit ? "fit" : String(nearest);
  pressed("zoom", zoom);
  redraw();
}

stage.addEventListener("pointerdown", (event) => {
  if (!shown || event.button > 0) return;
  fingers.set(event.pointerId, event);
  if (fingers.size === 2) { startPinch(); stage.setPointerCapture(event.pointerId); return; }
  if (fingers.size > 2) return;
  stage.setPointerCapture(event.pointerId);
  const at = located(event), onDivider = event.target.closest(".sr-cmp-divider");
  drag = { started: event.timeStamp, x: event.clientX, y: event.clientY, centre: { ...centre }, moved: false };
  if (onDivider || (mode === "slider" && !pannable() && event.pointerType === "mouse" && !event.shiftKey && !arming)) { drag.divides = true; drag.moved = true; setShare(shareAt(event)); handle.focus({ preventScroll: true }); event.preventDefault(); return; }
  if (event.shiftKey || (arming && !arming.keys)) { arm({ from: at, to: at }); drag.crops = true; event.preventDefault(); }
  stage.focus({ preventScroll: true });
});

stage.addEventListener("pointermove", (event) => {
  if (!shown) return;
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
  if (drag && drag.pinch) { if (fingers.size >= 2) movePinch(); return; }
  if (!drag) { const at = located(event); setPoint(at.x, at.y, false); return; }
  if (drag.divides) { setShare(shareAt(event)); return; }
  // A finger trembles more than a mouse.
  if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > (event.pointerType === "touch" ? 10 : 4)) drag.moved = true;
  if (drag.crops) { arming.to = located(event); placeMarks(); return; }
  if (!drag.moved) return;
  if (!pannable()) { const at = located(event); setPoint(at.x, at.y, false); return; }
  const v = view(panes()[0]), d = density();
  centre = { x: drag.centre.x - (event.clientX - drag.x) * d / v.scale, y: drag.centre.y - (event.clientY - drag.y) * d / v.scale };
  redraw();
});

function endPointer(event) {
  const known = fingers.delete(event.pointerId);
  if (!drag || !known) return;
  if (drag.pinch) { if (!fingers.size) { drag = null; } endPinch(); return; }
  const ended = drag;
  drag = null;
  if (event.type === "pointercancel") { if (ended.crops) arm(null); return; }
  if (ended.crops) { takeCrop(boxBetween(arming.from, arming.to)); return; }
  if (ended.moved) return;
  const at = located(event);
  setPoint(at.x, at.y, false);
  if (mode === "blink") { play(false); flip(); }
}
for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, endPointer);

let turned = 0;
stage.addEventListener("wheel", (event) => {
  if (!shown || !(event.ctrlKey || event.metaKey || stage.contains(document.activeElement))) return;
  event.preventDefault();
  turned += event.deltaY;
  if (Math.abs(turned) < 40) return;
  zoomBy(turned < 0 ? 1 : -1, located(event));
  turned = 0;
}, { passive: false });

// ---- Runs and pins.

function fillSelects() {
  const groups = [["Run", (one) => !["candidate", "before"].includes(one.kind)], ["Candidates, best first", (one) => one.kind === "candidate"], ["Same seeds, other adapter", (one) => one.kind === "before"]];
  for (const side of ["left", "right"]) {
    selects[side].replaceChildren(...groups.map(([words, belongs]) => {
      const group = document.createElement("optgroup");
      group.label = words;
      group.append(...shown.pictures.filter(belongs).map((one) => new Option(one.words, one.id)));
      return group;
    }).filter((group) => group.children.length));
  }
}

function forget() {
  for (const entry of kept.values()) entry.ready.then((bitmap) => bitmap.close(), () => {});
  kept = new Map();
  maps.clear();
  crop = null; arming = null;
  forgetCrops();
  showNote("");
}

// Faces and text are sought in the best candidate: in another one they lie elsewhere.
function forgetCrops() {
  crops = []; asked = false;
  listCrops();
  showFound("");
}

function render() {
  const value = props.value;
  section.hidden = !value;
  if (!value) { shown = null; return; }
  const other = !shown || shown.run !== value.run || shown.width !== value.width || shown.height !== value.height;
  if (other) {
    forget();
    shown = value;
    pins.left = value.left; pins.right = value.right;
    zoom = "fit";
    centre = { x: value.width / 2, y: value.height / 2 };
    point = { x: Math.floor(centre.x), y: Math.floor(centre.y) };
  }
  const members = !other && value.stamp !== shown.stamp, best = !other && value.right !== shown.right;
  shown = value;
  // A run that goes on has more pictures by and by, and members come and go: its maps and its rows are others then.
  if (members) { maps.clear(); if (crop) wantNumbers(); }
  if (best) forgetCrops();
  nameRows();
  for (const side of ["left", "right"]) if (!picture(side)) pins[side] = value[side];
  fillSelects();
  const due = pending && pending.run === value.run ? pending : null;
  // A refresh may still bring the run from which the pin was set; any other run says that the visitor went elsewhere.
  if (pending && value.run !== pending.from) pending = null;
  if (due) takePin(due); else showPins();
  if (find(".sr-cmp-crops").open) wantCrops();
  prefetch();
  readPin();
}

function readPin() {
  const wanted = window.srPin;
  if (!wanted || !shown) return;
  window.srPin = null;
  comeIntoView();
  if (!wanted.run || wanted.run === shown.run) { pending = null; takePin(wanted); return; }
  pending = { ...wanted, from: shown.run };
  say("Opening the other run\u2026");
  trigger("open_run", { run: wanted.run });
}

function takePin({ left, right }) { pin(left, right); say("Left: " + picture("left").label + ". Right: " + picture("right").label); }

window.addEventListener("sr-open-failed", function drop() {
  if (!element.isConnected) { window.removeEventListener("sr-open-failed", drop); return; }
  pending = null;
  say("That run could not be opened");
});

window.addEventListener("sr-pin", function take(event) {
  if (!element.isConnected) { window.removeEventListener("sr-pin", take); return; }
  window.srPin = event.detail;
  if (stage.clientWidth) readPin();
});

function comeIntoView() { section.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" }); stage.focus({ preventScroll: true }); }

// Other views may point at a pixel or ask for an overlay.
window.addEventListener("sr-point", function show(event) {
  if (!element.isConnected) { window.removeEventListener("sr-point", show); return; }
  if (!shown) return;
  setPoint(event.detail.x, event.detail.y, false);
  setZoom("4", { pane: panes()[0], x: point.x + 0.5, y: point.y + 0.5 });
  centre = { x: point.x + 0.5, y: point.y + 0.5 };
  comeIntoView();
});
window.addEventListener("sr-overlay", function show(event) {
  if (!element.isConnected) { window.removeEventListener("sr-overlay", show); return; }
  if (!shown) return;
  if (mode === "difference") setMode("side");
  if (event.detail.map === "above") pin(null, event.detail.picture);
  setOverlay(event.detail.map);
  comeIntoView();
});

calm.addEventListener("change", () => { if (calm.matches) play(false); });
document.addEventListener("fullscreenchange", () => redraw());
new ResizeObserver(() => { if (shown) { draw(); readPin(); } }).observe(stage);
stage.dataset.mode = mode;
watch("value", render);
render();
