const MOST = 200;
// Tabs of one site may be different processes, and what one has stored reaches the others a moment later.
const REACHES_OTHERS_MS = 200;

function stored(key) {
  try {
    const value = JSON.parse(localStorage.getItem(key));
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

function merge(value) {
  // Merged with what lies there now: another tab may have written since this one asked.
  const others = new Map(stored(value.key)), runs = new Map();
  const off = new Set([...stored(value.off_key), ...value.off]);
  for (const [run, key] of value.runs) runs.set(run, key || others.get(run) || "");
  for (const [run, key] of others) if (!runs.has(run) && !value.gone.includes(run)) runs.set(run, key);
  for (const run of off) runs.delete(run);
  try {
    localStorage.setItem(value.off_key, JSON.stringify(Array.from(off).slice(-MOST)));
    localStorage.setItem(value.key, JSON.stringify(Array.from(runs).slice(0, MOST)));
  } catch {
    // A browser that stores nothing lists the runs of its open pages only.
  }
}

watch("value", () => {
  const value = props.value;
  if (!value) return;
  // One tab at a time: between reading and writing no other one may write. Plain http without localhost has no locks.
  if (navigator.locks) navigator.locks.request(value.key, () => {
    merge(value);
    return new Promise((over) => setTimeout(over, REACHES_OTHERS_MS));
  });
  else merge(value);
});
