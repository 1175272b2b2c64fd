// The studio's own script: menus, dialogs, words at the corner, and forms that are not left by mistake. htmx does the rest.
import "./notes.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

for (const said of $$("[data-said]")) setTimeout(() => said.remove(), 12000);

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  for (const menu of $$("details.menu[open]")) if (!menu.contains(event.target) || opener) menu.open = false;
  if (opener) $(`#${opener.dataset.dialog}`)?.showModal();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const menu of $$("details.menu[open]")) { menu.open = false; $("summary", menu)?.focus(); }
});
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) event.target.closest("dialog")?.close(); });

// A form with data-guard asks before it is left with changes, and cannot be sent twice.

let dirty = false;
document.addEventListener("input", (event) => { if (event.target.closest("form[data-guard]")) dirty = true; });
document.addEventListener("submit", (event) => {
  const form = event.target;
  dirty = false;
  if (form.dataset.sent) { event.preventDefault(); return; }
  if (form.method === "post" && !form.hasAttribute("hx-post")) {
    form.dataset.sent = "1";
    setTimeout(() => delete form.dataset.sent, 5000);
  }
});
window.addEventListener("beforeunload", (event) => { if (dirty) event.preventDefault(); });
window.addEventListener("pageshow", () => { for (const form of $$("form[data-sent]")) delete form.dataset.sent; });
