// The desk's own script: live events, keyboard, drafts that survive, sending with undo. htmx does the rest.
import { complain, say, told } from "./notes.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const words = $("#words-js").dataset;
const { csrf, account } = document.body.dataset;
const headers = { "X-CSRF": csrf, "HX-Request": "true", "Accept-Language": document.documentElement.lang };
const RETRY_MS = [1000, 2000, 4000, 8000, 15000];

// Clocks

function length(seconds) {
  const s = Math.abs(seconds);
  if (s < 60) return `${Math.floor(s)} ${words.s}`;
  if (s < 3600) return `${Math.floor(s / 60)} ${words.m}`;
  if (s < 86400) return `${Math.floor(s / 3600)} ${words.h} ${Math.floor(s / 60) % 60} ${words.m}`;
  return `${Math.floor(s / 86400)} ${words.d} ${Math.floor(s / 3600) % 24} ${words.h}`;
}

function tick() {
  for (const each of $$("[data-share]")) each.style.width = `${Math.min(each.dataset.share, 100)}%`;
  for (const each of $$("[data-due]")) {
    const left = (Date.parse(each.dataset.due) - Date.now()) / 1000;
    const shown = $("b", each) || each;
    shown.textContent = left < 0 ? `${words.late} ${length(left)}` : length(left);
    each.classList.toggle("late", left < 0);
    each.classList.toggle("soon", left >= 0 && left < 900);
  }
  for (const each of $$("[data-window]")) {
    const left = (Date.parse(each.dataset.window) - Date.now()) / 1000;
    each.textContent = left < 0 ? "WhatsApp ✕" : `WhatsApp ${length(left)}`;
    each.classList.toggle("soon", left >= 0 && left < 7200);
    each.classList.toggle("shut", left < 0);
  }
}
setInterval(tick, 5000);

// Dialogs and menus

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  for (const menu of $$("details.menu[open]")) if (!menu.contains(event.target) || opener) menu.open = false;
  if (opener) $(`#${opener.dataset.dialog}`)?.showModal();
  if (event.target.closest("[data-card]")) document.body.classList.toggle("showing-card");
  if (event.target.closest("[data-back]") && $("#app").classList.contains("at-ticket")) {
    event.preventDefault();
    const query = $("#queue").dataset.query;
    history.pushState({}, "", `/desk/queue?${query}`);
    leave();
    $("#app").className = "app at-list";
  }
  const quote = event.target.closest("[data-quote]");
  if (quote && draft) quoting(Number(quote.dataset.quote));
  if (event.target.closest("[data-unquote]")) quoting(null);
  const edit = event.target.closest("[data-edit]");
  if (edit && draft) changing(edit);
  const undo = event.target.closest("[data-undo]");
  if (undo) takeBack(Number(undo.dataset.undo));
  const pick = event.target.closest("[data-pick]");
  if (pick) picker(pick.dataset.pick);
  else if (!event.target.closest("#picker")) closePicker();
  const insert = event.target.closest("[data-insert]");
  if (insert) { insertText(insert.dataset.insert); closePicker(); }
  const remove = event.target.closest("[data-remove]");
  if (remove) { files.splice(Number(remove.dataset.remove), 1); showFiles(); }
});
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful && event.detail.requestConfig.verb !== "get") event.target.closest("dialog")?.close(); });

// The list

const chosen = () => $$("#rows input:checked");
function showChosen() {
  const many = $(".many");
  if (!many) return;
  many.hidden = !chosen().length;
  $("[data-chosen]").textContent = chosen().length;
  $("#many").classList.toggle("choosing", chosen().length > 0);
}
document.addEventListener("change", (event) => { if (event.target.matches("#rows input")) showChosen(); });
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-unchoose]")) { for (const box of chosen()) box.checked = false; showChosen(); }
});

let listAt = 0, listTimer = 0, listPause = 1500;
function refreshList() {
  if (!$("#queue") || listTimer) return;
  listTimer = setTimeout(() => {
    listTimer = 0;
    // What somebody is at work in is not taken from under his hands.
    if (chosen().length || $(".queue details[open]")) return refreshLater();
    const asked = (listAt = Date.now());
    fetch(`/desk/queue?${$("#queue").dataset.query}&open=${ticketId() || ""}`, { headers }).then(async (answer) => {
      if (!answer.ok || chosen().length) return;
      const html = await answer.text();
      listPause = Math.min(Math.max(1500, (Date.now() - asked) * 20), 10000); // a busy server is asked less often
      // Where he is now, and not where he was when it was asked for.
      const top = $("#rows")?.scrollTop ?? 0, across = $(".views")?.scrollLeft ?? 0;
      const at = $("#rows a.at")?.closest("li")?.dataset.id;
      const focused = document.activeElement?.closest?.("#rows li")?.dataset.id;
      htmx.swap("#queue", html, { swapStyle: "outerHTML" });
      if ($("#rows")) $("#rows").scrollTop = top;
      if ($(".views")) $(".views").scrollLeft = across;
      if (at) $(`#rows li[data-id="${at}"] a`)?.classList.add("at");
      if (focused) $(`#rows li[data-id="${focused}"] a`)?.focus();
      tick();
    }).catch(() => {});
  }, Math.max(0, listAt + listPause - Date.now()));
}
const refreshLater = () => setTimeout(refreshList, 3000);

// The open ticket

let draft = null, files = [], dirty = false, typedAt = 0, hereTimer = 0, retry = 0, retryTimer = 0, fetching = null, again = false;
const ticketId = () => Number($("#talk")?.dataset.ticket || 0);
const form = () => $("#reply");
const box = () => $("#text");
const store = () => `otvet-desk:${account}:${ticketId()}`;
const ids = (selector) => $$(selector).map((each) => Number(each.dataset.id));
const newest = () => Math.max(Number(form()?.dataset.seen || 0), ...ids("#log [data-id]"));
const newestOther = () => Math.max(0, ...ids("#log [data-other]"));
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function keep() {
  if (!draft) return;
  draft.text = box().value;
  if (draft.text || draft.unsent) localStorage.setItem(store(), JSON.stringify(draft));
  else localStorage.removeItem(store());
}

function enter() {
  clearInterval(hereTimer);
  clearTimeout(retryTimer);
  files = [];
  draft = null;
  tick();
  for (const row of $$("#rows a")) {
    if (row.closest("li").dataset.id === String(ticketId())) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  if (!ticketId()) return;
  $("#app").className = "app at-ticket";
  document.body.classList.remove("showing-card");
  document.title = document.title.replace(/^\(\d+\) /, "").replace(/^(№ \d+ · )?/, `№ ${ticketId()} · `);
  const scroll = $("#scroll");
  scroll.scrollTop = scroll.scrollHeight;
  here("looks");
  hereTimer = setInterval(() => here(Date.now() - typedAt < 5000 ? "types" : "looks"), 5000);
  if (!form()) return;
  try { draft = JSON.parse(localStorage.getItem(store())); } catch { /* nothing that can be read */ }
  draft ??= { text: "", key: newKey(), mode: "reply", quote: null, seenOther: newestOther(), unsent: false, then: "" };
  if (restMode() === "note") draft.mode = "note";
  box().value = draft.text;
  $(`input[name="mode"][value="${draft.mode}"]`).checked = true;
  showMode();
  quoting(draft.quote);
  if (draft.unsent) { wait(true); send(draft.then); }
}

function leave() {
  if (ticketId()) { keep(); here("leaves"); }
  clearInterval(hereTimer);
}

// Who is only mentioned in another team's ticket writes notes alone.
const restMode = () => (form().hasAttribute("data-notes-only") ? "note" : "reply");

function showMode() {
  const note = draft.mode === "note";
  form().classList.toggle("noting", note);
  box().placeholder = note ? box().dataset.note : (box().dataset.reply ??= box().placeholder);
  $('[data-then="finish"]').hidden = note;
}

function quoting(id) {
  if (!draft) return;
  draft.quote = id && $(`#m-${id}`) ? id : null;
  $("#quote").hidden = !draft.quote;
  if (draft.quote) { $("#quote span").textContent = $(`#m-${id} .body`).textContent.trim(); box().focus(); }
  keep();
}

function insertText(text) {
  const area = box();
  area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input", { bubbles: true }));
  area.focus();
}

document.addEventListener("input", (event) => {
  if (event.target !== box() || !draft) return;
  if (!draft.text) draft.seenOther = newestOther();
  keep();
  if (Date.now() - typedAt > 4000 && draft.mode === "reply") { typedAt = Date.now(); here("types"); }
  typedAt = Date.now();
});
document.addEventListener("change", (event) => {
  if (event.target.name === "mode") { draft.mode = event.target.value; showMode(); keep(); box().focus(); }
  if (event.target.id === "file") { add([...event.target.files]); event.target.value = ""; }
});

function add(more) {
  for (const file of more) {
    if (file.size > Number(form().dataset.maxFile)) say(`${file.name}: ${words.large}`, { bad: true });
    else files.push(file);
  }
  showFiles();
}

function showFiles() {
  const list = $("#files");
  list.replaceChildren(...files.map((file, number) => {
    const row = document.createElement("li");
    if (file.type.startsWith("image/")) {
      const picture = document.createElement("img");
      picture.alt = "";
      picture.src = URL.createObjectURL(file);
      picture.onload = () => URL.revokeObjectURL(picture.src);
      row.append(picture);
    }
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "icon tiny";
    remove.dataset.remove = number;
    remove.setAttribute("aria-label", `${words.remove}: ${file.name}`);
    remove.textContent = "×";
    row.append(file.name || "screenshot.png", remove);
    return row;
  }));
  list.hidden = !files.length;
}
document.addEventListener("click", (event) => { if (event.target.closest("#attach")) $("#file").click(); });
document.addEventListener("paste", (event) => {
  if (!form() || !event.clipboardData?.files.length || !form().contains(event.target)) return;
  event.preventDefault();
  add([...event.clipboardData.files]);
});
document.addEventListener("dragover", (event) => { if (form() && event.target.closest?.("#talk")) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!form() || !event.target.closest?.("#talk")) return;
  event.preventDefault();
  add([...event.dataTransfer.files]);
});

// Sending. The same key goes with every try, so that what arrived twice is sent once.

function wait(on) {
  box().readOnly = on;
  for (const button of $$('#reply [type="submit"]')) button.disabled = on;
}

document.addEventListener("submit", (event) => {
  if (event.target !== form()) return;
  event.preventDefault();
  send(event.submitter?.dataset.then || "");
});

async function send(then) {
  const text = box().value.trim();
  if (!draft || (!text && !files.length) || dirty) return;
  dirty = true;
  const ticket = ticketId(), state = $("#reply-state"), note = draft.mode === "note", key = store();
  const data = new FormData();
  data.set("text", text);
  data.set("seen", newest());
  if (!note) {
    data.set("key", draft.key);
    data.set("seen_agent", draft.seenOther);
    data.set("then", then);
    if (draft.quote) data.set("quote", draft.quote);
    const template = $('select[name="template"]');
    if (template) data.set("template", template.value);
    for (const file of files) data.append("files", file, file.name || "screenshot.png");
  }
  wait(true);
  state.textContent = words.sending;
  let answer;
  try {
    answer = await fetch(`/desk/tickets/${ticket}/${note ? "note" : "reply"}`, { method: "POST", body: data, headers, signal: AbortSignal.timeout(60000) });
  } catch {
    dirty = false;
    if (ticketId() !== ticket) return;
    draft.unsent = !note;
    draft.then = then;
    keep();
    state.textContent = words.unsent;
    if (note) wait(false);
    else retryTimer = setTimeout(() => send(then), RETRY_MS[Math.min(retry++, RETRY_MS.length - 1)]);
    return;
  }
  dirty = false;
  retry = 0;
  const body = await answer.text(), here = ticketId() === ticket && form();
  if (answer.ok) localStorage.removeItem(key);
  if (!here) return;
  wait(false);
  state.textContent = "";
  draft.unsent = false;
  if (answer.status === 401) {
    keep();
    say(words.closed, { bad: true });
    setTimeout(() => location.assign(answer.headers.get("HX-Redirect") || "/desk/sign-in"), 1500);
    return;
  }
  if (answer.ok || (answer.status === 409 && answer.headers.get("content-type").startsWith("text/html"))) place(body);
  told(answer.headers.get("HX-Trigger"));
  if (answer.ok) {
    box().value = "";
    files = [];
    showFiles();
    draft = { ...draft, text: "", key: newKey(), quote: null, seenOther: newestOther(), then: "", warned: false };
    quoting(null);
    if (note) { draft.mode = restMode(); $(`input[name="mode"][value="${draft.mode}"]`).checked = true; showMode(); }
    keep();
    refreshList();
  } else if (answer.status === 409) {
    draft.seenOther = newestOther();
    draft.warned = true; // what comes from colleagues from now on is expected
    keep();
    if (!answer.headers.get("content-type").startsWith("text/html")) complain(body);
  } else complain(body);
  box().focus();
}
addEventListener("online", () => { if (draft?.unsent) { clearTimeout(retryTimer); send(draft.then); } });

async function takeBack(id) {
  const answer = await fetch(`/desk/tickets/${ticketId()}/take-back/${id}`, { method: "POST", headers }).catch(() => null);
  told(answer?.headers.get("HX-Trigger"));
  if (answer?.ok) {
    const { text } = await answer.json();
    box().value = [text, box().value].filter(Boolean).join("\n\n");
    keep();
    say(words.takenBack);
    box().focus();
  }
  news();
}

// A sent reply changes where its platform can change it.
function changing(button) {
  const dialog = $("#edit-reply");
  $("textarea", dialog).value = button.dataset.text;
  dialog.dataset.message = button.dataset.edit;
  dialog.showModal();
}
document.addEventListener("submit", async (event) => {
  const dialog = event.target.closest("#edit-reply");
  if (!dialog || event.target.method === "dialog") return;
  event.preventDefault();
  const body = new URLSearchParams({ text: $("textarea", dialog).value });
  const answer = await fetch(`/desk/tickets/${ticketId()}/messages/${dialog.dataset.message}`, { method: "POST", headers, body }).catch(() => null);
  if (!answer?.ok) return complain(answer ? await answer.text() : "");
  dialog.close();
  htmx.swap(`#m-${dialog.dataset.message}`, await answer.text(), { swapStyle: "outerHTML" });
});

// What comes in

function place(html) {
  const scroll = $("#scroll"), low = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 160;
  htmx.swap("#log", html, { swapStyle: "beforeend" });
  const seen = new Set();
  for (const each of $$("#log [data-id]")) {
    if (seen.has(each.dataset.id)) each.remove();
    seen.add(each.dataset.id);
  }
  if (draft?.warned) draft.seenOther = newestOther();
  tick();
  if (low) scroll.scrollTop = scroll.scrollHeight;
}
const acts = (head) => $(".acts", head)?.innerHTML.replaceAll(' open=""', "");
document.addEventListener("htmx:oobBeforeSwap", (event) => {
  const { target, fragment } = event.detail, fresh = fragment.firstElementChild;
  if (target.id === "head" && acts(target) === acts(fresh)) {
    // The buttons stay the ones that somebody is about to press.
    for (const part of [".title", ".clocks"]) $(part, target).replaceWith($(part, fresh));
    event.detail.shouldSwap = false;
    return;
  }
  for (const open of $$("details[open]", event.detail.target)) {
    const same = $$("details", event.detail.fragment)[$$("details", event.detail.target).indexOf(open)];
    if (same && !open.id) same.open = true;
  }
});

async function news(whole = false) {
  const ticket = ticketId();
  if (!ticket) return;
  if (fetching) { again = true; return; }
  fetching = ticket;
  try {
    const over = $("#head [data-over]")?.dataset.over;  // the question whether to take it over stays
    const query = `after=${newest()}${whole ? "&card=1" : ""}${over ? `&over=${over}` : ""}`;
    const answer = await fetch(`/desk/tickets/${ticket}/news?${query}`, { headers });
    if (answer.ok && ticketId() === ticket) {
      place(await answer.text());
      const live = !/(resolved|closed)/.test($("#head .status").className);
      if (form()) form().hidden = !live;
    }
  } catch { /* the next event brings it */ }
  fetching = null;
  if (again) { again = false; news(); }
}
setInterval(() => { if (document.visibilityState === "visible") news(true); }, 20000);

async function here(doing) {
  const ticket = ticketId();
  if (!ticket) return;
  const body = new URLSearchParams({ doing });
  const answer = await fetch(`/desk/tickets/${ticket}/here`, { method: "POST", headers, body, keepalive: true }).catch(() => null);
  if (answer?.ok && doing !== "leaves" && ticketId() === ticket) {
    const html = await answer.text();
    if ($("#others").innerHTML.trim() !== html.trim()) $("#others").innerHTML = html;
  }
}
addEventListener("pagehide", leave);

// How much came while the page was behind others stands in its title.
let unseen = 0;
function count(number) {
  unseen = number;
  document.title = (number ? `(${number}) ` : "") + document.title.replace(/^\(\d+\) /, "");
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) count(0); });

let events;
function listen() {
  events = new EventSource("/desk/events");
  events.addEventListener("hello", () => { $("#line").hidden = true; refreshList(); news(); });
  events.addEventListener("changes", (event) => {
    const { tickets, news: items } = JSON.parse(event.data);
    if (tickets.includes(ticketId())) news();
    refreshList();
    if (document.hidden) count(unseen + items.length);
    for (const item of items) {
      if (item.ticket === ticketId() && document.visibilityState === "visible") continue;
      const verb = { message: words.wrote, note: words.mentioned, assigned: words.gave }[item.kind];
      say(`№ ${item.ticket}: ${item.who} ${verb} ${item.text}`, { href: `/desk/tickets/${item.ticket}` });
    }
  });
  events.addEventListener("over", () => { keep(); say(words.closed, { bad: true }); events.close(); });
  events.addEventListener("error", () => {
    $("#line").hidden = false;
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
}

// Macros, articles, a suggested draft

function closePicker() { const shown = $("#picker"); if (shown && !shown.hidden) { shown.hidden = true; shown.dataset.kind = ""; } }
async function picker(kind) {
  const shown = $("#picker");
  if (shown.dataset.kind === kind) return closePicker();
  const answer = await fetch(`/desk/tickets/${ticketId()}/${kind}`, { headers }).catch(() => null);
  if (!answer?.ok) return complain(answer ? await answer.text() : "");
  shown.dataset.kind = kind;
  shown.innerHTML = await answer.text();
  htmx.process(shown);
  shown.hidden = false;
  ($("input", shown) || $("button", shown) || box()).focus();
}

// Keyboard. By the place of the key, so that it is the same in every layout.

let go = 0;
function move(step) {
  const rows = $$("#rows a");
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  const open = rows.findIndex((row) => row.getAttribute("aria-current"));
  const next = rows[Math.min(Math.max((at >= 0 ? at : open) + step, 0), rows.length - 1)];
  for (const row of rows) row.classList.toggle("at", row === next);
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}
document.addEventListener("keydown", (event) => {
  // Until the next frame a field has the focus though its dialog has just been closed.
  const writing = event.target.checkVisibility?.() && event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select");
  if (event.key === "Escape") {
    if (!$("#picker")?.hidden) { closePicker(); box()?.focus(); return; }
    for (const menu of $$("details.menu[open]")) { menu.open = false; $("summary", menu).focus(); }
    document.body.classList.remove("showing-card");
    if (writing && !event.target.closest("dialog")) event.target.blur();
    return;
  }
  if (event.target === box()) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(event.shiftKey && draft.mode === "reply" ? "finish" : ""); }
    if (event.code === "KeyZ" && (event.ctrlKey || event.metaKey) && !box().value) $$("[data-undo]").at(-1)?.click();
    return;
  }
  if ($("#picker") && !$("#picker").hidden && ["ArrowDown", "ArrowUp"].includes(event.key)) {
    const all = $$("[data-insert], [data-macro]", $("#picker")), at = all.indexOf(document.activeElement);
    all[Math.min(Math.max(at + (event.key === "ArrowDown" ? 1 : -1), 0), all.length - 1)]?.focus();
    event.preventDefault();
    return;
  }
  if (writing || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  const code = event.code;
  if (event.key === "?" || (code === "Slash" && event.shiftKey)) { event.preventDefault(); $("#help").showModal(); return; }
  if (code === "Slash") { event.preventDefault(); $("#words").focus(); $("#words").select(); return; }
  if (go && Date.now() - go < 1500) {
    const view = { KeyM: "mine", KeyU: "unassigned", KeyW: "waiting", KeyB: "breach", KeyA: "all", KeyN: "mentions" }[code];
    go = 0;
    if (view) { location.assign(`/desk/queue?view=${view}`); return; }
  }
  if (code === "KeyG") { go = Date.now(); return; }
  if (code === "KeyJ" || code === "KeyK") { event.preventDefault(); move(code === "KeyJ" ? 1 : -1); return; }
  if (code === "KeyX") { const mark = $("#rows a.at")?.closest("li").querySelector("input"); if (mark) { mark.checked = !mark.checked; showChosen(); } return; }
  if (!form() || form().hidden) return;
  if (code === "KeyR" || code === "KeyN") {
    event.preventDefault();
    draft.mode = code === "KeyN" ? "note" : restMode();
    $(`input[name="mode"][value="${draft.mode}"]`).checked = true;
    showMode();
    box().focus();
    return;
  }
  const key = { KeyI: "i", KeyT: "t", KeyH: "h", KeyE: "e", KeyF: "f", KeyD: "d", KeyM: "m", KeyA: "a", KeyS: "s" }[code];
  const button = key && $(`[data-key="${key}"]`);
  if (button) { event.preventDefault(); button.click(); }
});

// What answers a press takes the place of the whole ticket. Not where another one is open by now, nor while somebody is
// at work in what he has opened since: the news say the same, and take nothing from under his hands.
const busy = (pressed) => document.activeElement === box()
  || $$("#work dialog[open], #work details.menu[open], #picker:not([hidden])").some((each) => !each.contains(pressed));
// Nothing ends over a word of the customer's that is not on the screen yet.
document.addEventListener("htmx:configRequest", (event) => {
  if (/\/(finish|resolve|close|return)$/.test(event.detail.path)) event.detail.parameters.seen = newest();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const { target, shouldSwap, requestConfig: asked } = event.detail;
  if (target?.id !== "work" || !shouldSwap) return;
  const of = asked.verb === "post" && Number(/^\/desk\/tickets\/(\d+)\//.exec(asked.path)?.[1]);
  if (of && (of !== ticketId() || busy(asked.elt))) {
    event.detail.shouldSwap = false;
    news(true);
    refreshList();
  } else leave();
});
document.addEventListener("focusin", (event) => { if (event.target.matches("[data-select]")) event.target.select(); });
document.addEventListener("htmx:afterSwap", (event) => { tick(); if (event.detail.target?.id === "work") { enter(); refreshList(); } });
addEventListener("popstate", () => location.reload());

tick();
if ($("#app")) {
  listen();
  if (ticketId()) enter();
  if (innerWidth > 820) $("#rows a[aria-current]")?.scrollIntoView({ block: "nearest" });
  $(".views a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });  // on a narrow screen they are one row
}
