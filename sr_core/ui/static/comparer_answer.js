watch("value", () => {
  if (props.value) window.dispatchEvent(new CustomEvent(props.event_name, { detail: props.value }));
});
