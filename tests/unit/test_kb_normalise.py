import pytest

from kb_index.lexical import Spelling
from kb_index.normalise import Letters, fold, other_script, readings


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ghbdtn", "привет"),
        ("ult vjq pfrfp", "где мой заказ"),
        ("rfr dthyenm ltymub?", "как вернуть деньги?"),
        ("цруку шы ьн щквук", "where is my order"),
        ("gde moi zakaz", "где мой заказ"),
        ("oplatil a zakaz ne prishel", "оплатил а заказ не пришел"),
        ("где мой pfrfp", "где мой заказ"),
    ],
)
def test_a_slip_of_the_keyboard_is_read_as_it_was_meant(typed: str, meant: str) -> None:
    assert readings(typed) == (typed, meant)


@pytest.mark.parametrize(
    "text",
    [
        "where is my order",
        "Can't log in wtf",
        "мой iphone 15 pro сломался",
        "wi-fi router",
        "когда привезут посылку",
        "",
        "😀",
        "12345",
        "?!",
    ],
)
def test_a_text_that_says_what_it_means_has_one_reading(text: str) -> None:
    assert readings(text) == (text,)


def test_words_of_the_articles_are_known_words() -> None:
    assert len(readings("ntktrjvfrc")) == 2
    assert Letters(["телекомакс"]).knows("телекомакс")


def test_a_word_near_two_others_is_taken_for_the_same_one_whatever_the_order_in_which_they_were_read() -> None:
    names = ["lantern", "lanterns", "канал", "канапе"]
    one, other = (Letters.of(dict.fromkeys(order, 7)) for order in (names, names[::-1]))
    assert one.vocabulary == other.vocabulary
    assert Spelling(one.vocabulary).nearest("lanternn") == Spelling(other.vocabulary).nearest("lanternn")


def test_folding_makes_the_same_of_what_reads_the_same() -> None:
    assert fold("Прувееееет Ёжик\x00\ud800") == "прувет ежик  "
    assert fold("ﬁrst") == "first"
    assert len(fold("я1" * 100_000)) <= 2000


def test_a_misspelt_word_is_near_the_word_that_was_meant() -> None:
    spelling = Spelling(["заказ", "доставка", "возврат", "заказать"])
    assert spelling.nearest("зкааз")[0][0] == "заказ"
    assert spelling.nearest("даставка")[0][0] == "доставка"
    assert spelling.nearest("доставка") == ()
    assert spelling.nearest("кот") == ()
    assert spelling.nearest("12345") == ()
    assert Spelling([]).nearest("доставка") == ()


def test_names_are_spelt_in_the_other_script() -> None:
    assert other_script("каролина") == "karolina"
    assert other_script("щука") == "schuka"
    assert other_script("carolina") == "царолина"
