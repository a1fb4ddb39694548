const find = (selector) => element.querySelector(selector);
const all = (selector) => Array.from(element.querySelectorAll(selector));
const root = find(".sr-vote"), body = find(".sr-vote-body"), panes = find(".sr-vote-panes");
const MOST = 8, PAN = 0.12;
let shown = null, best = null, busy = 0, numLoads = 0, inputOn = false;
// What was done to see the pictures of this ballot: it is stored with the vote.
let ready = false, sawInput = false, largest = 0;
// This script runs when the tab is first opened.
let tabPressed = true;
// What is looked at, the same for every picture: its scale, null to fit, and its centre as a share of each side.
let view = { scale: null, x: 0.5, y: 0.5 };

const density = () => window.devicePixelRatio || 1;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const frames = () => all(".sr-vote-frame");
const open = () => Boolean(shown && shown.stage === "ballot");
const done = () => Boolean(shown && shown.stage === "revealed");
const hasBallot = () => open() || done();

function send(data) {
  if (Date.now() < busy) return;
  busy = Date.now() + 4000;
  trigger("click", { ...data, sent: Date.now() });
}

function answer(kind, first, last) {
  if (!open() || !ready) return;
  send({ act: "vote", token: shown.token, kind, saw_input: sawInput, zoom: largest || null, ...(kind === "choice" ? { best: first, worst: last } : {}) });
}

// Of four, the best is chosen first and then the worst; the same again takes it back.
function pick(place, asWorst) {
  if (!open() || !ready || place >= shown.pictures.length) return;
  if (shown.mode === "pair") { answer("choice", place, 1 - place); return; }
  if (best === place && !asWorst) best = null;
  else if (best === null || !(asWorst || best !== place)) best = place;
  else if (best !== place) { answer("choice", best, place); return; }
  sayQuestion();
}

function fitScale(frame) {
  return Math.min(1 / density(), frame.clientWidth / shown.width, frame.clientHeight / shown.height);
}

function layout() {
  const first = frames()[0];
  if (!hasBallot() || !first || !first.clientWidth) return;
  const columns = getComputedStyle(panes).gridTemplateColumns.split(" ").length;
  const rows = Math.ceil(shown.pictures.length / columns);
  // Two below each other leave room for the answers on a phone.
  const room = window.innerHeight * (rows === 1 ? 0.6 : columns === 1 ? 0.24 : 0.29);
  const tall = Math.round(clamp(first.clientWidth * shown.height / shown.width, 150, Math.max(150, room)));
  for (const frame of frames()) frame.style.height = tall + "px";
  const scale = view.scale ?? fitScale(first);
  if (ready) largest = Math.max(largest, scale * density());
  const width = shown.width * scale, height = shown.height * scale;
  const halfX = first.clientWidth / 2 / width, halfY = tall / 2 / height;
  view.x = halfX >= 0.5 ? 0.5 : clamp(view.x, halfX, 1 - halfX);
  view.y = halfY >= 0.5 ? 0.5 : clamp(view.y, halfY, 1 - halfY);
  const pannable = halfX < 0.5 || halfY < 0.5;
  // Whole device pixels keep 1:1 sharp.
  const snap = (value) => Math.round(value * density()) / density();
  for (const frame of frames()) {
    frame.classList.toggle("sr-vote-pannable", pannable);
    for (const image of frame.querySelectorAll("img")) {
      image.style.width = width + "px";
      image.style.height = height + "px";
      image.style.left = snap(first.clientWidth / 2 - view.x * width) + "px";
      image.style.top = snap(tall / 2 - view.y * height) + "px";
      image.classList.toggle("sr-exact", scale * density() > 1);
    }
  }
  const zoom = view.scale === null ? "fit" : String(Math.round(view.scale * density() * 1000) / 1000);
  for (const button of all("[data-zoom]")) button.setAttribute("aria-pressed", String(button.dataset.zoom === zoom));
}

function zoomTo(scale) {
  view.scale = scale === null ? null : clamp(scale, Math.min(fitScale(frames()[0]), 1 / density()), MOST / density());
  layout();
}

function zoomBy(direction) {
  const steps = [1, 2, 4, 8].map((step) => step / density()), now = view.scale ?? fitScale(frames()[0]);
  const next = direction > 0 ? steps.find((step) => step > now * 1.01) : [...steps].reverse().find((step) => step < now * 0.99);
  if (direction < 0 && (next === undefined || next <= fitScale(frames()[0]))) zoomTo(null);
  else if (next !== undefined) zoomTo(next);
}

function pan(x, y) { view.x += x; view.y += y; layout(); }

function decoded(image, address) {
  image.src = address;
  return image.decode();
}

const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));

function makePanes() {
  held.clear();
  pinch = null;
  panes.replaceChildren(...shown.pictures.map((picture, place) => {
    const pane = document.createElement("figure");
    pane.className = "sr-vote-pane";
    pane.innerHTML = '<div class="sr-vote-frame"><img class="sr-vote-picture" draggable="false">' +
      '<img class="sr-vote-under" draggable="false" alt="" hidden><span class="sr-vote-letter"></span></div>' +
      '<figcaption><span class="sr-vote-who"></span><span class="sr-vote-picks" role="group">' +
      '<button type="button" data-best></button><button type="button" data-worst></button></span></figcaption>';
    pane.querySelector(".sr-vote-letter").textContent = picture.letter;
    pane.querySelector(".sr-vote-picks").setAttribute("aria-label", "Picture " + picture.letter);
    for (const [name, words] of [["best", "Best"], ["worst", "Worst"]]) {
      const button = pane.querySelector("[data-" + name + "]");
      button.dataset[name] = String(place);
      button.textContent = words;
      button.setAttribute("aria-label", picture.letter + " is the " + name);
    }
    return pane;
  }));
}

// All pictures appear at once: none is known by how fast it loads. Nothing can be answered before they are seen.
async function showPictures() {
  const value = shown, load = ++numLoads;
  panes.classList.add("sr-vote-loading");
  sayReady("no");
  try {
    const pictures = all(".sr-vote-picture").map((image, place) => decoded(image, value.pictures[place].src));
    await Promise.all([...pictures, ...all(".sr-vote-under").map((image) => decoded(image, value.input))]);
    if (load !== numLoads) return;
    panes.classList.remove("sr-vote-loading");
    layout();
    await painted();
    if (load === numLoads) sayReady("yes");
  } catch {
    if (load === numLoads) sayReady("failed");
  }
}

function sayReady(state) {
  ready = state === "yes";
  panes.dataset.ready = state;
  find(".sr-vote-failed").hidden = state !== "failed";
  for (const button of all("[data-answer], [data-best]")) button.disabled = !ready;
  sayQuestion();
  layout();
}

function sayInput() {
  sawInput ||= inputOn && ready;
  for (const image of all(".sr-vote-under")) {
    image.hidden = !inputOn;
    image.alt = inputOn ? "The input, enlarged" : "";
  }
  all(".sr-vote-letter").forEach((letter, place) => { letter.textContent = inputOn ? "Input" : shown.pictures[place].letter; });
  find("[data-input]").setAttribute("aria-pressed", String(inputOn));
}

function sayQuestion() {
  const four = shown.mode === "four";
  const letter = best === null ? "" : shown.pictures[best].letter;
  find(".sr-vote-question").textContent = done() ? "Who was who"
    : !four ? "Which restoration is better?"
    : best === null ? "Which of the four is the best?" : letter + " is the best. Which is the worst?";
  for (const button of all("[data-best]")) button.setAttribute("aria-pressed", String(Number(button.dataset.best) === best));
  for (const button of all("[data-worst]")) {
    button.setAttribute("aria-pressed", "false");
    button.disabled = !ready || best === null || Number(button.dataset.worst) === best;
  }
}

function sayPictures() {
  all(".sr-vote-pane").forEach((pane, place) => {
    const picture = shown.pictures[place];
    pane.querySelector(".sr-vote-picture").alt = done() ? picture.label : "Picture " + picture.letter;
    const who = pane.querySelector(".sr-vote-who");
    who.replaceChildren();
    if (!done()) return;
    const words = [["sr-vote-name", picture.name], ["sr-vote-mark", picture.mark], ["sr-vote-rank", [picture.place, picture.reward].filter(Boolean).join(" \u00b7 ")]];
    for (const [style, text] of words) {
      if (!text) continue;
      const span = document.createElement("span");
      span.className = style;
      span.textContent = text;
      who.append(span, " ");
    }
  });
}

function sayRest() {
  const four = shown.mode === "four";
  for (const button of all("[data-scope]")) {
    button.setAttribute("aria-pressed", String(button.dataset.scope === shown.scope));
    button.parentElement.hidden = shown.num_runs < 2;
  }
  for (const button of all("button[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === shown.mode));
  find(".sr-vote-progress").textContent = shown.num_runs ? shown.progress : "";
  find(".sr-vote-notice").textContent = shown.notice || "";
  find(".sr-vote-none").textContent = hasBallot() ? "" : shown.words;
  find(".sr-vote-consent").textContent = shown.consent;
  find(".sr-vote-tie").textContent = four ? "All equal" : "Tie";
  find(".sr-vote-bad").textContent = four ? "All bad" : "Both bad";
  find(".sr-vote-said").textContent = done() ? shown.words : "";
  find(".sr-vote-agreement").innerHTML = done() ? shown.agreement : "";
  find(".sr-vote-list").innerHTML = done() ? shown.list : "";
  find(".sr-vote-waiting").textContent = !shown.num_blind ? ""
    : (shown.num_blind === 1 ? "1 vote of yours joins" : shown.num_blind + " votes of yours join")
      + " the results once you have seen who was who; what you say later about pictures you then know is not counted.";
  find('[data-act="reveal"]').disabled = !shown.num_blind;
  for (const button of all(".sr-vote-side")) button.hidden = four;
  all('[data-act="undo"]').forEach((button) => { button.disabled = !shown.can_undo; });
  find(".sr-vote-delete").hidden = !shown.num_mine;
  sayDelete(false);
  find(".sr-vote-keys").innerHTML = (four
    ? "Keys <kbd>A</kbd> to <kbd>D</kbd> or <kbd>1</kbd> to <kbd>4</kbd> choose the best, then the worst; <kbd>T</kbd> all equal, <kbd>X</kbd> all bad"
    : "Keys <kbd>&#8592;</kbd> or <kbd>1</kbd> for A, <kbd>&#8594;</kbd> or <kbd>2</kbd> for B, <kbd>T</kbd> tie, <kbd>X</kbd> both bad")
    + ", <kbd>Z</kbd> undo, <kbd>R</kbd> who was who, then <kbd>Enter</kbd> or <kbd>N</kbd> for the next, <kbd>I</kbd> input, <kbd>F</kbd> fit, <kbd>+</kbd> <kbd>&#8722;</kbd> zoom, <kbd>Shift</kbd> with arrows or drag to move. They work while the focus is in this frame. Every pixel is the file's own.";
}

function sayDelete(sure) {
  find('[data-act="ask"]').hidden = sure;
  find(".sr-vote-sure").hidden = !sure;
  if (sure) find(".sr-vote-how-many").textContent = "All " + shown.num_mine + (shown.num_mine === 1 ? " vote" : " votes") + " of this browser, on every photo?";
}

function render() {
  const value = props.value;
  busy = 0;
  if (!value) return;
  // The server draws the ballot once it knows the id that this browser keeps.
  if (value.stage === "ask") { trigger("click", { act: "deal", sent: Date.now() }); return; }
  // Whoever opens the tab by its button finds the focus on the ballot.
  const opened = tabPressed && element.offsetParent !== null && (document.activeElement === document.body || Boolean(document.activeElement.closest('[role="tab"]')));
  tabPressed = false;
  const fresh = !shown || shown.token !== value.token || !hasBallot();
  const resized = !shown || shown.width !== value.width || shown.height !== value.height;
  const had = element.contains(document.activeElement);
  const turned = !shown || shown.stage !== value.stage;
  shown = value;
  best = null;
  root.dataset.stage = value.stage;
  root.dataset.mode = value.mode;
  body.hidden = !hasBallot();
  sayRest();
  if (!hasBallot()) { panes.replaceChildren(); return; }
  if (fresh) { inputOn = sawInput = false; largest = 0; makePanes(); }
  if (resized) view = { scale: null, x: 0.5, y: 0.5 };
  sayPictures();
  sayQuestion();
  sayInput();
  if (fresh) showPictures();
  layout();
  // Where the pressed button is gone, the next step takes the focus.
  if (opened || (had && (fresh || turned))) (done() ? find(".sr-vote-next") : find(".sr-vote-question")).focus({ preventScroll: true });
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !shown) return;
  const data = button.dataset;
  if (data.scope || data.mode) send({ act: "set", scope: data.scope || shown.scope, mode: data.mode || shown.mode });
  else if (data.zoom) zoomTo(data.zoom === "fit" ? null : Number(data.zoom) / density());
  else if ("again" in data) showPictures();
  else if ("input" in data) { inputOn = !inputOn; sayInput(); }
  else if (data.answer === "a") pick(0);
  else if (data.answer === "b") pick(1);
  else if (data.answer) answer(data.answer);
  else if (data.best) pick(Number(data.best));
  else if (data.worst) pick(Number(data.worst), true);
  else if (data.act === "ask") { sayDelete(true); find('[data-act="keep"]').focus(); }
  else if (data.act === "keep") { sayDelete(false); find('[data-act="ask"]').focus(); }
  else if (data.act) send({ act: data.act });
});

document.addEventListener("click", (event) => { if (event.target.closest("#sr-tab-vote-button")) tabPressed = true; }, true);

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !hasBallot() || element.offsetParent === null) return;
  const at = document.activeElement;
  if (!element.contains(at)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const moves = { ArrowLeft: [-PAN, 0], ArrowRight: [PAN, 0], ArrowUp: [0, -PAN], ArrowDown: [0, PAN] };
  const tall = at && at.closest(".sr-scroller");
  let did = true;
  // A key that is held down answers once.
  if (event.repeat && /^([1-4a-dtxnzr]|Enter)$/.test(key)) return;
  if (event.repeat && !event.shiftKey && key in moves) return;
  if (event.shiftKey && key in moves) pan(...moves[key]);
  else if (shown.mode === "pair" && key === "ArrowLeft" && open()) pick(0);
  else if (shown.mode === "pair" && key === "ArrowRight" && open()) pick(1);
  else if (/^[1-4a-d]$/.test(key) && open()) pick(key < "a" ? Number(key) - 1 : "abcd".indexOf(key));
  else if (key === "t" && open()) answer("tie");
  else if (key === "x" && open()) answer("bad");
  else if (key === "n" && done()) send({ act: "next" });
  else if (key === "Enter" && done() && !at.closest("button")) send({ act: "next" });
  else if (key === "r" && open() && shown.num_blind) send({ act: "reveal" });
  else if (key === "z" && shown.can_undo) send({ act: "undo" });
  else if (key === "Escape" && best !== null) { best = null; sayQuestion(); }
  else if (key === "i") { inputOn = !inputOn; sayInput(); }
  else if (key === "f") zoomTo(null);
  else if (key === "+" || key === "=") zoomBy(1);
  else if (key === "-" || key === "_") zoomBy(-1);
  else did = false;
  if (did && !tall) event.preventDefault();
}
document.addEventListener("keydown", onKey);

const held = new Map();
let pinch = null;
const apart = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
panes.addEventListener("pointerdown", (event) => {
  const frame = event.target.closest(".sr-vote-frame");
  if (!frame || event.button !== 0 || !hasBallot()) return;
  held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (held.size === 2) pinch = { apart: apart(), scale: view.scale ?? fitScale(frames()[0]) };
  // Let go anywhere, the release arrives here.
  frame.setPointerCapture(event.pointerId);
});
panes.addEventListener("pointermove", (event) => {
  const last = held.get(event.pointerId);
  if (!last) return;
  held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (held.size === 2 && pinch) { zoomTo(pinch.scale * apart() / Math.max(1, pinch.apart)); return; }
  const scale = view.scale ?? fitScale(frames()[0]);
  pan((last.x - event.clientX) / (shown.width * scale), (last.y - event.clientY) / (shown.height * scale));
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
  panes.addEventListener(name, (event) => { held.delete(event.pointerId); if (held.size < 2) pinch = null; });
panes.addEventListener("wheel", (event) => {
  if (!event.ctrlKey || !event.target.closest(".sr-vote-frame")) return;
  event.preventDefault();
  zoomTo((view.scale ?? fitScale(frames()[0])) * Math.exp(-event.deltaY / 200));
}, { passive: false });

new ResizeObserver(() => layout()).observe(panes);
window.addEventListener("resize", () => layout());
watch("value", render);
render();
