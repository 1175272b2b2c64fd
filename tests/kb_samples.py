"""A small shop in two languages, and an encoder that needs no model, for the tests of the knowledge base."""

import zlib
from collections.abc import Sequence

import numpy as np

from kb_index.articles import Article
from kb_index.encoder import FloatMatrix, TextKind


class LetterEncoder:
    """A small stand-in for an encoder: two texts are alike when they share letter triples."""

    name = "letters"
    fingerprint = "letters-1"
    dim = 256

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            marked = f"  {text.lower()}  "
            for start in range(len(marked) - 2):
                row[zlib.crc32(marked[start : start + 3].encode("utf-8", "replace")) % self.dim] += 1
            row /= np.linalg.norm(row)
        return rows


SUBJECTS = {
    "delivery": (
        (
            "Сроки доставки",
            "Доставим за три дня курьером до двери.",
            ["когда привезут посылку", "сколько ждать курьера"],
        ),
        (
            "Delivery times",
            "The courier brings it within three days.",
            ["when will my parcel come", "how long is shipping"],
        ),
    ),
    "refund": (
        ("Возврат денег", "Деньги вернутся на карту за десять дней.", ["когда вернут деньги", "возврат на карту где"]),
        ("Refunds", "The money returns to the card in ten days.", ["when do i get my money back", "refund to my card"]),
    ),
    "password": (
        (
            "Забыли пароль",
            "Нажмите «Забыли пароль» и введите почту.",
            ["не могу войти в аккаунт", "сбросить пароль как"],
        ),
        (
            "Password reset",
            "Press reset and enter your email.",
            ["cannot log in to my account", "how to reset password"],
        ),
    ),
    "warranty": (
        ("Гарантия", "Ремонт по гарантии бесплатный, два года.", ["сломался чайник по гарантии", "гарантийный ремонт"]),
        (
            "Warranty",
            "Repairs under warranty are free for two years.",
            ["my kettle broke, warranty", "warranty repair"],
        ),
    ),
    "bonus": (
        ("Бонусы", "За покупку начисляем бонусные баллы.", ["как потратить бонусы", "куда делись мои баллы"]),
        ("Bonus points", "Every purchase earns bonus points.", ["how to spend points", "where did my points go"]),
    ),
}


def shop() -> list[Article]:
    return [
        Article(name, lang, title, body, topic=f"topic-{name}", questions=tuple(questions))
        for name, versions in SUBJECTS.items()
        for lang, (title, body, questions) in zip(("ru", "en"), versions, strict=True)
    ]
