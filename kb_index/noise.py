"""Rough copies of well-written questions: what the same person would type in a hurry, on a phone."""

import random
import re

from kb_index.normalise import script_of

_NEIGHBOURS = {
    "ru": ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    "en": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
}
_OPENINGS = {
    "ru": ("здравствуйте", "добрый день", "привет", "подскажите пожалуйста", "скажите", "слушайте", "такой вопрос"),
    "en": ("hi", "hello", "hey", "please help", "quick question", "good morning", "so"),
}
_ENDINGS = {
    "ru": ("спасибо", "помогите", "очень срочно", "заранее спасибо", "а то уже не знаю что делать"),
    "en": ("thanks", "please help", "asap", "thank you", "i don't know what to do"),
}
_PUNCTUATION = re.compile(r"[^\w\s]")


def rough_copies(text: str, dice: random.Random, count: int = 1) -> list[str]:
    """`count` rough copies of a text, each worn in one to three ways; a short text may come back unchanged."""
    return [_rough(text, dice) for _ in range(count)]


def _rough(text: str, dice: random.Random) -> str:
    lang = script_of(text)
    worn = text
    if dice.random() < 0.8:
        worn = _PUNCTUATION.sub(" ", worn.lower())
    if dice.random() < 0.3:
        tokens = worn.split()
        if len(tokens) > 4:
            del tokens[dice.randrange(len(tokens))]
        worn = " ".join(tokens)
    if dice.random() < 0.7:
        for _ in range(1 + len(worn) // 30):
            worn = _slip(worn, lang, dice)
    if dice.random() < 0.25:
        worn = f"{dice.choice(_OPENINGS[lang])} {worn}"
    if dice.random() < 0.15:
        worn = f"{worn} {dice.choice(_ENDINGS[lang])}"
    return " ".join(worn.split())


def _slip(text: str, lang: str, dice: random.Random) -> str:
    places = [place for place, letter in enumerate(text) if letter.isalpha()]
    if len(places) < 6:
        return text
    place = dice.choice(places[1:])
    kind = dice.random()
    if kind < 0.25:
        return text[:place] + text[place + 1 :]
    if kind < 0.5 and place + 1 < len(text) and text[place + 1].isalpha():
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if kind < 0.65:
        return text[:place] + text[place] + text[place:]
    return text[:place] + _neighbour(text[place], lang, dice) + text[place + 1 :]


def _neighbour(letter: str, lang: str, dice: random.Random) -> str:
    for row in _NEIGHBOURS[lang]:
        place = row.find(letter)
        if place >= 0:
            return row[max(0, min(len(row) - 1, place + dice.choice((-1, 1))))]
    return letter
