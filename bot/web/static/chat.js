// The site chat. One stream of server-sent events brings the whole transcript; what the customer writes goes out by
// POST under an id made here, so that sending it again is no double.

const WORDS = {
  ru: {
    online: "Помощник отвечает сразу", connecting: "Соединяемся…", person: (n) => `Обращение № ${n} · отвечает специалист`,
    named: (n, name) => `${name} · обращение № ${n}`, offline: "Нет связи. Соединимся сами, сообщения не пропадут.",
    placeholder: "Напишите сообщение…", label: "Сообщение", send: "Отправить", attach: "Прикрепить файл",
    close: "Свернуть чат", log: "Переписка", options: "Варианты ответа", down: "К последним сообщениям",
    typing: "Помощник печатает", agentTyping: "Специалист печатает", kept: "Сообщение сохранено. Ответ придёт сюда, можно пока закрыть чат.",
    sending: "Отправляется…", waits: "Ждёт связи", failed: "Не отправлено", retry: "Повторить", copy: "Убрать", you: "Вы",
    assistant: "Помощник", agent: "Специалист", today: "Сегодня", yesterday: "Вчера", more: "Показать целиком",
    long: (n, max) => `${n} зн.: сообщение сохранится целиком, но помощник понимает до ${max}.`,
    over: (n, max) => `${n} зн.: помещается до ${max}. Сократите или пришлите файлом.`,
    large: (name, mb) => `«${name}» больше ${mb} МБ.`, gone: "файл не сохранился", other: "EN", otherName: "Switch to English",
    file: "Файл", lost: "Нет связи с сервером.", units: ["Б", "КБ", "МБ"],
  },
  en: {
    online: "The assistant answers right away", connecting: "Connecting…", person: (n) => `Ticket No. ${n} · a specialist is on it`,
    named: (n, name) => `${name} · ticket No. ${n}`, offline: "No connection. We'll reconnect by ourselves, nothing gets lost.",
    placeholder: "Write a message…", label: "Message", send: "Send", attach: "Attach a file",
    close: "Minimise the chat", log: "Conversation", options: "Suggested answers", down: "To the latest messages",
    typing: "The assistant is typing", agentTyping: "The specialist is typing", kept: "Your message is kept. The answer will come here; you may close the chat meanwhile.",
    sending: "Sending…", waits: "Waiting for a connection", failed: "Not sent", retry: "Retry", copy: "Remove", you: "You",
    assistant: "Assistant", agent: "Specialist", today: "Today", yesterday: "Yesterday", more: "Show all of it",
    long: (n, max) => `${n} characters: kept in full, but the assistant understands up to ${max}.`,
    over: (n, max) => `${n} characters: up to ${max} fit. Shorten it or send it as a file.`,
    large: (name, mb) => `"${name}" is larger than ${mb} MB.`, gone: "the file was not kept", other: "RU", otherName: "Переключить на русский",
    file: "File", lost: "The server can't be reached.", units: ["B", "KB", "MB"],
  },
};
const REPLY_SECONDS = 30;
const RETRY_SECONDS = 5;
const SILENCE_SECONDS = 40; // the server pings every 15 s, so a longer silence is a dead connection
const CLIP_CHARS = 1500;

const $ = (id) => document.getElementById(id);
const { shopRu, shopEn, long: longChars, max: maxChars, file: maxFileBytes } = document.body.dataset;
const query = new URLSearchParams(location.search);
const embedded = query.has("embed") && window.parent !== window;
let lang = document.documentElement.lang;
let words = WORDS[lang];
let showProof; // of prove.js, where customers can prove an e-mail

const el = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const button = (className, text, onClick) => {
  const element = el("button", className, text);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
};
const wellFormed = (text) => (text.toWellFormed ? text.toWellFormed() : text);
// crypto.randomUUID exists on secure pages only, and a shop may try the chat over plain HTTP.
const uuid = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
};

// Storage can be off (a third-party frame, private browsing): the chat then lives as long as the page.
const memory = {};
const stored = (area, key) => { try { return area().getItem(key); } catch { return memory[key] ?? null; } };
const store = (area, key, value) => {
  memory[key] = value;
  try { if (value === null) area().removeItem(key); else area().setItem(key, value); } catch { /* kept in memory */ }
};
const shared = () => localStorage;
const ofTab = () => sessionStorage;

// --- State ---
let token = stored(shared, "otvet.token");
let lastId = 0;
let owner = { owner: "assistant", ticket_id: null };
let agentName = null;
let opened = !embedded;
let live = false;
let newest = null; // the newest message, whose options may be taken
let unsent = []; // { id, body | file, text, error, final, row }
let awaiting = null; // timer of the reply that is waited for
let lastRow = null, lastDay = null;

// --- Server ---
const headers = (more = {}) => ({ Authorization: `Bearer ${token}`, "Accept-Language": lang, ...more });

async function ensureSession() {
  if (token) return;
  // Two tabs that open at once share one session: the first to hold the lock makes it.
  const make = async () => {
    token = stored(shared, "otvet.token");
    if (token) return;
    const response = await fetch("/api/chat/sessions", { method: "POST", headers: { "Accept-Language": lang } });
    if (!response.ok) throw new Error(`sessions: ${response.status}`);
    token = (await response.json()).token;
    store(shared, "otvet.token", token);
  };
  // A frame on another site may be denied the lock; its storage is denied it too then, and there is nothing to share.
  const locked = navigator.locks?.request("otvet.session", make) ?? make();
  await locked.catch((error) => { if (error.name === "SecurityError") return make(); throw error; });
}

function forgetSession() {
  token = null;
  store(shared, "otvet.token", null);
  lastId = 0;
  newest = lastRow = lastDay = null;
  $("history").replaceChildren();
}

let connection = null, reconnect = null, failures = 0;

async function connect() {
  clearTimeout(reconnect);
  if (connection || (!token && !opened)) return;
  const controller = (connection = new AbortController());
  let watchdog;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => controller.abort(), SILENCE_SECONDS * 1000);
  };
  try {
    alive();
    await ensureSession();
    const response = await fetch("/api/chat/events", {
      headers: headers({ Accept: "text/event-stream", "Last-Event-ID": String(lastId) }),
      cache: "no-store", signal: controller.signal,
    });
    if (response.status === 401) {
      forgetSession();
      failures = Math.max(failures, 1);
      throw new Error("no session");
    }
    if (!response.ok) throw new Error(`events: ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      alive();
      buffer += value.replaceAll("\r", "");
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      blocks.forEach(onBlock);
    }
  } catch { /* whatever it was, connecting again is the remedy */ }
  clearTimeout(watchdog);
  controller.abort();
  connection = null;
  live = false;
  failures += 1;
  showConnection();
  const pause = Math.min(15000, 400 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
  reconnect = setTimeout(connect, pause);
}

function hurry() {
  failures = Math.min(failures, 1);
  if (!connection) connect();
}

function onBlock(block) {
  let name = "message", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data += (data && "\n") + line.slice(5).replace(/^ /, "");
  }
  if (!data) return;
  const event = JSON.parse(data);
  if (name === "message") onMessage(event);
  else if (name === "state") onState(event);
  else if (name === "live") onLive();
  else if (name === "typing") onTyping(event.agent);
}

function onLive() {
  live = true;
  failures = 0;
  $("log").setAttribute("aria-live", "polite");
  showConnection();
  if (opened && !newest && !unsent.length && !awaiting) greet();
  for (const item of unsent) if (item.error && !item.final) item.error = null;
  flush();
  scrollDown();
}

const greet = () => post({ client_id: uuid(), kind: "start", text: (new URLSearchParams(location.search).get("start") || "").slice(0, 64), lang }).then(() => newest || awaitReply(), () => {});

async function post(body) {
  const response = await fetch("/api/chat/messages", {
    method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body),
  });
  return answered(response);
}

async function answered(response) {
  if (response.ok) return;
  if (response.status === 401) { forgetSession(); connection?.abort(); }
  const words = await response.json().then((body) => body.error.message, () => "");
  // A refusal of the message itself won't change; anything else may pass later.
  throw Object.assign(new Error(words), { final: [413, 422].includes(response.status) });
}

// --- Sending ---
function enqueue(item) {
  unsent.push({ id: uuid(), error: null, final: false, accepted: false, ...item });
  remember();
  hideNote();
  showUnsent();
  showOptions();
  scrollDown(true);
  flush();
}

// A message that was not accepted yet survives a reload of this tab. Files don't: a browser keeps none.
const remember = () => store(ofTab, "otvet.unsent", JSON.stringify(
  unsent.filter((item) => item.body && !item.accepted).map(({ id, body, text }) => ({ id, body, text }))));

let flushing = false;
async function flush() {
  if (flushing) return;
  flushing = true;
  try {
    for (let item; (item = unsent.find((one) => !one.accepted && !one.final));) {
      if (item.error !== null) break; // later messages wait for it: the order is the customer's
      try {
        await ensureSession();
        if (item.file) {
          const form = new FormData();
          form.append("client_id", item.id);
          form.append("lang", lang);
          form.append("file", item.file, item.file.name);
          await answered(await fetch("/api/chat/files", { method: "POST", headers: headers(), body: form }));
        } else {
          await post({ client_id: item.id, lang, ...item.body });
        }
        item.accepted = true;
        if (unsent.includes(item)) awaitReply(); // the stream may have been faster, and brought the reply too
      } catch (error) {
        item.error = error instanceof TypeError || !error.message ? words.lost : error.message;
        item.final = Boolean(error.final);
        if (error instanceof TypeError) setTimeout(() => item.error !== null && retry(item), RETRY_SECONDS * 1000);
        connect();
      }
      remember();
      showUnsent();
    }
  } finally {
    flushing = false;
  }
}

function retry(item) {
  item.final = false;
  for (const one of unsent) one.error = one.final ? one.error : null;
  showUnsent();
  flush();
}

function drop(item) {
  unsent = unsent.filter((one) => one !== item);
  remember();
  showUnsent();
  showOptions();
  flush();
}

function awaitReply() {
  if (owner.owner !== "assistant" || awaiting) return;
  const typing = $("typing");
  const delay = setTimeout(() => { typing.hidden = false; scrollDown(); }, 250); // most answers are faster than that
  const patience = setTimeout(() => {
    replied();
    $("kept").textContent = words.kept;
    $("kept").hidden = false;
    scrollDown();
  }, REPLY_SECONDS * 1000);
  awaiting = () => { clearTimeout(delay); clearTimeout(patience); };
}
function replied() {
  awaiting?.();
  awaiting = null;
  $("typing").hidden = true;
}
function onTyping(agent) {
  $("typing").hidden = !agent && !awaiting;
  $("typing").firstElementChild.setAttribute("aria-label", agent ? words.agentTyping : words.typing);
  if (agent) scrollDown();
}
let typedAt = 0;
function tellTyping() {
  if (owner.owner !== "person" || Date.now() - typedAt < 5000) return;
  typedAt = Date.now();
  fetch("/api/chat/typing", { method: "POST", headers: headers() }).catch(() => {});
}
function hideNote() { $("kept").hidden = true; }

// --- Receiving ---
function onMessage(message) {
  if (message.id <= lastId) return;
  lastId = message.id;
  newest = message;
  const mine = message.author === "customer";
  const sent = mine && unsent.find((item) => item.id === message.client_id);
  if (sent) {
    unsent = unsent.filter((item) => item !== sent);
    remember();
    showUnsent();
  }
  if (mine && live) awaitReply();
  if (!mine) {
    if (message.author === "agent" && message.agent_name) agentName = message.agent_name;
    replied();
    hideNote();
  }
  const row = messageRow(message, sent);
  if (row) $("history").append(row);
  showOptions();
  showState();
  if (follow || mine) scrollDown(true);
  else $("down").hidden = false;
  countUnread(message);
}

function onState(state) {
  if (state.owner !== owner.owner || state.ticket_id !== owner.ticket_id) agentName = state.owner === "person" ? agentName : null;
  owner = state;
  if (owner.owner === "person") replied();
  showState();
}

let unread = 0;
function countUnread(message) {
  const seen = Number(stored(shared, "otvet.seen") ?? 0);
  if (opened && document.visibilityState === "visible") { markSeen(); return; }
  if (message.author === "customer" || message.id <= seen) return;
  unread += 1;
  showUnread();
}
function markSeen() {
  unread = 0;
  if (lastId > Number(stored(shared, "otvet.seen") ?? 0)) store(shared, "otvet.seen", String(lastId));
  showUnread();
}
function showUnread() {
  tell({ type: "unread", count: unread });
  document.title = (unread ? `(${unread}) ` : "") + `${shopName()} · ${lang === "ru" ? "чат" : "chat"}`;
}

// --- Showing ---
const shopName = () => (lang === "ru" ? shopRu : shopEn);
const locale = () => (lang === "ru" ? "ru-RU" : "en-GB");
const clock = (date) => date.toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit" });

function dayName(date) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 864e5);
  if (days === 0) return words.today;
  if (days === 1) return words.yesterday;
  return date.toLocaleDateString(locale(), { day: "numeric", month: "long", year: days > 300 ? "numeric" : undefined });
}

function messageRow(message, sent) {
  const mine = message.author === "customer";
  if (!message.text && !message.attachments.length) return null; // an opened chat says nothing
  const at = new Date(message.at);
  const fragment = document.createDocumentFragment();
  const day = dayName(at);
  if (day !== lastDay) {
    fragment.append(el("div", "day", day));
    lastDay = day;
    lastRow = null;
  }
  const by = `${message.author}:${message.agent_name ?? ""}`;
  const joined = lastRow && lastRow.by === by && at - lastRow.at < 3 * 60e3;
  lastRow = { by, at };
  const row = el("div", `row ${mine ? "me" : "them"} ${message.author}${joined ? " joined" : ""}${live && !sent ? " new" : ""}`);
  row.dataset.id = message.id;
  if (message.author === "agent") row.append(el("div", "name", message.agent_name || words.agent));
  const bubble = el("div", "bubble");
  if (message.text) bubble.append(...content(message));
  if (message.attachments.length) {
    bubble.append(files(message.attachments, sent));
    if (!message.text && message.attachments.every((file) => file.inline && file.state === "stored")) bubble.classList.add("bare");
  }
  row.append(bubble);
  if (message.text.length > CLIP_CHARS && mine) {
    bubble.classList.add("clipped");
    const more = button("link", words.more, () => { bubble.classList.remove("clipped"); more.remove(); });
    row.append(more);
  }
  const time = el("time", "time", clock(at));
  time.dateTime = message.at;
  row.append(time);
  fragment.append(row);
  return fragment;
}

function content(message) {
  if (message.html === null) return [document.createTextNode(message.text)];
  const parsed = new DOMParser().parseFromString(message.html, "text/html");
  return Array.from(parsed.body.childNodes, safe).filter(Boolean);
}

// The server renders Markdown with HTML switched off. Only these elements are taken over all the same, built anew.
const ALLOWED = new Set(["P", "BR", "STRONG", "EM", "CODE", "UL", "OL", "LI", "BLOCKQUOTE", "HR", "A", "H1", "H2", "H3", "H4", "H5", "H6"]);
function safe(node) {
  if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE) return null;
  const name = ALLOWED.has(node.tagName) ? node.tagName.replace(/^H[1-6]$/, "H3") : "SPAN";
  const copy = document.createElement(name);
  if (name === "A" && /^https?:\/\//i.test(node.getAttribute("href") ?? "")) {
    copy.href = node.getAttribute("href");
    copy.target = "_blank";
    copy.rel = "noopener noreferrer nofollow";
  }
  if (name === "OL" && node.start > 1) copy.start = node.start;
  copy.append(...Array.from(node.childNodes, safe).filter(Boolean));
  return copy;
}

const size = (bytes) => {
  let step = 0;
  for (; bytes >= 1000 && step < 2; step += 1) bytes /= 1000;
  return `${bytes.toLocaleString(locale(), { maximumFractionDigits: step ? 1 : 0 })} ${words.units[step]}`;
};

function files(attachments, sent) {
  const box = el("div", "files");
  for (const file of attachments) {
    const name = file.name || words.file;
    const kept = file.state === "stored";
    if (kept && file.inline) {
      const picture = el("img", "picture");
      picture.alt = name;
      picture.addEventListener("load", () => scrollDown());
      box.append(picture);
      if (sent?.file) picture.src = URL.createObjectURL(sent.file);
      else download(file.id).then((blob) => { picture.src = URL.createObjectURL(blob); }, () => picture.replaceWith(name));
    } else {
      box.append(fileLine(name, kept && file.size_bytes ? size(file.size_bytes) : kept ? "" : words.gone, kept && (() => save(file.id, name))));
    }
  }
  return box;
}

function fileLine(name, note, onClick) {
  const line = button("file", "", onClick || (() => {}));
  line.disabled = !onClick;
  const text = el("b", "", name);
  text.append(el("span", "", note));
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M13 3H7a2 2 0 0 0-2 2v14a2 2 0 0 0 2 2h10a2 2 0 0 0 2-2V9zM13 3v6h6");
  icon.append(path);
  line.append(icon, text);
  return line;
}

async function download(id) {
  const response = await fetch(`/api/chat/files/${id}`, { headers: headers() });
  if (!response.ok) throw new Error("file");
  return response.blob();
}
async function save(id, name) {
  const link = el("a");
  link.href = URL.createObjectURL(await download(id));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10e3);
}

function showUnsent() {
  const stuck = unsent.some((item) => item.error !== null && !item.final);
  $("unsent").replaceChildren(...unsent.map((item) => {
    const row = el("div", `row me ${item.error === null ? "pending" : "failed"}`);
    const bubble = el("div", "bubble");
    if (item.file) bubble.append(fileLine(item.file.name, size(item.file.size), null));
    else bubble.append(item.text.length > CLIP_CHARS ? `${item.text.slice(0, CLIP_CHARS)}…` : item.text);
    const note = el("div", `time ${item.error === null ? "" : "failed"}`, item.error === null ? (stuck ? words.waits : words.sending) : `${words.failed}. ${item.error} `);
    if (item.error !== null) note.append(button("link", words.retry, () => retry(item)), button("link", words.copy, () => drop(item)));
    row.append(bubble, note);
    return row;
  }));
}

function showOptions() {
  const box = $("options");
  const offered = newest && newest.author !== "customer" && !unsent.length ? newest.options : [];
  box.hidden = !offered.length;
  box.replaceChildren(...offered.map(({ token: choice, label }) => button("option", label, () => {
    enqueue({ body: { kind: "choice", choice }, text: label });
    $("text").focus();
  })));
}

function showState() {
  const person = owner.owner === "person";
  document.body.classList.toggle("person", person);
  document.body.classList.toggle("connecting", !live);
  $("status").textContent = !live ? words.connecting
    : !person ? words.online
    : agentName ? words.named(owner.ticket_id, agentName) : words.person(owner.ticket_id);
}

function showConnection() {
  const lost = !live && (failures > 1 || !navigator.onLine);
  $("offline").hidden = !lost;
  $("offline").textContent = lost ? words.offline : "";
  showState();
}

function showWords() {
  words = WORDS[lang];
  document.documentElement.lang = lang;
  $("title").textContent = shopName();
  $("text").placeholder = words.placeholder;
  for (const [id, label] of Object.entries({ text: "label", send: "send", attach: "attach", close: "close", log: "log", options: "options", down: "down" })) $(id).setAttribute("aria-label", words[label]);
  for (const id of ["send", "attach", "close"]) $(id).title = words[id];
  $("typing").firstElementChild.setAttribute("aria-label", words.typing);
  $("lang").textContent = words.other;
  $("lang").setAttribute("aria-label", words.otherName);
  showState();
  showUnsent();
  showUnread();
  showProof?.();
  grow();
}

const isNearEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 120;
let follow = true;
function scrollDown(force) {
  if (!force && !follow) return;
  const view = $("scroll"), last = $("history").lastElementChild;
  // An answer taller than the view is read from its beginning.
  const tall = last && !unsent.length && last.classList.contains("them") && last.offsetHeight > view.clientHeight - 60;
  view.scrollTop = tall ? last.offsetTop - 12 : view.scrollHeight;
  $("down").hidden = true;
}
$("scroll").addEventListener("scroll", () => {
  follow = isNearEnd();
  if (follow) $("down").hidden = true;
}, { passive: true });
$("down").addEventListener("click", () => scrollDown(true));
new ResizeObserver(() => scrollDown()).observe($("scroll"));

// --- Writing ---
function grow() {
  const text = $("text");
  if (!CSS.supports("field-sizing", "content")) {
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight, 160)}px`;
  }
  const count = text.value.length;
  const over = count > Number(maxChars);
  $("send").disabled = over || !text.value.trim();
  hint(over ? words.over(count.toLocaleString(locale()), Number(maxChars).toLocaleString(locale()))
    : count > Number(longChars) ? words.long(count.toLocaleString(locale()), Number(longChars).toLocaleString(locale())) : "", over);
}
function hint(text, bad = false) {
  $("hint").hidden = !text;
  $("hint").textContent = text;
  $("hint").classList.toggle("bad", bad);
}
function say(text) {
  const clean = wellFormed(text).trim();
  if (clean && clean.length <= Number(maxChars)) enqueue({ body: { text: clean }, text: clean });
}
function sendFiles(list) {
  for (const file of list) {
    if (file.size > Number(maxFileBytes)) hint(words.large(file.name, Math.floor(Number(maxFileBytes) / 1048576)), true);
    else if (file.size) enqueue({ file, text: file.name });
  }
}
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("send").disabled) return;
  const { value } = $("text");
  $("text").value = "";
  grow();
  say(value);
});
$("text").addEventListener("input", grow);
$("text").addEventListener("input", tellTyping);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("text").addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    sendFiles(event.clipboardData.files);
  }
});
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { sendFiles($("file").files); $("file").value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  sendFiles(event.dataTransfer.files);
});

$("lang").addEventListener("click", () => {
  lang = lang === "ru" ? "en" : "ru";
  store(shared, "otvet.lang", lang);
  showWords();
});

// --- The page around the frame ---
function tell(message) { if (embedded) window.parent.postMessage({ otvet: 1, ...message }, "*"); } // counts and commands, never a word of the conversation
function open() {
  opened = true;
  markSeen();
  if (live && !newest && !unsent.length) greet();
  else hurry();
  scrollDown(true);
  $("text").focus();
}
if (embedded) {
  document.body.classList.add("embed");
  $("close").hidden = false;
  $("close").addEventListener("click", () => tell({ type: "close" }));
  addEventListener("keydown", (event) => { if (event.key === "Escape") tell({ type: "close" }); });
  addEventListener("message", (event) => {
    if (event.source !== window.parent || !event.data?.otvet) return;
    if (event.data.type === "open") open();
    else if (event.data.type === "close") opened = false;
    else if (event.data.type === "ask") say(String(event.data.text));
  });
}

addEventListener("online", hurry);
addEventListener("offline", showConnection);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  hurry();
  if (opened) markSeen();
});

for (const item of JSON.parse(stored(ofTab, "otvet.unsent") || "[]")) unsent.push({ error: null, final: false, accepted: false, ...item });
if (!query.has("lang") && WORDS[stored(shared, "otvet.lang")]) lang = stored(shared, "otvet.lang");
showWords();
connect();
if ($("prove")) import("/static/prove.js").then((own) => { showProof = own.start({ $, headers, ensureSession, lang: () => lang, lost: () => words.lost }); });
if (!embedded) $("text").focus({ preventScroll: true });
tell({ type: "ready" });
