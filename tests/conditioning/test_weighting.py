"""What chunks and weights make of a text encoder's tokens, in closed form."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.conditioning import LDMBertConfig, LDMBertModel, SizedConditioner, SizeNumbers, TextConditioner
from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.conditioning.text import AnyTokenizer
from mezzotint.conditioning.words import LearnedWords
from mezzotint.text import WordPieceTokenizer, train_tokenizer
from mezzotint.text.chunks import chunked
from mezzotint.types import WEIGHTINGS, UserError, Words

WORDS = train_tokenizer(["a red cube, a blue sphere"] * 3, 530)
CONFIG = CLIPTextConfig(
    vocab_size=WORDS.vocab_size,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    eos_token_id=WORDS.eos_id,
)
LONG = "a red cube, " * 30 + "a blue sphere"
BERT_WORDS = WordPieceTokenizer(
    {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube"])}, length=6
)


def clip(**changes: object) -> TextConditioner:
    torch.manual_seed(0)
    model = CLIPTextModel(replace(CONFIG, **changes)).eval()
    torch.nn.init.uniform_(model.text_model.final_layer_norm.bias, 0.1, 0.5)  # A mean, as trained encoders have.
    return TextConditioner(WORDS, model)


def bert() -> TextConditioner:
    torch.manual_seed(0)
    config = LDMBertConfig(
        vocab_size=8,
        max_position_embeddings=6,
        d_model=8,
        encoder_layers=2,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        head_dim=3,
    )
    model = LDMBertModel(config).eval()
    torch.nn.init.uniform_(model.model.layer_norm.bias, 0.1, 0.5)
    return TextConditioner(BERT_WORDS, model)


@pytest.fixture(scope="module")
def conditioner() -> TextConditioner:
    return clip(with_projection=True, projection_dim=6)


def tokens(conditioner: TextConditioner, text: str, **told: Any) -> Tensor:
    """The tokens [n*L D] of one text."""
    with torch.no_grad():
        sequence = conditioner([Words(text, **told)]).sequence
    assert sequence is not None
    return sequence[0]


def read(conditioner: TextConditioner, rows: list[list[int]], unseen: Tensor | None = None) -> Tensor:
    """What the encoder itself says of ids."""
    with torch.no_grad():
        return conditioner.text_model.read(torch.tensor(rows), unseen=unseen)[0]


def near(found: Tensor, expected: Tensor) -> None:
    """Equal but for sums in another order, of numbers about 1, with weights below 3."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_plain_prompt_keeps_every_bit(conditioner: TextConditioner, weighting: str) -> None:
    texts = ["a red cube, left", "", "a blue sphere"]
    with torch.no_grad():
        found = conditioner([Words(text, weighting=weighting) for text in texts])
        sequence, pooled = conditioner.text_model.read(torch.tensor(WORDS.encode(texts)))
    assert torch.equal(found.sequence, sequence)
    assert torch.equal(found.pooled, pooled)
    assert conditioner([]).sequence.shape == (0, 77, 8)


def test_chunks_are_encoded_each_alone_and_stand_in_a_row(conditioner: TextConditioner) -> None:
    chunks = chunked(WORDS, LONG, "a1111")
    assert conditioner.chunks(LONG) == len(chunks) == 2
    with torch.no_grad():
        found = conditioner([LONG, "a cube"])
    rows = [WORDS.row(chunk.ids) for chunk in chunks] + WORDS.encode(["a cube", ""])
    assert found.sequence is not None
    assert found.sequence.shape == (2, 154, 8)
    assert torch.equal(found.sequence.reshape(4, 77, 8), read(conditioner, rows))
    with torch.no_grad():
        pooled = conditioner.text_model.read(torch.tensor(rows))[1]
    assert torch.equal(found.pooled, pooled[::2])  # each text's first chunk


def test_it_is_filled_up_to_the_chunks_that_are_wanted(conditioner: TextConditioner) -> None:
    assert conditioner.chunks(Words("a cube", chunks=3)) == 3
    assert conditioner.chunks(Words(LONG, chunks=1)) == 2  # nothing is cut
    filled = tokens(conditioner, "a cube", chunks=3)
    assert filled.shape == (3 * 77, 8)
    near(filled, read(conditioner, WORDS.encode(["a cube", "", ""])).flatten(0, 1))


def test_a1111_multiplies_and_gives_back_the_mean(conditioner: TextConditioner) -> None:
    (z,) = read(conditioner, WORDS.encode(["a red cube"]))
    weights = torch.ones(77, 1)
    weights[2], weights[3] = 1.3, -0.5
    weighed = weights * z
    near(tokens(conditioner, "a (red:1.3) (cube:-0.5)"), weighed * (z.mean() / weighed.mean()))


def test_a1111_gives_no_mean_back_where_there_is_none() -> None:
    """Without its bias the last layer norm leaves a mean of 0, and the ratio of two such is chance."""
    plain = clip()
    torch.nn.init.zeros_(plain.text_model.text_model.final_layer_norm.bias)
    (z,) = read(plain, WORDS.encode(["a red cube"]))
    weights = torch.ones(77, 1)
    weights[2] = 1.3
    near(tokens(plain, "a (red:1.3) cube"), weights * z)


def test_a1111_keeps_each_chunks_own_mean(conditioner: TextConditioner) -> None:
    found = tokens(conditioner, "a cube BREAK a (red:1.5) cube BREAK a sphere").reshape(3, 77, 8)
    alone = [tokens(conditioner, text) for text in ("a cube", "a (red:1.5) cube", "a sphere")]
    near(found, torch.stack(alone))
    plain = read(conditioner, WORDS.encode(["a cube", "a red cube", "a sphere"]))
    assert torch.equal(found[::2], plain[::2])  # chunks without weights keep every bit
    near(found.mean((1, 2)), plain.mean((1, 2)))


def test_compel_moves_away_from_the_empty_text(conditioner: TextConditioner) -> None:
    z, empty = read(conditioner, WORDS.encode(["a red cube", ""]))
    expected = z.clone()
    expected[2] = empty[2] + 1.5 * (z[2] - empty[2])
    found = tokens(conditioner, "a (red)1.5 cube", weighting="compel")
    near(found, expected)


def test_compel_mixes_in_the_text_without_what_is_lessened(conditioner: TextConditioner) -> None:
    """Two runs of words below 1, one word above: b, y of each run, and their shares."""
    (row,) = WORDS.encode(["a red cube sphere"])
    (empty,) = read(conditioner, WORDS.encode([""]))
    weights = torch.ones(77, 1)
    weights[1], weights[2], weights[4] = 2.0, 0.5, 0.25
    unseen = torch.zeros(3, 77, dtype=torch.bool)
    unseen[1, 2], unseen[2, 4] = True, True
    moved = empty + weights * (read(conditioner, [row] * 3, unseen) - empty)
    shares = [1.0, math.tan(math.pi / 4), math.tan(0.75 * math.pi / 2)]
    expected = sum(share * each for share, each in zip(shares, moved, strict=True)) / sum(shares)
    near(tokens(conditioner, "(a)2 (red)0.5 cube (sphere)0.25", weighting="compel"), expected)


def test_compel_at_zero_forgets_the_word(conditioner: TextConditioner) -> None:
    found = tokens(conditioner, "a (red)0 cube", weighting="compel")
    other = tokens(conditioner, "a (blue)0 cube", weighting="compel")
    # t is about 6e4 at the least weight, so of the text with the word 1.6e-5 is left.
    torch.testing.assert_close(found, other, rtol=0, atol=1e-3)
    assert not torch.allclose(found, tokens(conditioner, "a red cube"), atol=1e-2)


@torch.no_grad()
def test_what_is_unseen_changes_no_other_token(conditioner: TextConditioner) -> None:
    for each, words in ((conditioner, WORDS), (bert(), BERT_WORDS)):
        rows = words.encode(["a red cube", "a cube cube"])
        unseen = torch.zeros(len(rows), words.length, dtype=torch.bool)
        unseen[:, 2] = True
        first, second = read(each, rows, unseen)
        others = [place for place in range(words.length) if place != 2]
        assert torch.equal(first[others], second[others])
        assert not torch.equal(first[2], second[2])
        assert not torch.allclose(*read(each, rows)[:, 3])
    # With gradients the products are written out, and are the same.
    ids = torch.tensor(WORDS.encode(["a red cube"]))
    unseen = torch.zeros(1, 77, dtype=torch.bool)
    unseen[0, 2] = True
    with torch.enable_grad():
        written = conditioner.text_model.read(ids, unseen=unseen)[0]
    near(written.detach(), read(conditioner, ids.tolist(), unseen))


def test_latent_diffusions_text_encoder_reads_chunks_of_its_own_room() -> None:
    conditioner = bert()
    assert conditioner.chunks("a red cube a red") == 2
    found = tokens(conditioner, "a red cube a red").reshape(2, 6, 8)
    near(found, read(conditioner, BERT_WORDS.encode(["a red cube a", "red"])))
    (z,) = read(conditioner, BERT_WORDS.encode(["a red"]))
    weighed = torch.tensor([1, 1, 1.2, 1, 1, 1])[:, None] * z
    near(tokens(conditioner, "a (red:1.2)"), weighed * (z.mean() / weighed.mean()))
    lessened = tokens(conditioner, "a (red)0.5", weighting="compel")
    assert lessened.isfinite().all()


def test_a_learned_word_is_weighed_whole(conditioner: TextConditioner) -> None:
    worded = TextConditioner(WORDS, copy.deepcopy(conditioner.text_model))
    LearnedWords([worded]).set({"<toy>": {8: torch.randn(2, 8, generator=torch.Generator().manual_seed(0))}})
    z = tokens(worded, "a <toy>")
    weighed = torch.ones(77, 1)
    weighed[2:4] = 1.4
    weighed = weighed * z
    near(tokens(worded, "a (<toy>:1.4)"), weighed * (z.mean() / weighed.mean()))
    assert worded.chunks("a " * 74 + "<toy>") == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighting", ["a1111", "compel"])
def test_weights_in_half_precision_are_finite(weighting: str, dtype: torch.dtype) -> None:
    half = clip().to(dtype=dtype)
    text = "a (red:9999999) cube" if weighting == "a1111" else "a (red)99999 (cube)0.01"
    found = tokens(half, text, weighting=weighting)
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_two_encoders_read_the_same_chunks() -> None:
    padded = replace(WORDS, special=replace(WORDS.special, pad="!"))
    torch.manual_seed(1)
    other = TextConditioner(padded, CLIPTextModel(replace(CONFIG, with_projection=True, projection_dim=6)).eval())
    first = clip()
    both = SizedConditioner([first, other], SizeNumbers(count=6, dim=4), zero_empty_negative=True)
    size = (64, 64)
    assert both.chunks(Words(LONG, size)) == 2
    with torch.no_grad():
        found = both([Words(f"{LONG} (a:1.3)", size), Words("", size, negative=True), Words("a cube", size, chunks=2)])
        alone = [each([Words(f"{LONG} (a:1.3)")]) for each in (first, other)]
    assert found.sequence is not None
    assert found.sequence.shape == (3, 154, 16)
    near(found.sequence[0], torch.cat([each.sequence for each in alone], dim=2)[0])
    assert found.sequence[1].abs().max() == 0
    assert found.pooled is not None
    assert alone[1].pooled is not None
    near(found.pooled[0, :6], alone[1].pooled[0])
    near(found.sequence[2, :, 8:], tokens(other, "a cube", chunks=2))


def test_an_unknown_weighting_is_one_sentence(conditioner: TextConditioner) -> None:
    with pytest.raises(UserError, match="one of a1111, compel, none"):
        conditioner([Words("a", weighting="comfy")])


def test_a_conditioners_tokenizer_says_where_text_stands() -> None:
    tokenizer: AnyTokenizer = WORDS
    assert tokenizer.row(WORDS.ids("a"))[tokenizer.place(1)] == WORDS.ids("a")[0]
