watch("value", () => {
  const value = props.value;
  if (!value) return;
  const link = document.createElement("a");
  link.href = value.address;
  link.download = value.name;
  document.body.appendChild(link);
  link.click();
  link.remove();
});
