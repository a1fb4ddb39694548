element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (button) trigger("click", { name: button.dataset.name });
});
// Pasting works anywhere on the tab Restore: the picture goes through the same upload as a dropped file.
document.addEventListener("paste", (event) => {
  const files = Array.from(event.clipboardData ? event.clipboardData.files : []).filter((file) => file.type.startsWith("image/"));
  const target = document.querySelector("#sr-photos input[type=file]");
  const onScreen = document.querySelector("#sr-side").offsetParent !== null;
  if (!files.length || !target || !onScreen) return;
  event.preventDefault();
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  target.files = transfer.files;
  target.dispatchEvent(new Event("change", { bubbles: true }));
});
