const MOST = 200;

function stored(key) {
  try {
    const pairs = JSON.parse(localStorage.getItem(key));
    return new Map(Array.isArray(pairs) ? pairs : []);
  } catch {
    return new Map();
  }
}

watch("value", () => {
  const value = props.value;
  if (!value) return;
  // Merged with what lies there now: another tab may have written since this one asked.
  const others = stored(value.key), runs = new Map();
  for (const [run, key] of value.runs) runs.set(run, key || others.get(run) || "");
  for (const [run, key] of others) if (!runs.has(run) && !value.gone.includes(run)) runs.set(run, key);
  try {
    localStorage.setItem(value.key, JSON.stringify(Array.from(runs).slice(0, MOST)));
  } catch {
    // A browser that stores nothing lists the runs of its open pages only.
  }
});
