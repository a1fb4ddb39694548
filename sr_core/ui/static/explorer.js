() => {
  // A pin may be set anywhere on the page; the comparer reads it when it is there.
  window.addEventListener("sr-pin", (event) => {
    window.srPin = event.detail;
    const tab = document.querySelector("#sr-tab-explore-button");
    if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-pin-right]");
    if (!button) return;
    const { pinLeft: left, pinRight: right, pinRun: run } = button.dataset;
    window.dispatchEvent(new CustomEvent("sr-pin", { detail: { left, right, run } }));
  });
}
