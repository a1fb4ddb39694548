const find = (selector) => element.querySelector(selector);
const root = find(".sr-ranking"), table = find(".sr-sortable"), rowsOfFilters = find(".sr-filter-rows"), count = find(".sr-count");
let sort = null, filters = [], columns = [];

const cellOf = (row, key) => row.querySelector(`[data-key="${CSS.escape(key)}"]`);
// A cell without a value has none to compare: it comes last and passes no condition.
const valueOf = (row, key) => {
  const cell = cellOf(row, key);
  return cell && cell.dataset.value !== undefined ? Number(cell.dataset.value) : null;
};
const bodyRows = () => (table.tBodies[0] ? Array.from(table.tBodies[0].rows) : []);

function applySort() {
  const sign = sort.direction === "ascending" ? 1 : -1;
  const rows = bodyRows().map((row) => ({ row, value: valueOf(row, sort.key), place: Number(row.dataset.place) }));
  rows.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
    return sign * (a.value - b.value) || a.place - b.place;
  });
  table.tBodies[0].append(...rows.map((entry) => entry.row));
  for (const head of table.querySelectorAll("th[aria-sort]"))
    head.setAttribute("aria-sort", head.dataset.key === sort.key ? sort.direction : "none");
}

const limit = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text));

function applyFilters() {
  const active = filters.map((filter) => ({ key: filter.column.value, from: limit(filter.from.value), to: limit(filter.to.value) }))
    .filter((filter) => filter.from !== null || filter.to !== null);
  let shown = 0;
  for (const row of bodyRows()) {
    row.hidden = !active.every(({ key, from, to }) => {
      const value = valueOf(row, key);
      return value !== null && (from === null || value >= from) && (to === null || value <= to);
    });
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${bodyRows().length} shown`;
}

function fillColumns(select) {
  const chosen = select.value;
  select.replaceChildren(...columns.map(({ key, label }) => new Option(label, key)));
  const known = (wanted) => columns.some(({ key }) => key === wanted);
  select.value = [chosen, "reward", columns[0].key].find(known);
}

function labelled(words, field) {
  const label = document.createElement("label");
  label.append(words, field);
  return label;
}

function numberField() {
  const field = document.createElement("input");
  Object.assign(field, { type: "number", step: "any" });
  return field;
}

function addFilter() {
  const line = document.createElement("div"), remove = document.createElement("button");
  const filter = { line, column: document.createElement("select"), from: numberField(), to: numberField() };
  line.className = "sr-filter";
  fillColumns(filter.column);
  Object.assign(remove, { type: "button", className: "sr-plain", textContent: "Remove" });
  remove.setAttribute("aria-label", "Remove this condition");
  remove.addEventListener("click", () => {
    filters = filters.filter((other) => other !== filter);
    line.remove();
    if (!filters.length) addFilter();
    applyFilters();
    find("[data-add]").focus();
  });
  line.append(labelled("number", filter.column), labelled("is at least", filter.from), labelled("and at most", filter.to), remove);
  line.addEventListener("input", applyFilters);
  rowsOfFilters.append(line);
  filters.push(filter);
  return filter;
}

function render() {
  const value = props.value;
  root.hidden = !value;
  if (!value) return;
  const caption = table.caption, title = find(".sr-table-title");
  table.innerHTML = value.table;
  caption.textContent = value.caption + "; each column can be sorted";
  table.prepend(caption);
  title.textContent = value.title;
  title.hidden = !value.title;
  find("legend").textContent = `Show only ${value.rows} whose`;
  find(".sr-scroller").setAttribute("aria-label", value.caption);
  bodyRows().forEach((row, place) => { row.dataset.place = place; });
  columns = value.columns;
  find(".sr-ties").textContent = value.note;
  if (!columns.some(({ key }) => key === sort?.key)) sort = { key: value.sort, direction: "ascending" };
  if (!filters.length) addFilter();
  for (const filter of filters) fillColumns(filter.column);
  applySort();
  applyFilters();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.sort) {
    const again = button.dataset.sort === sort.key;
    const turned = sort.direction === "ascending" ? "descending" : "ascending";
    sort = { key: button.dataset.sort, direction: again ? turned : button.dataset.first };
    applySort();
  }
  if ("add" in button.dataset) addFilter().column.focus();
  if ("clear" in button.dataset) {
    for (const filter of filters) filter.from.value = filter.to.value = "";
    applyFilters();
  }
});

watch("value", render);
render();
