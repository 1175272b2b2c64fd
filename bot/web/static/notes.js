// Words at the corner of the page, for the desk and the studio.
const corner = document.querySelector("#toasts");
const { broken, undo: undoWord } = document.querySelector("#words-js").dataset;

export function say(text, { bad = false, href = "", undo = "" } = {}) {
  const toast = document.createElement(href ? "a" : "div");
  toast.textContent = text;
  if (href) toast.href = href;
  if (bad) toast.className = "bad";
  if (undo) {
    const form = document.createElement("form"), button = document.createElement("button"), key = document.createElement("input");
    form.method = "post";
    form.action = undo;
    key.type = "hidden";
    key.name = "csrf";
    key.value = document.body.dataset.csrf;
    button.className = "link";
    button.textContent = undoWord;
    form.append(key, button);
    toast.append(" ", form);
  }
  corner.append(toast);
  while (corner.children.length > 4) corner.firstChild.remove();
  setTimeout(() => toast.remove(), bad || undo ? 12000 : 6000);
}

export function told(header) {
  try { const { told: said } = JSON.parse(header || "{}"); if (said) say(said.text, { bad: said.what === "stale" || said.what === "colleague_answers" }); } catch { /* another kind of trigger */ }
}

export function complain(body) {
  let text = broken;
  try { text = JSON.parse(body).error.message; } catch { /* no words of ours */ }
  say(text, { bad: true });
}

document.addEventListener("told", (event) => say(event.detail.text, event.detail));
document.addEventListener("htmx:responseError", (event) => complain(event.detail.xhr.responseText));
document.addEventListener("htmx:sendError", () => say(broken, { bad: true }));
