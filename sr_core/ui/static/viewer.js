const find = (selector) => element.querySelector(selector);
const scroll = find(".sr-scroll"), canvas = find(".sr-canvas"), stage = find(".sr-stage");
const after = find(".sr-after"), before = find(".sr-before");
const divider = find(".sr-divider"), handle = find(".sr-handle"), caption = find(".sr-caption");
const choices = find('[data-against="before"]').parentElement, refined = find(".sr-refined");
let shown = null, zoom = "fit", input = "smooth", against = "input", share = 50, scale = 1, numLoads = 0;

// One image pixel is one device pixel at 1:1, whatever the screen's density.
const density = () => window.devicePixelRatio || 1;

function fitScale() {
  const limit = 1 / density();
  return Math.min(limit, stage.clientWidth / shown.width, stage.clientHeight / shown.height);
}

function placeDivider() {
  const frame = stage.getBoundingClientRect(), picture = canvas.getBoundingClientRect();
  const left = Math.max(0, picture.left - frame.left);
  const right = Math.min(scroll.clientWidth, picture.right - frame.left);
  const x = left + (right - left) * share / 100;
  divider.style.left = x + "px";
  before.style.clipPath = "inset(0 " + Math.max(0, picture.right - frame.left - x) + "px 0 0)";
  stage.classList.toggle("sr-no-left", share < 12);
  stage.classList.toggle("sr-no-right", share > 88);
}

// The choice outlives a candidate whose twin is missing.
const twinShown = () => against === "before" && Boolean(shown && shown.before);

function sayShare() {
  handle.setAttribute("aria-valuetext", Math.round(share) + " % " + (twinShown() ? shown.twin : "input"));
}

function setShare(value) {
  share = Math.min(100, Math.max(0, value));
  handle.setAttribute("aria-valuenow", String(Math.round(share)));
  sayShare();
  placeDivider();
}

function layout(keepCentre) {
  if (!shown) return;
  const centreX = (scroll.scrollLeft + scroll.clientWidth / 2) / Math.max(1, canvas.offsetWidth);
  const centreY = (scroll.scrollTop + scroll.clientHeight / 2) / Math.max(1, canvas.offsetHeight);
  const full = document.fullscreenElement !== null;
  const whole = shown.height * Math.min(1 / density(), stage.clientWidth / shown.width);
  const tall = Math.min(window.innerHeight * 0.66, Math.max(260, whole));
  stage.style.height = full ? "" : Math.round(tall) + "px";
  scale = zoom === "fit" ? fitScale() : Number(zoom) / density();
  canvas.style.width = shown.width * scale + "px";
  canvas.style.height = shown.height * scale + "px";
  const enlarged = scale * density() > 1;
  after.classList.toggle("sr-exact", enlarged);
  before.classList.toggle("sr-exact", enlarged || (input === "pixels" && !twinShown()));
  if (keepCentre) {
    scroll.scrollLeft = centreX * canvas.offsetWidth - scroll.clientWidth / 2;
    scroll.scrollTop = centreY * canvas.offsetHeight - scroll.clientHeight / 2;
  }
  stage.classList.toggle("sr-pannable", scroll.scrollWidth > scroll.clientWidth + 1 || scroll.scrollHeight > scroll.clientHeight + 1);
  for (const button of element.querySelectorAll("[data-zoom]"))
    button.setAttribute("aria-pressed", String(button.dataset.zoom === zoom));
  for (const button of element.querySelectorAll("[data-input]"))
    button.setAttribute("aria-pressed", String(button.dataset.input === input));
  placeDivider();
}

function setZoom(value) { zoom = value; layout(true); }

function decoded(address) {
  const next = new Image();
  next.src = address;
  return next.decode().catch(() => {});
}

// Decoding first keeps the old pictures until both new ones can be painted whole: never two seeds side by side.
function showPictures() {
  const value = shown, twin = twinShown(), load = ++numLoads;
  const left = twin ? value.before : input === "smooth" && value.smooth ? value.smooth : value.pixels;
  const wanted = [[after, value.after], [before, left]].filter(([image, address]) => image.dataset.address !== address);
  for (const [image, address] of wanted) image.dataset.address = address;
  stage.dataset.ready = "no";
  Promise.all(wanted.map(([, address]) => decoded(address))).then(() => {
    for (const [image, address] of wanted) if (image.dataset.address === address) image.src = address;
    if (load === numLoads) stage.dataset.ready = "yes";
  });
  after.alt = value.label + (value.twin ? ", drawn by " + value.adapter : "");
  before.alt = twin
    ? "Seed " + value.seed + " drawn by " + value.twin + ", without " + value.adapter
    : "Input photo " + value.name + ", enlarged to " + value.width + " x " + value.height + " px";
}

function sayComparison() {
  const twin = twinShown();
  choices.hidden = find(".sr-compare-key").hidden = !shown.twin;
  const button = find('[data-against="before"]');
  button.textContent = shown.twin + ", same seed";
  button.disabled = !shown.before;
  button.title = shown.before ? "" : "The same seed by " + shown.twin + " is not there";
  for (const other of choices.children)
    other.setAttribute("aria-pressed", String((other.dataset.against === "before") === twin));
  for (const other of element.querySelectorAll("[data-input]"))
    other.disabled = twin || (other.dataset.input === "smooth" && !shown.smooth);
  find(".sr-left").textContent = twin ? shown.twin : "Input";
  find(".sr-right").textContent = twin ? shown.adapter : "Restored";
  handle.setAttribute("aria-label", "How much of the " + (twin ? shown.twin + " image" : "input") + " is shown");
  refined.textContent = twin
    ? "Local refinement: same photo, same seed, same noise. Left " + shown.twin + ", right " + shown.adapter + "."
    : "";
  sayShare();
}

function setAgainst(value) {
  against = value;
  sayComparison();
  showPictures();
  layout(true);
}

function render() {
  const value = props.value;
  element.hidden = !value;
  if (!value) { shown = null; return; }
  const resized = !shown || shown.width !== value.width || shown.height !== value.height || shown.pixels !== value.pixels;
  shown = value;
  if (!shown.smooth) input = "pixels";
  caption.textContent = shown.place + " \u00b7 " + shown.caption;
  sayComparison();
  showPictures();
  if (resized) zoom = "fit";
  layout(!resized);
}

handle.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
  if (!(event.key in moves)) return;
  event.preventDefault();
  setShare(share + moves[event.key]);
});

element.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const zooms = { f: "fit", F: "fit", "1": "1", "2": "2", "4": "4" };
  if (event.key in zooms) { event.preventDefault(); setZoom(zooms[event.key]); }
  if (event.key.toLowerCase() === "c" && shown && shown.before) {
    event.preventDefault();
    setAgainst(twinShown() ? "input" : "before");
  }
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.zoom) setZoom(button.dataset.zoom);
  if (button.dataset.input) { input = button.dataset.input; showPictures(); layout(true); }
  if (button.dataset.against) setAgainst(button.dataset.against);
  if (button.classList.contains("sr-full")) {
    if (document.fullscreenElement) document.exitFullscreen();
    else find(".sr-viewer").requestFullscreen();
  }
});

function shareAt(clientX) {
  const frame = stage.getBoundingClientRect(), picture = canvas.getBoundingClientRect();
  const left = Math.max(frame.left, picture.left), right = Math.min(frame.left + scroll.clientWidth, picture.right);
  return (clientX - left) / Math.max(1, right - left) * 100;
}

let drag = null;
stage.addEventListener("pointerdown", (event) => {
  if (!shown || event.button !== 0) return;
  const onHandle = event.target.closest(".sr-divider") !== null;
  const pannable = stage.classList.contains("sr-pannable");
  if (!onHandle && pannable && event.pointerType !== "mouse") return;
  drag = onHandle || !pannable ? { divides: true } : { x: event.clientX, y: event.clientY, left: scroll.scrollLeft, top: scroll.scrollTop };
  stage.setPointerCapture(event.pointerId);
  if (drag.divides) { setShare(shareAt(event.clientX)); handle.focus({ preventScroll: true }); event.preventDefault(); }
});
stage.addEventListener("pointermove", (event) => {
  if (!drag) return;
  if (drag.divides) { setShare(shareAt(event.clientX)); return; }
  scroll.scrollLeft = drag.left - (event.clientX - drag.x);
  scroll.scrollTop = drag.top - (event.clientY - drag.y);
});
for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => { drag = null; });

scroll.addEventListener("scroll", placeDivider, { passive: true });
document.addEventListener("fullscreenchange", () => layout(true));
new ResizeObserver(() => layout(true)).observe(stage);
watch("value", render);
render();
