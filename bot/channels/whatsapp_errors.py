"""What Meta's error codes mean for a message of ours, and what to do about each.

The codes are those of "Error codes" in the documentation of the WhatsApp Cloud API. They come as the answer to a call
or later, in a `failed` status.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bot.errors import DeliveryError, WindowClosedError


class Fault(StrEnum):
    PERMANENT = "permanent"
    """This message will never be taken."""
    TRANSIENT = "transient"
    RATE = "rate"
    WINDOW = "window"
    SETUP = "setup"
    """The operator has to put something right; until then the message waits."""


@dataclass(frozen=True)
class Advice:
    fault: Fault
    remedy: str
    retry_seconds: float | None = None
    """How long to wait where Meta does not say."""


_TOKEN = Advice(Fault.SETUP, "check OTVET_WHATSAPP_TOKEN and its permissions (whatsapp_business_messaging)", 300)
_LATER = Advice(Fault.TRANSIENT, "WhatsApp is in trouble; it is tried again")
_REQUEST = Advice(Fault.PERMANENT, "the message has a form that WhatsApp does not take")
_TEMPLATE = Advice(Fault.PERMANENT, "compare the template with data/templates.yml in WhatsApp Manager")

ADVICE: dict[int, Advice] = {
    0: _TOKEN,
    3: _TOKEN,
    10: _TOKEN,
    190: _TOKEN,
    1: _LATER,
    2: _LATER,
    4: Advice(Fault.RATE, "the app's limit of calls is reached", 60),
    33: Advice(Fault.SETUP, "the number was deleted: check OTVET_WHATSAPP_PHONE_NUMBER_ID", 300),
    100: _REQUEST,
    368: Advice(Fault.SETUP, "Meta restricted the account for a violation: see WhatsApp Manager", 3600),
    80007: Advice(Fault.RATE, "the account's limit of calls is reached", 60),
    130429: Advice(Fault.RATE, "the number's limit of messages a second is reached", 1),
    130472: Advice(Fault.PERMANENT, "the customer is part of an experiment of Meta's: he has to write first"),
    130497: Advice(Fault.PERMANENT, "Meta does not allow messages to this country"),
    131000: _LATER,
    131005: _TOKEN,
    131008: _REQUEST,
    131009: _REQUEST,
    131016: _LATER,
    131021: Advice(Fault.PERMANENT, "the number can't write to itself"),
    131026: Advice(Fault.PERMANENT, "the number has no WhatsApp, or a version too old"),
    131030: Advice(Fault.PERMANENT, "a test number writes to the numbers on its list only: add this one"),
    131031: Advice(Fault.SETUP, "Meta locked the account: see WhatsApp Manager", 3600),
    131037: Advice(Fault.SETUP, "the number's display name is not approved yet: see WhatsApp Manager", 3600),
    131042: Advice(Fault.SETUP, "the payment method fails: see WhatsApp Manager", 3600),
    131045: Advice(Fault.SETUP, "register the number anew (its certificate is wrong)", 3600),
    131047: Advice(Fault.WINDOW, "the customer wrote more than 24 hours ago: only a template goes through"),
    131048: Advice(Fault.RATE, "too many people blocked or reported the number: see its quality", 3600),
    131049: Advice(Fault.PERMANENT, "Meta withholds it, for this customer gets enough advertising"),
    131050: Advice(Fault.PERMANENT, "the customer wants no advertising from this number"),
    131051: _REQUEST,
    131052: Advice(Fault.PERMANENT, "WhatsApp could not read the customer's file: ask for it again"),
    131053: Advice(Fault.PERMANENT, "WhatsApp did not take the file: check its type and size"),
    131055: _REQUEST,
    131056: Advice(Fault.RATE, "too many messages to this customer in a short time", 6),
    131057: Advice(Fault.TRANSIENT, "the account is in maintenance", 60),
    132000: _TEMPLATE,
    132001: _TEMPLATE,
    132005: _TEMPLATE,
    132007: _TEMPLATE,
    132012: _TEMPLATE,
    132015: Advice(Fault.PERMANENT, "Meta paused the template for its low quality: choose another"),
    132016: Advice(Fault.PERMANENT, "Meta disabled the template: choose another"),
    133004: _LATER,
    133010: Advice(Fault.SETUP, "the number is not registered with the Cloud API: register it", 3600),
    133016: Advice(Fault.RATE, "too many registrations of the number", 3600),
    135000: _REQUEST,
}


def advice(code: int | None, status: int | None = None) -> Advice:
    """What to do about a code; of an unknown one the HTTP status tells what can be told."""
    if code is not None and code in ADVICE:
        return ADVICE[code]
    if (code is not None and 200 <= code <= 299) or status in (401, 403):
        return _TOKEN
    if status == 429:
        return Advice(Fault.RATE, "WhatsApp asks to wait", 10)
    if status is not None and 400 <= status < 500:
        return _REQUEST
    return _LATER


def delivery_error(
    code: int | None, words: str, *, status: int | None = None, retry_after_seconds: float | None = None
) -> DeliveryError:
    """The refusal as the outbox understands it, with Meta's words and our advice in the text."""
    found = advice(code, status)
    problem = f"WhatsApp {code if code is not None else status}: {words or 'no reason given'}; {found.remedy}"
    if found.fault is Fault.WINDOW:
        return WindowClosedError(problem, permanent=True)
    wait = found.retry_seconds if retry_after_seconds is None else retry_after_seconds
    return DeliveryError(problem, permanent=found.fault is Fault.PERMANENT, retry_after_seconds=wait)
