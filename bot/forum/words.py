"""What the Telegram desk says to agents, in both languages."""

from __future__ import annotations

from handoff.lifecycle import TicketStatus

WORDS: dict[str, tuple[str, str]] = {
    # Russian, English
    "assistant": ("Ассистент", "Assistant"),
    "customer": ("Клиент", "Customer"),
    "note": ("заметка", "note"),
    "files": ("Файл на веб-столе: {names}", "File at the web desk: {names}"),
    "too_large": ("слишком большой", "too large"),
    "edited": ("изменил(а) сообщение", "changed a message"),
    "deleted": ("сообщение удалено", "message deleted"),
    "reaction": ("отметил(а) {emoji}: «{text}»", "put {emoji} under “{text}”"),
    "transcript": ("Переписка", "What was said"),
    "earlier": ("… ещё {n} раньше", "… {n} more before"),
    "topic": ("Тема", "Topic"),
    "reason": ("Причина", "Reason"),
    "priority": ("Срочность", "Priority"),
    "team": ("Команда", "Team"),
    "channel": ("Канал", "Channel"),
    "promised": ("Ответ обещан до", "Answer promised by"),
    "tried": ("Показано", "Shown"),
    "pressed": ("Нажато", "Pressed"),
    "before": ("Раньше", "Earlier"),
    "has": ("У кого", "With"),
    "nobody": ("никого", "nobody"),
    "phone": ("Телефон", "Phone"),
    # What happened to the ticket
    "assigned": ("{actor}: теперь у {agent}", "{actor}: now with {agent}"),
    "took": ("{agent} берёт", "{agent} takes it"),
    "unassigned": ("снова ничей", "nobody’s again"),
    "held": ("{actor}: отложено {task}", "{actor}: on hold {task}"),
    "resumed": ("{actor}: продолжаем", "{actor}: going on"),
    "not_delivered": ("Ответ не дошёл до клиента, обращение снова открыто", "The reply did not arrive; open again"),
    "feedback_asked": ("{actor}: ответ дан, клиента спросим, помогло ли", "{actor}: finished; the customer is asked"),
    "helped": ("Клиент: помогло", "Customer: it helped"),
    "not_helped": ("Клиент: не помогло, обращение снова открыто", "Customer: it did not help; open again"),
    "resolved": ("{actor}: решено", "{actor}: resolved"),
    "closed": ("{actor}: закрыто. {why}", "{actor}: closed. {why}"),
    "reopened": ("{actor}: снова открыто", "{actor}: open again"),
    "transferred": ("{actor}: передано в «{topic}». {why}", "{actor}: passed to “{topic}”. {why}"),
    "rerouted": ("По новым словам клиента: «{topic}»", "By what the customer added: “{topic}”"),
    "escalated": ("{actor}: на уровень {level}. {why}", "{actor}: raised to {level}. {why}"),
    "warned": ("Срок подходит", "Time is running out"),
    "breached": ("Срок прошёл", "Late"),
    "wrote_elsewhere": ("Клиент пишет и в другом канале", "The customer also writes in another channel"),
    "moved": ("{actor}: разговор продолжен в другом канале", "{actor}: goes on in another channel"),
    "system": ("Система", "System"),
    # Buttons
    "b_take": ("Взять", "Take"),
    "b_take_over": ("Забрать у {who}", "Take it over from {who}"),
    "b_assign": ("Назначить", "Assign"),
    "b_transfer": ("Передать", "Transfer"),
    "b_hold": ("Отложить", "Hold"),
    "b_resume": ("Продолжить", "Go on"),
    "b_finish": ("Ответ дан", "Finish"),
    "b_resolve": ("Решено", "Resolve"),
    "b_macros": ("Шаблоны", "Macros"),
    "b_return": ("Ассистенту", "To the assistant"),
    "b_reopen": ("Открыть снова", "Open again"),
    "b_menu": ("← Назад", "← Back"),
    "b_anyway": ("Всё равно отправить", "Send anyway"),
    "b_reopen_send": ("Открыть снова и отправить", "Open again and send"),
    "b_day": ("До завтра", "Until tomorrow"),
    "b_days": ("На 3 дня", "For 3 days"),
    "b_week": ("На неделю", "For a week"),
    "b_task": ("Без срока", "Without a date"),
    "b_queue": ("В очередь", "To the queue"),
    # What is answered
    "menu": ("Обращение № {number}", "Ticket no. {number}"),
    "stranger": (
        "Сообщение не отправлено: этот аккаунт Telegram не связан с рабочим местом. Откройте веб-стол, «Настройки», "
        "раздел «Telegram», получите код и пришлите его боту в личные сообщения: /link КОД",
        "Nothing was sent: this Telegram account is not linked to a desk. Open the web desk, Settings, Telegram, get a "
        "code, and send it to the bot in private: /link CODE",
    ),
    "anonymous": (
        "Сообщение не отправлено: анонимный администратор не может отвечать клиентам. Выключите анонимность в правах "
        "администратора.",
        "Nothing was sent: an anonymous administrator can’t answer customers. Turn “Remain anonymous” off.",
    ),
    "linked": (
        "Готово: вы — {name}. Пишите в темах группы, клиент получит ответ.",
        "Done: you are {name}. Write in the group’s topics, and customers get your answers.",
    ),
    "bad_code": (
        "Код не подходит: он действует 15 минут и один раз. Получите новый на веб-столе.",
        "This code does not fit: it is good for 15 minutes and once. Get a new one at the web desk.",
    ),
    "too_often": ("Слишком много попыток. Подождите минуту.", "Too many tries. Wait a minute."),
    "stale": (
        "Не отправлено: {who} ответил(а) тем временем. Посмотрите ответ выше.",
        "Not sent: {who} answered meanwhile. See the answer above.",
    ),
    "ended": ("Не отправлено: обращение уже закончено.", "Not sent: the ticket has ended."),
    "not_yours": (
        "Этого обращения для вас нет: оно другой команды.",
        "There is no such ticket for you: it is another team’s.",
    ),
    "no_ticket": (
        "В этой теме нет обращения. Его тема: {link}",
        "This topic has no ticket now. It goes on in {link}",
    ),
    "general": (
        "Здесь обращений нет: пишите в теме обращения. /queue покажет, что ждёт.",
        "There are no tickets here: write in a ticket’s topic. /queue shows what waits.",
    ),
    "refused": ("Не получилось: {problem}", "This did not work: {problem}"),
    "file": ("Файл не отправлен: {problem}", "The file was not sent: {problem}"),
    "slow": ("он идёт слишком долго, пришлите ещё раз", "it takes too long; send it again"),
    "kind": (
        "Такое сообщение клиенту не передать: пришлите текст или файл.",
        "This can’t be passed on: send a text or a file.",
    ),
    "taken": ("Обращение у {who}. Забрать себе?", "It is {who}’s. Take it over?"),
    "not_changed": ("Клиент видит прежний текст: {problem}", "The customer still sees the old text: {problem}"),
    "done": ("Готово", "Done"),
    "sent": ("Отправлено", "Sent"),
    "usage": ("Так: {usage}", "Like this: {usage}"),
    "choose": ("Кому передать?", "Pass it to whom?"),
    "no_macros": ("Шаблонов нет.", "There are no macros."),
    "queue": ("Ждут ответа: {n}", "Waiting for an answer: {n}"),
    "empty": ("Никто не ждёт.", "Nobody waits."),
    "moved_on": ("Обращение передано в другую группу.", "The ticket was passed to another group."),
    "unshown": (
        "Не всё удалось показать здесь: смотрите обращение на веб-столе.",
        "Not all could be shown here: see the ticket at the web desk.",
    ),
    "help": (
        "Сообщение в теме уходит клиенту; начатое с // остаётся заметкой. Ответ на сообщение клиента цитирует его, "
        "правка меняет и у клиента.\n"
        "/take взять · /assign Имя [заметка] · /note текст · /transfer тема причина · /hold [задача] [дни] · /resume · "
        "/finish ответ дан · /resolve решено · /close причина · /return ассистенту · /reopen · /macro [название] · "
        "/menu кнопки · /queue кто ждёт",
        "A message in a topic goes to the customer; one that begins with // stays a note. A reply to the customer’s "
        "message quotes it, an edit changes it for him, too.\n"
        "/take · /assign Name [note] · /note text · /transfer topic why · /hold [task] [days] · /resume · "
        "/finish last word said · /resolve · /close why · /return to the assistant · /reopen · /macro [title] · "
        "/menu buttons · /queue who waits",
    ),
}

STATES: dict[TicketStatus, tuple[str, str]] = {
    TicketStatus.NEW: ("новое", "new"),
    TicketStatus.OPEN: ("в работе", "open"),
    TicketStatus.WAITING: ("ждём клиента", "waiting"),
    TicketStatus.ON_HOLD: ("отложено", "on hold"),
    TicketStatus.AWAITING_FEEDBACK: ("ждём оценку", "asked"),
    TicketStatus.RESOLVED: ("решено", "resolved"),
    TicketStatus.CLOSED: ("закрыто", "closed"),
}
ICONS: dict[TicketStatus, tuple[str, ...]] = {
    TicketStatus.NEW: ("❗", "‼", "🔥"),
    TicketStatus.OPEN: ("📝", "🗣", "💬"),
    TicketStatus.WAITING: ("💬", "👀"),
    TicketStatus.ON_HOLD: ("📆", "📁"),
    TicketStatus.AWAITING_FEEDBACK: ("❓", "⁉"),
    TicketStatus.RESOLVED: ("✅", "🏁"),
    TicketStatus.CLOSED: ("📁", "🏁"),
}
"""By liking: which of them there are, Telegram says."""
REASONS: dict[str, tuple[str, str]] = {
    "asked_for_person": ("просит человека", "asks for a person"),
    "low_confidence": ("ассистент не уверен", "the assistant is not sure"),
    "rejected_answer": ("ответ не помог", "the answer did not help"),
    "sensitive": ("дело для человека", "a matter for people"),
    "complaint": ("жалоба", "a complaint"),
    "error": ("ошибка у нас", "a fault of ours"),
    "undelivered": ("ответ не дошёл", "the answer did not arrive"),
    "answered_elsewhere": ("ответили мимо стола", "answered past the desk"),
}

COMMANDS = {
    "take": ("взять себе", "take it"),
    "assign": ("назначить: /assign Имя [заметка]", "give it to: /assign Name [note]"),
    "note": ("заметка для своих", "a note for colleagues"),
    "transfer": ("передать: /transfer тема причина", "pass it on: /transfer topic why"),
    "hold": ("отложить: /hold [задача] [дни]", "put on hold: /hold [task] [days]"),
    "resume": ("продолжить", "go on"),
    "finish": ("ответ дан, спросить клиента", "last word said, ask the customer"),
    "resolve": ("решено", "resolve"),
    "close": ("закрыть без решения: /close причина", "close unresolved: /close why"),
    "return": ("вернуть ассистенту", "back to the assistant"),
    "escalate": ("на уровень выше: /escalate подробности", "a level higher: /escalate details"),
    "reopen": ("открыть снова", "open again"),
    "macro": ("шаблоны", "macros"),
    "menu": ("кнопки", "buttons"),
    "queue": ("кто ждёт ответа", "who waits"),
    "help": ("как здесь работать", "how to work here"),
}
"""Command → what it does, in Russian and in English."""


def words(key: str, lang: str, **values: object) -> str:
    return _in(WORDS[key], lang).format(**values)


def state_word(status: TicketStatus, lang: str) -> str:
    return _in(STATES[status], lang)


def reason_word(reason: str, lang: str) -> str:
    found = REASONS.get(reason)
    return _in(found, lang) if found else reason


def _in(pair: tuple[str, str], lang: str) -> str:
    return pair[0] if lang == "ru" else pair[1]
