/* The chat for any site: <script src="https://HOST/widget.js" data-lang="ru" async></script>
   Gives the page a round button and, when it is pressed, the chat in a frame. Everything lives in a shadow root,
   so neither side's styles reach the other. window.Otvet = { open, close, ask(text) }. */
(() => {
  "use strict";
  if (window.Otvet) return;
  const script = document.currentScript;
  const home = new URL(script.src).origin;
  const wanted = script.dataset.lang || document.documentElement.lang || navigator.language || "ru";
  const lang = wanted.toLowerCase().startsWith("en") ? "en" : "ru";
  const words = {
    ru: { open: "Открыть чат с поддержкой", close: "Закрыть чат", title: "Чат с поддержкой", unread: "непрочитанных: " },
    en: { open: "Open the support chat", close: "Close the chat", title: "Support chat", unread: "unread: " },
  }[lang];
  const css = `
    :host { all: initial; }
    * { box-sizing: border-box; }
    .launcher, .panel { position: fixed; right: 24px; z-index: 2147483000; }
    .launcher { bottom: 24px; width: 58px; height: 58px; border: 0; border-radius: 50%; padding: 0; cursor: pointer;
      background: #c24a17; color: #fff; box-shadow: 0 2px 6px rgb(60 25 5 / .18), 0 10px 28px rgb(60 25 5 / .26);
      display: grid; place-items: center; transition: transform .16s ease, background .16s ease; }
    .launcher:hover { background: #a93f12; transform: translateY(-1px); }
    .launcher:active { transform: scale(.95); }
    .launcher:focus-visible { outline: 3px solid #c24a17; outline-offset: 3px; }
    .launcher svg { width: 27px; height: 27px; grid-area: 1 / 1; transition: opacity .16s, transform .16s; }
    .launcher .cross { opacity: 0; transform: rotate(-45deg) scale(.7); }
    .open .launcher .cross { opacity: 1; transform: none; }
    .open .launcher .bubble { opacity: 0; transform: rotate(45deg) scale(.7); }
    .badge { position: absolute; top: -3px; right: -3px; min-width: 21px; height: 21px; padding: 0 6px;
      border-radius: 11px; background: #1d1b19; color: #fff; border: 2px solid #fff;
      font: 600 11px/17px system-ui, sans-serif; text-align: center; }
    .badge[hidden] { display: none; }
    .panel { bottom: 96px; width: 396px; height: min(680px, calc(100vh - 124px)); border-radius: 18px; overflow: hidden;
      background: #fff; box-shadow: 0 0 0 1px rgb(30 20 10 / .07), 0 18px 60px rgb(30 20 10 / .24);
      transform-origin: 100% 100%; transition: opacity .18s ease, transform .18s ease, visibility .18s;
      opacity: 0; visibility: hidden; transform: translateY(10px) scale(.97); }
    .open .panel { opacity: 1; visibility: visible; transform: none; }
    iframe { display: block; width: 100%; height: 100%; border: 0; background: transparent; color-scheme: light dark; }
    @media (prefers-color-scheme: dark) { .panel { background: #191816;
      box-shadow: 0 0 0 1px rgb(255 240 225 / .12), 0 18px 60px rgb(0 0 0 / .6); } .badge { border-color: #191816; } }
    @media (max-width: 480px) {
      .panel { inset: 0; width: 100%; height: 100%; border-radius: 0; }
      .open .launcher { visibility: hidden; }
      .launcher { right: 18px; bottom: 18px; } }
    @media (prefers-reduced-motion: reduce) { .panel, .launcher, .launcher svg { transition: none; } }
    @media print { .launcher, .panel { display: none; } }`;

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const icon = (className, path) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ class: className, viewBox: "0 0 24 24", fill: "none",
      stroke: "currentColor", "stroke-width": "1.9", "stroke-linecap": "round", "stroke-linejoin": "round",
      "aria-hidden": "true" })) svg.setAttribute(name, value);
    svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    svg.firstChild.setAttribute("d", path);
    return svg;
  };

  const host = make("div", { id: "otvet-chat" });
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet(); // a constructed sheet works under any style-src of the host page
  sheet.replaceSync(css);
  root.adoptedStyleSheets = [sheet];
  const badge = make("span", { class: "badge", hidden: "" });
  const launcher = make("button", { class: "launcher", type: "button", "aria-expanded": "false",
    "aria-controls": "panel", "aria-label": words.open },
  icon("bubble", "M21 11.5a8.5 8.5 0 0 1-12.4 7.5L3 20.5l1.6-5.4A8.5 8.5 0 1 1 21 11.5ZM8.5 10h7M8.5 13.5h4.5"),
  icon("cross", "M6 6l12 12M18 6 6 18"), badge);
  const panel = make("div", { class: "panel", id: "panel", role: "dialog", "aria-label": words.title });
  const shell = make("div", {}, panel, launcher);
  root.append(shell);

  let frame = null, loaded = false, isOpen = false;
  const waiting = [];
  const tell = (message) => {
    if (loaded) frame.contentWindow.postMessage({ otvet: 1, ...message }, home);
    else waiting.push(message);
  };
  const load = () => {
    if (frame) return;
    frame = make("iframe", { title: words.title, src: `${home}/chat?embed=1&lang=${lang}`,
      allow: "clipboard-write" });
    panel.append(frame);
  };
  const remember = (value) => { try { localStorage.setItem("otvet.used", value); } catch { /* storage is off */ } };

  const open = () => {
    load();
    if (isOpen) return;
    isOpen = true;
    remember("1");
    shell.classList.add("open");
    launcher.setAttribute("aria-expanded", "true");
    launcher.setAttribute("aria-label", words.close);
    badge.hidden = true;
    // A hidden frame takes no focus, so wait until it is shown.
    requestAnimationFrame(() => { frame.focus(); tell({ type: "open" }); });
  };
  const close = () => {
    if (!isOpen) return;
    isOpen = false;
    shell.classList.remove("open");
    launcher.setAttribute("aria-expanded", "false");
    launcher.setAttribute("aria-label", words.open);
    tell({ type: "close" });
    launcher.focus();
  };
  launcher.addEventListener("click", () => (isOpen ? close() : open()));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen && !event.defaultPrevented) close();
  });
  addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || event.origin !== home || !event.data?.otvet) return;
    const { type, count } = event.data;
    if (type === "ready") {
      loaded = true;
      waiting.splice(0).forEach(tell);
    } else if (type === "close") {
      close();
    } else if (type === "unread" && !isOpen) {
      badge.hidden = !count;
      badge.textContent = count > 9 ? "9+" : String(count);
      launcher.setAttribute("aria-label", count ? `${words.open} (${words.unread}${count})` : words.open);
    }
  });

  window.Otvet = { open, close, ask: (text) => { open(); tell({ type: "ask", text: String(text) }); } };
  const start = () => {
    document.body.append(host);
    try { if (localStorage.getItem("otvet.used")) load(); } catch { /* storage is off: the badge waits for a click */ }
  };
  if (document.body) start(); else addEventListener("DOMContentLoaded", start);
})();
