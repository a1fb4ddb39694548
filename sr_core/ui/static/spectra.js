let sort = { key: "rank", direction: "ascending" };

const heads = () => Array.from(element.querySelectorAll("th[aria-sort]"));

function applySort() {
  const body = element.querySelector("tbody"), place = heads().findIndex((head) => head.dataset.key === sort.key);
  if (!body || place < 0) return;
  const sign = sort.direction === "ascending" ? 1 : -1;
  const rows = Array.from(body.rows).map((row) => {
    const { value } = row.cells[place].dataset;
    return { row, value: value === undefined ? null : Number(value) };
  });
  // What has no number comes last, whichever way.
  rows.sort((a, b) => (a.value === null) - (b.value === null) || sign * (a.value - b.value));
  body.append(...rows.map((entry) => entry.row));
  for (const head of heads()) head.setAttribute("aria-sort", head.dataset.key === sort.key ? sort.direction : "none");
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-sort]");
  if (!button) return;
  const again = button.dataset.sort === sort.key && sort.direction === "ascending";
  sort = { key: button.dataset.sort, direction: again ? "descending" : "ascending" };
  applySort();
});
watch("value", () => requestAnimationFrame(applySort));
requestAnimationFrame(applySort);
