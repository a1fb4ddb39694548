watch("value", () => {
  if (props.value) window.dispatchEvent(new CustomEvent("sr-comparer-answer", { detail: props.value }));
});
