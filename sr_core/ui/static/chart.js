const find = (selector) => element.querySelector(selector);
const chart = find(".sr-chart"), stage = find(".sr-chart-stage"), table = find(".sr-chart-table");
let drawn = null, wired = false;
if (window.innerWidth <= 860) table.open = false;

// One copy of the library serves every chart of the page.
function library(address) {
  window.srPlotly = window.srPlotly || new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { window.srPlotly = null; reject(new Error("the chart library did not load")); };
    document.head.appendChild(script);
  });
  return window.srPlotly;
}

const colour = (name) => getComputedStyle(element).getPropertyValue(name).trim();

function themed(layout) {
  const ink = colour("--sr-ink"), line = colour("--sr-line"), soft = colour("--sr-soft");
  const result = structuredClone(layout);
  delete result.template;
  Object.assign(result, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { color: ink, size: 13, family: getComputedStyle(element).fontFamily, ...(result.font || {}) },
    hoverlabel: { font: { size: 13 }, ...(result.hoverlabel || {}) },
    colorway: result.colorway || ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A", "#B59B00"],
    margin: { l: 56, r: 12, t: 16, b: 48, ...(result.margin || {}) },
    legend: { orientation: "h", y: -0.22, ...(result.legend || {}) },
  });
  delete result.width;
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(result).filter((key) => /^[xy]axis\d*$/.test(key))]))
    result[name] = { gridcolor: line, zerolinecolor: soft, linecolor: soft, automargin: true, ...(result[name] || {}) };
  return result;
}

function openPoint(event) {
  const data = event.points && event.points[0] && event.points[0].customdata;
  if (!data) return;
  const detail = Array.isArray(data) ? { left: data[0], right: data[1], run: data[2] } : data;
  if (typeof detail.right === "string") window.dispatchEvent(new CustomEvent("sr-pin", { detail }));
}

async function draw() {
  const value = props.value;
  chart.hidden = !value;
  drawn = value;
  if (!value) return;
  find(".sr-chart-title").textContent = value.title;
  find(".sr-chart-note").textContent = value.note || "";
  stage.setAttribute("aria-label", value.summary);
  table.querySelector(".sr-scroller").innerHTML = value.table;
  table.querySelector(".sr-scroller").setAttribute("aria-label", "Numbers: " + value.title);
  stage.dataset.ready = "no";
  if (wired === false) stage.replaceChildren();
  const plotly = await library(value.script).catch(() => null);
  if (drawn !== value) return;
  if (!plotly) { fail(); return; }
  const height = value.figure.layout.height || 380;
  stage.style.height = height + "px";
  await plotly.react(stage, value.figure.data, { ...themed(value.figure.layout), height }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
  if (!wired) { stage.on("plotly_click", openPoint); wired = true; }
  stage.dataset.ready = "yes";
}

function fail() {
  const words = document.createElement("p"), again = document.createElement("button");
  words.className = "sr-words";
  words.setAttribute("role", "status");
  words.textContent = "The chart cannot be drawn: its library did not load. Its numbers are in the table.";
  again.type = "button"; again.className = "sr-pin"; again.textContent = "Try again";
  again.addEventListener("click", draw);
  stage.replaceChildren(words, again);
  table.open = true;
}

const isDark = () => document.body.classList.contains("dark");
let dark = isDark();
const theme = new MutationObserver(() => {
  if (!element.isConnected) { theme.disconnect(); return; }
  if (isDark() === dark) return;
  dark = isDark();
  draw();
});
theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
watch("value", draw);
draw();
