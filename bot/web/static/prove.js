// An e-mail that the customer proves to be his, by a code that is sent to it. Loaded only where e-mail is set up.

const WORDS = {
  ru: {
    title: "Подтвердить почту", why: "Подтвердите почту, и специалист увидит ваши прежние обращения.", ask: "Прислать код",
    sent: (m) => `Код отправлен, он действует ${m} мин.`, code: "Код из письма", send: "Подтвердить", done: "Почта подтверждена.",
  },
  en: {
    title: "Confirm your e-mail", why: "Confirm your e-mail, and the specialist sees your earlier conversations.", ask: "Send a code",
    sent: (m) => `The code is sent; it is good for ${m} minutes.`, code: "Code from the letter", send: "Confirm", done: "Your e-mail is confirmed.",
  },
};

// Returns what shows the words anew, after the language has changed.
export function start({ $, headers, ensureSession, lang, lost }) {
  const words = () => WORDS[lang()];
  const asksCode = () => !$("prove-code").hidden;
  function showProof(note) {
    $("mail").title = words().title;
    $("mail").setAttribute("aria-label", words().title);
    $("prove-email").setAttribute("aria-label", "E-mail");
    $("prove-email").placeholder = "you@example.com";
    $("prove-code").setAttribute("aria-label", words().code);
    $("prove-code").placeholder = words().code;
    $("prove-send").textContent = asksCode() ? words().send : words().ask;
    $("prove-note").textContent = note || words().why;
  }
  $("mail").addEventListener("click", () => {
    $("prove").hidden = !$("prove").hidden;
    $("mail").setAttribute("aria-expanded", String(!$("prove").hidden));
    showProof();
    if (!$("prove").hidden) $(asksCode() ? "prove-code" : "prove-email").focus();
  });
  $("prove-email").addEventListener("input", () => { $("prove-code").hidden = true; $("prove-code").value = ""; showProof(); });
  $("prove").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("prove-send").disabled = true;
    try {
      await ensureSession();
      const response = await fetch(asksCode() ? "/api/chat/email/code" : "/api/chat/email", {
        method: "POST", headers: headers({ "Content-Type": "application/json" }),
        body: JSON.stringify({ email: $("prove-email").value, lang: lang(), ...(asksCode() ? { code: $("prove-code").value } : {}) }),
      });
      const body = await response.json();
      if (!response.ok) throw new Error(body.error.message);
      const done = asksCode();
      $("prove-code").hidden = done;
      $("prove-code").value = "";
      showProof(done ? words().done : words().sent(body.minutes));
      if (!done) $("prove-code").focus();
    } catch (error) {
      showProof(error instanceof TypeError || !error.message ? lost() : error.message);
    } finally {
      $("prove-send").disabled = false;
    }
  });
  showProof();
  return () => showProof();
}
