const find = (selector) => element.querySelector(selector);
const search = find("#sr-runs-search"), list = find(".sr-runs"), count = find(".sr-runs-count");
let gone = null;

function linkOf(run) {
  const url = new URL(window.location.href);
  url.searchParams.set("run", run);
  return url;
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const runs = Array.from(list.querySelectorAll(".sr-run"));
  let shown = 0;
  for (const run of runs) {
    run.hidden = !words.every((word) => run.dataset.words.includes(word));
    shown += run.hidden ? 0 : 1;
  }
  if (!runs.length) count.textContent = "No runs yet. Restore a photo, or open a zip below.";
  else if (words.length) count.textContent = shown + " of " + runs.length + (runs.length === 1 ? " run" : " runs");
  else count.textContent = runs.length + (runs.length === 1 ? " run" : " runs");
}

function render() {
  const value = props.value;
  list.innerHTML = value ? value.html : "";
  filter();
  const here = new URL(window.location.href);
  if (gone && here.searchParams.get("run") === gone && !list.querySelector('[data-run="' + gone + '"]')) {
    // What was deleted must not be asked for again by a reload.
    here.searchParams.delete("run");
    window.history.replaceState(null, "", here);
  }
  gone = null;
  if (value && value.go && value.go !== window.srRunOpened) {
    window.srRunOpened = value.go;
    const tab = document.querySelector("#sr-tab-restore-button");
    if (tab) tab.click();
  }
}

function ask(button) {
  const actions = button.closest(".sr-run-actions");
  const kept = Array.from(actions.children);
  const leave = (event) => { if (event.key === "Escape") back(); };
  const back = () => {
    actions.removeEventListener("keydown", leave);
    actions.replaceChildren(...kept);
    button.focus();
  };
  const words = document.createElement("span");
  words.className = "sr-run-ask";
  words.textContent = "Delete its files for good?";
  const yes = button.cloneNode(false), no = document.createElement("button");
  yes.textContent = "Delete";
  yes.dataset.sure = "yes";
  no.type = "button";
  no.className = "sr-pin";
  no.textContent = "Keep";
  no.addEventListener("click", back);
  actions.replaceChildren(words, yes, no);
  actions.addEventListener("keydown", leave);
  no.focus();
}

async function copy(button) {
  const address = linkOf(button.dataset.run).href;
  try {
    await navigator.clipboard.writeText(address);
    count.textContent = "Link copied.";
  } catch {
    count.textContent = address;
  }
}

list.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  const { action, run, sure } = button.dataset;
  if (action === "copy") return copy(button);
  if (action === "delete" && !sure) return ask(button);
  if (action === "delete" || action === "forget") gone = run;
  trigger(action === "export" ? "pack" : "click", { action, run });
});
search.addEventListener("input", filter);
watch("value", render);
render();
