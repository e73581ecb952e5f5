"""A text encoder that learns with the U-Net, as latent diffusion's did (Rombach et al. 2022, section 4.3.1).

What the U-Net asks of it is all that it is taught by. Where scenes are known it may also be asked to read them back, as
the text tower is in training/clip.py, because asked by the U-Net alone a small encoder stays a bag of words.
"""

from __future__ import annotations

from collections.abc import Iterable

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.store.part import SHARD
from mezzotint.store.texts import save_text
from mezzotint.text.train import train_word_pieces
from mezzotint.text.wordpiece import WordPieceTokenizer
from mezzotint.training import workers
from mezzotint.training.run import Run, bert_folders


def first_bert(run: Run, corpus: Iterable[str]) -> TextConditioner:
    """What reads texts when the U-Net begins to learn, to learn with it.

    That of the model begun from, if it is a BERT; or else one of chance weights, with a tokenizer of the words of
    `corpus`, which a stage that goes on has already.
    """
    if run.bert is not None:
        conditioner = run.conditioner()
        conditioner.text_model.requires_grad_(True)
        return conditioner
    folder, _ = bert_folders(run.stage("unet"))
    recipe = run.recipe.bert
    if run.resume and run.begun("unet"):
        tokenizer = WordPieceTokenizer.from_folder(folder)  # What the checkpoint's words are numbers of.
    else:
        tokenizer = train_word_pieces(corpus, recipe.vocab_size)
        if workers.leads():
            tokenizer.save(folder)
    return TextConditioner(tokenizer, LDMBertModel(recipe.text(tokenizer.vocab_size, tokenizer.pad_id)))


def save_bert(run: Run, conditioner: TextConditioner) -> None:
    """Write what has learned with the U-Net into that one's stage, where `load_bert` finds it."""
    save_text((conditioner.tokenizer, conditioner.text_model), bert_folders(run.stage("unet")), None, SHARD)
