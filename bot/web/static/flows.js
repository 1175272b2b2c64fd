// In a flow's page: from a fault or a step of the picture to its line; Tab indents.
const code = document.querySelector("[data-code]");

const goTo = (line) => {
  const lines = code.value.split("\n");
  const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  code.focus();
  code.setSelectionRange(start, start + (lines[line - 1] || "").length);
  code.scrollTop = Math.max(0, (line - 6) * parseFloat(getComputedStyle(code).lineHeight));
};
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-line]");
  if (target && code) goTo(Number(target.dataset.line));
});
code?.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { code.blur(); return; }
  if (event.key !== "Tab" || event.shiftKey || event.ctrlKey || event.altKey) return;
  event.preventDefault();
  code.setRangeText("  ", code.selectionStart, code.selectionEnd, "end");
  code.dispatchEvent(new Event("input", { bubbles: true }));
});

// A wide picture begins in its middle, where the first step stands.
const centre = () => { for (const each of document.querySelectorAll(".drawing")) each.scrollLeft = (each.scrollWidth - each.clientWidth) / 2; };
centre();
document.addEventListener("htmx:afterSettle", centre);
