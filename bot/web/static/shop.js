// The suggested questions open the chat. A shop of one's own needs nothing of this, only widget.js.
for (const chip of document.querySelectorAll("button.chip")) {
  chip.addEventListener("click", () => window.Otvet?.ask(chip.textContent.trim()));
}
