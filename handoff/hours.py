"""When people work, and by when a customer may expect one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class WorkingHours:
    """The same interval on each working day, in one time zone."""

    opens: time = time(9)
    closes: time = time(21)
    days: frozenset[int] = frozenset(range(7))
    """Monday is 0."""
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Moscow"))

    def contains(self, moment: datetime) -> bool:
        local = moment.astimezone(self.zone)
        return local.weekday() in self.days and self.opens <= local.time() < self.closes

    def next_opening(self, moment: datetime) -> datetime:
        """The first opening after `moment`, in the zone of the hours."""
        local = moment.astimezone(self.zone)
        for ahead in range(9):
            day = local.date() + timedelta(days=ahead)
            opening = datetime.combine(day, self.opens, self.zone)
            if day.weekday() in self.days and opening > local:
                return opening
        raise ValueError("working hours without a working day")

    def promise(self, moment: datetime, minutes: int) -> datetime:
        """By when a reply that takes `minutes` of working time can be expected."""
        if not self.contains(moment):
            return self.next_opening(moment) + timedelta(minutes=minutes)
        due = moment + timedelta(minutes=minutes)
        closing = datetime.combine(moment.astimezone(self.zone).date(), self.closes, self.zone)
        return due if due <= closing else self.next_opening(moment) + (due - closing)

    def describe(self, lang: str) -> str:
        interval = f"{self.opens:%H:%M}-{self.closes:%H:%M}".replace("-", "–")
        zone = {"Europe/Moscow": {"ru": "МСК", "en": "Moscow time"}}.get(self.zone.key, {}).get(lang, self.zone.key)
        if len(self.days) == 7:
            return f"ежедневно {interval} ({zone})" if lang == "ru" else f"every day {interval} ({zone})"
        names = {"ru": "пн вт ср чт пт сб вс", "en": "Mon Tue Wed Thu Fri Sat Sun"}[
            "ru" if lang == "ru" else "en"
        ].split()
        days = ", ".join(names[day] for day in sorted(self.days))
        return f"{days} {interval} ({zone})"
