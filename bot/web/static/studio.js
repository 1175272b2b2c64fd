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
document.addEventListener("input", (event) => { if (event.target.closest("form[data-guard]") && !event.target.matches("[data-unkept]")) dirty = true; });
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

// What is written in a form with data-keep outlives a lost session, a crash and a refusal.

for (const form of $$("form[data-keep]")) {
  const key = `otvet-studio:${document.body.dataset.account}:${form.dataset.keep}`;
  const fields = () => [...form.elements].filter((each) => each.name && each.type !== "hidden" && !each.readOnly && !("unkept" in each.dataset) && /^(INPUT|TEXTAREA|SELECT)$/.test(each.tagName));
  const value = (each) => (each.type === "checkbox" ? String(each.checked) : each.value);
  const state = () => Object.fromEntries(fields().map((each) => [each.name, value(each)]));
  const drop = () => localStorage.removeItem(key);
  const bar = $("[data-kept]", form);
  let kept = null, timer = 0;
  try { kept = JSON.parse(localStorage.getItem(key)); } catch { /* nothing that can be read */ }
  const present = state();
  if (kept && $("[data-said]")) drop(); // it was saved
  else if (kept && bar && !("carried" in form.dataset) && Object.entries(kept).some(([name, text]) => name in present && present[name] !== text)) bar.hidden = false;
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => localStorage.setItem(key, JSON.stringify(state())), 400); });
  form.addEventListener("submit", () => localStorage.setItem(key, JSON.stringify(state())));
  form.addEventListener("click", (event) => {
    if (event.target.closest("[data-drop]")) { drop(); bar.hidden = true; }
    if (!event.target.closest("[data-bring]")) return;
    for (const each of fields()) {
      if (!(each.name in kept)) continue;
      if (each.type === "checkbox") each.checked = kept[each.name] === "true";
      else each.value = kept[each.name];
      each.dispatchEvent(new Event("input", { bubbles: true }));
    }
    bar.hidden = true;
  });
  form.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches("[data-unkept]")) event.preventDefault(); });
}
