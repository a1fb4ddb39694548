element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-part]");
  if (button) trigger("click", { index: Number(button.dataset.part) });
});
