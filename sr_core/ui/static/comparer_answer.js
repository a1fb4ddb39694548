watch("value", () => {
  if (props.value) window.dispatchEvent(new CustomEvent(eventName, { detail: props.value }));
});
