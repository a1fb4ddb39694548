const find = (selector) => element.querySelector(selector);
const line = find(".sr-link"), said = find(".sr-copied");
let named = null;
const address = () => {
  const url = new URL(window.location.href);
  url.searchParams.set("run", props.value.run);
  return url;
};

function render() {
  const value = props.value;
  line.hidden = !value;
  said.textContent = "";
  if (!value) return forget();
  named = value.run;
  find(".sr-link-words").textContent = "Whoever has this run's link can open it. It is kept for " + value.kept + " after it was last opened.";
  // A reload comes back to the run on screen.
  window.history.replaceState(null, "", address());
}

function forget() {
  // The run on screen is not kept yet: a reload must not come back to the one before it.
  const url = new URL(window.location.href);
  if (!named || url.searchParams.get("run") !== named) return;
  url.searchParams.delete("run");
  window.history.replaceState(null, "", url);
}

find(".sr-copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(address().href);
    said.textContent = "Copied.";
  } catch {
    said.textContent = address().href;
  }
});
watch("value", render);
render();
