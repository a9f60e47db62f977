r"""The embedded tiny model's tokenizer: byte-level BPE, each word of the sample clinic one token.

``\n3.``, a sentence number at the start of a line, is one token unlike any digit elsewhere: without
it so small a model does not bind a fact to its sentence. Other text is tokenised too, in smaller
pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from medical_team.answers import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
_ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")
# Not special: they must survive decoding, since the answer format is read from the decoded text.
_TAGS: Final = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

_PIECES: Final = (
    r"\n(?:\d{1,2}\.|Classification:|Error sentence:|Correction:|Sentence:|Rewrite:)"
    r"|\n"
    r"| ?\p{L}+"
    r"|-\p{L}[\p{L}-]*"
    r"| ?\p{N}+(?:\.\p{N}+)?"
    r"| ?[^\s\p{L}\p{N}]"
    r"|\s+"
)

_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']"
    " + ', expected system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Learns the merges from texts of the sample clinic.

    Args:
        texts: prompts and responses.
        vocab_size: upper limit of the vocabulary, all special tokens included.
        max_length: the model's context, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_TAGS),
        min_frequency=2,
        special_tokens=[PAD, END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in _TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(_ROLES),
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT_TEMPLATE,
    )
