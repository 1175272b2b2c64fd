// Examples are moved to another intent: dragged onto it, or chosen in a dialog.
const $ = (selector, root = document) => root.querySelector(selector);
let moving = null;

const move = (row, to) => htmx.ajax("POST", `/studio/intents/example/${row.dataset.example}/move`, { source: row, target: row, swap: "delete", values: { to } });

document.addEventListener("dragstart", (event) => {
  moving = event.target.closest?.("[data-example]");
  if (!moving) return;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", $(".what span", moving).textContent);
  document.body.classList.add("dragging");
});
document.addEventListener("dragend", () => { moving = null; document.body.classList.remove("dragging"); $(".over")?.classList.remove("over"); });
document.addEventListener("dragover", (event) => {
  const over = moving && event.target.closest?.("[data-intent]");
  $(".over")?.classList.remove("over");
  if (!over) return;
  event.preventDefault();
  over.classList.add("over");
});
document.addEventListener("drop", (event) => {
  const over = moving && event.target.closest?.("[data-intent]");
  if (!over) return;
  event.preventDefault();
  move(moving, over.dataset.intent);
});

let chosen = null;
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-move]");
  if (!button) return;
  chosen = button.closest("[data-example]");
  $("[data-moved]").textContent = $(".what span", chosen).textContent;
  $("#mover").showModal();
  $("#mover select").focus();
});
$("[data-mover]").addEventListener("submit", (event) => {
  event.preventDefault();
  const next = $("[data-move]", chosen.nextElementSibling ?? chosen.previousElementSibling ?? document.body);
  $("#mover").close();
  move(chosen, event.target.elements.to.value).then(() => next?.focus());
});

// Only the field of the chosen outcome is shown.

const outcome = $("[data-outcome]");
const show = () => { for (const each of document.querySelectorAll("[data-for]")) each.hidden = each.dataset.for !== outcome.value; };
outcome.addEventListener("change", show);
show();
