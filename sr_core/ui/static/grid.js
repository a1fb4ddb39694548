element.addEventListener("click", (event) => {
  const card = event.target.closest("button[data-index]");
  if (!card) return;
  for (const other of element.querySelectorAll("button[data-index]"))
    other.setAttribute("aria-pressed", String(other === card));
  trigger("click", { index: Number(card.dataset.index) });
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const cards = Array.from(element.querySelectorAll("button[data-index]"));
  const place = cards.indexOf(document.activeElement);
  if (!step || place < 0) return;
  event.preventDefault();
  cards[(place + step + cards.length) % cards.length].focus();
});
