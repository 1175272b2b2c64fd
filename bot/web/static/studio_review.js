// A key for each choice of the review: the button that names it in data-key is pressed.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const wanted = { KeyS: "s", KeyU: "u", KeyK: "k", KeyR: "r" }[event.code] ?? event.key;
  const button = document.querySelector(`#review [data-key="${CSS.escape(wanted)}"]`);
  if (button) { event.preventDefault(); button.click(); }
});
