"""Settings: environment variables with the prefix OTVET_, or lines of `.env`. Read by `bot.wiring` alone."""

from __future__ import annotations

import os
from datetime import time
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bot.errors import SettingsError
from bot.flows.lookup_format import SECRET_PREFIX


class Settings(BaseSettings):
    """Every setting, with what it means; docs/settings.md lists them, and a test compares the two."""

    model_config = SettingsConfigDict(env_prefix="OTVET_", env_file=".env", extra="ignore", frozen=True)

    var: Path = Field(Path("var"), description="Folder of all state: database, models, index, attachments.")
    data: Path = Field(Path("data"), description="Folder of the seed data: articles, intents, replies, topics.")
    database_url: str = Field("", description="SQLAlchemy address of the database; empty: SQLite in OTVET_VAR.")
    redis_url: SecretStr = Field(
        SecretStr(""), description="Address of Redis or Valkey, redis://:password@host:6379/0; empty: none."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; the web is reachable from this machine alone.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    metrics_host: str = Field("127.0.0.1", description="Address of the port for /metrics, /healthz and /readyz.")
    metrics_port: int = Field(0, ge=0, le=65535, description="That port, in every role; 0: none.")
    encoder: str = Field("", description="Any sentence-transformers model name or folder; empty: the one that ships.")
    nlu_engine: Literal["embedded", "rasa"] = Field(
        "embedded", description="What tells intents apart: `embedded`, or `rasa` with the embedded engine as its spare."
    )
    rasa_environment: Path = Field(Path(".venv-rasa"), description="The environment that `make rasa` makes.")
    rasa_config: Path | None = Field(
        None, description="A Rasa configuration whose pipeline is trained; empty: the light one that ships."
    )
    rasa_url: str = Field("", description="Address of a Rasa server that runs elsewhere; empty: Otvet starts its own.")
    rasa_token: SecretStr = Field(SecretStr(""), description="Token of that server (`rasa run --auth-token`).")
    rasa_timeout_seconds: float = Field(
        2.0, gt=0.05, le=60, description="How long one message may wait for Rasa before the embedded engine answers."
    )
    audiences: str = Field(
        "all", description="Audiences whose articles are answered, comma-separated; `internal` for nobody but agents."
    )
    answer_precision: float = Field(
        0.96, gt=0.5, lt=1, description="Share of answers that must be right; thresholds are computed from it."
    )
    out_of_scope_answered: float = Field(
        0.03, gt=0, lt=0.5, description="Share of out-of-scope messages that may be answered; likewise."
    )
    clarify_chance: float = Field(
        0.35, gt=0, lt=1, description="Least probability that the right answer is among the choices offered; likewise."
    )
    gate_questions: Path | None = Field(
        None,
        description="Labelled questions that new versions are judged on; empty: `eval/dialogue.dev.jsonl` of the data.",
    )
    gate_replay: int = Field(
        300, ge=0, le=5000, description="How many recent messages of customers a new version is judged on besides."
    )
    shop_ru: str = Field("Клён", description="The company's name in Russian messages.")
    shop_en: str = Field("Klyon", description="The company's name in English messages.")
    privacy_url: str = Field("https://klyon.example/privacy", description="Link to the privacy policy (greeting).")
    timezone: str = Field(
        "Europe/Moscow",
        description="Time zone of the working hours, and of what customers mean by today and yesterday.",
    )
    phone_region: str = Field(
        "RU", pattern="^[A-Z]{2}$", description="Country of phone numbers that are written without its code."
    )
    opens: time = Field(time(9), description="When people begin to work.")
    closes: time = Field(time(21), description="When people stop.")
    work_days: str = Field("1234567", pattern=r"^[1-7]+$", description="Working days, Monday is 1.")
    telegram_token: SecretStr = Field(
        SecretStr(""), description="Token of the Telegram bot, several with commas between; empty: none."
    )
    telegram_api: str = Field("", description="Base address of the Bot API, for a local server or a stand-in.")
    telegram_proxy: str = Field("", description="Proxy to Telegram: http://, socks4:// or socks5:// address.")
    telegram_webhook_url: str = Field(
        "", description="Public https:// address of /webhooks/telegram; empty: Telegram is asked for messages."
    )
    telegram_secret: SecretStr = Field(
        SecretStr(""), description="Any word of your own, by which Telegram's calls are known."
    )
    forum_groups: str = Field(
        "",
        description="Telegram groups with topics in which agents answer: -100123, -100456=payments+service "
        "(the teams of a group; none: all others'); empty: none.",
    )
    forum_bot: str = Field(
        "", pattern=r"^\d*$", description="Id of the bot in them, of OTVET_TELEGRAM_TOKEN; empty: the first."
    )
    forum_lang: Literal["ru", "en"] = Field("ru", description="Language of what stands in them: `ru` or `en`.")
    whatsapp_token: SecretStr = Field(SecretStr(""), description="Token of the WhatsApp app; empty: no WhatsApp.")
    whatsapp_phone_number_id: str = Field(
        "", description="Id of the number (not the number itself); several with commas between."
    )
    whatsapp_app_secret: SecretStr = Field(
        SecretStr(""), description="The app's secret, by which Meta's calls are known."
    )
    whatsapp_verify_token: SecretStr = Field(
        SecretStr(""), description="Any word of your own, entered with the webhook's address at Meta."
    )
    whatsapp_api: str = Field("", description="Base address of the Graph API, for a stand-in.")
    whatsapp_version: str = Field("v23.0", pattern=r"^v\d+\.\d+$", description="Version of the Graph API.")
    whatsapp_proxy: str = Field("", description="Proxy to WhatsApp: http:// or https:// address.")
    helpdesk: Literal["", "django-helpdesk"] = Field(
        "", description="Which help desk tickets also appear in: `django-helpdesk`; empty: none."
    )
    helpdesk_url: str = Field("", description="Its address, up to where `api/` begins.")
    helpdesk_user: str = Field("", description="Otvet's own account there, a member of the staff; nobody else's.")
    helpdesk_password: SecretStr = Field(SecretStr(""), description="Its password.")
    helpdesk_queue: int = Field(1, ge=1, description="Id of the queue of new tickets there.")
    helpdesk_teams: str = Field("", description="Teams whose tickets go there, comma-separated; empty: all.")
    helpdesk_agent: str = Field("Support", description="Name under which customers hear what is said there.")
    helpdesk_secret: SecretStr = Field(
        SecretStr(""), description="Any word of your own: /webhooks/helpdesk/WORD is where the help desk may call."
    )
    helpdesk_poll_seconds: int = Field(60, ge=1, description="How often each live ticket is looked at there.")
    transcriber_url: str = Field(
        "", description="Service that reads voice messages (/v1/audio/transcriptions); empty: none."
    )
    transcriber_token: SecretStr = Field(SecretStr(""), description="Its token.")
    transcriber_model: str = Field("whisper-1", description="Its model.")
    transcriber_command: str = Field("", description="Command that reads them instead: FILE is added, text comes out.")
    transcriber_seconds: float = Field(30, gt=0, le=600, description="How long one voice message may take.")
    attachments_bucket: str = Field(
        "", description="S3-compatible bucket of attachments, s3://bucket/folder; empty: OTVET_VAR."
    )
    s3_endpoint: str = Field("", description="Its address, if it is not Amazon's.")
    s3_region: str = Field("", description="Its region.")
    s3_key: SecretStr = Field(SecretStr(""), description="Its access key; empty: as Amazon's tools find it.")
    s3_secret: SecretStr = Field(SecretStr(""), description="Its secret key.")
    retention_days: int = Field(0, ge=0, description="After how many days of silence a customer is erased; 0: never.")
    webhook_days: int = Field(30, ge=8, description="How many days the calls of platforms are kept as they came.")
    hook_url: str = Field("", description="https:// address that is told what happens to tickets; empty: none.")
    hook_secret: SecretStr = Field(
        SecretStr(""), description="By which it knows our calls: what `otvet webhooks secret` prints."
    )
    hook_events: str = Field("", description="Of which it is told, comma-separated (`ticket.created`); empty: all.")
    hook_private: bool = Field(False, description="Whether it may lie in a private network, or be http://.")
    hook_in_secret: SecretStr = Field(
        SecretStr(""), description="By which calls to /webhooks/events are known; empty: none are taken."
    )
    hook_in_a_minute: int = Field(300, ge=1, description="How many such calls one address may make in a minute.")
    lookup_hosts: str = Field(
        "", description="Servers that lookups may call by https://, comma-separated: api.shop.example, host:8443."
    )
    lookup_private_hosts: str = Field(
        "", description="Servers of your own network that they may call, by http:// too: 10.0.0.7:8080."
    )
    demo_shop: bool = Field(
        True, description="Whether the demo shop runs where lookups.yml names it; on this machine alone."
    )
    mail: SecretStr = Field(
        SecretStr(""),
        description="Mail server for letters to customers, as Apprise writes it: mailtos://user:password@smtp.host"
        "?from=help@shop; empty: none.",
    )
    site_origins: str = Field(
        "", description="Sites that may embed the chat, comma-separated; `*`: any; empty: none but its own."
    )
    gather_seconds: float = Field(
        1.2, ge=0, le=30, description="How long to wait for what a customer is about to add; 0: each message by itself."
    )
    max_text_chars: int = Field(4000, ge=100, description="A longer message is kept in full but not interpreted.")
    max_attachment_mb: int = Field(
        20, ge=1, le=2000, description="A larger file is not fetched, and the customer is told."
    )
    site_messages_a_minute: int = Field(20, ge=1, description="How many messages one site chat may send in a minute.")
    site_streams: int = Field(5000, ge=1, description="How many site chats one process keeps open at a time.")
    requests_a_minute: int = Field(
        3000, ge=0, description="How many requests one address may make in a minute, platforms left out; 0: any number."
    )
    trusted_proxies: str = Field(
        "127.0.0.1", description="Proxies whose word on the caller's address counts, comma-separated; `*`: any."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR.")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except Exception as error:
            raise ValueError("expected a name of the IANA time zone database such as Europe/Moscow") from error
        return value

    @field_validator("rasa_config", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return value or None

    @field_validator("rasa_url", "helpdesk_url", "hook_url")
    @classmethod
    def _http_address(cls, value: str) -> str:
        if value and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("expected an address that begins with http:// or https://")
        return value

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{(self.var / 'otvet.sqlite3').resolve()}"


def lookup_secrets() -> dict[str, str]:
    """The variables that the headers of lookups may name: OTVET_LOOKUP_…, from the environment or `.env`."""
    found = {**dotenv_values(".env"), **os.environ}
    return {name: value.strip() for name, value in found.items() if name.startswith(SECRET_PREFIX) and value}


def load_settings() -> Settings:
    """Raises SettingsError that names each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"OTVET_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(problems)) from error
