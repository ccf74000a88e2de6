"""The sampler that keeps an answer to its stages, on scripted choices."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from localllm.answer_rules import AnswerRules, Free, Held, Mark, Opening, Stage
from localllm.engine.backend import EngineError
from localllm.engine.constrained import ConstrainedSampler, hold, is_cut_character, keep_only
from localllm.engine.grammar import Grammars, Vocabulary, byte_tokenizer, readable, schema_complaint
from localllm.errors import BadRequestError

# Besides the bytes, tokens of several letters, as real vocabularies have them.
END, PIECES = 256, ["<c>", "ab<c>", "<c>{", "<c>x", "c>{1", "</t>", "no</t>{1"]
TOKENS = [*(bytes([byte]) for byte in range(256)), b"", *(piece.encode() for piece in PIECES)]
NUMBER = 'start: "{" /[0-9]{1,3}/ "}"'


def vocabulary() -> Vocabulary:
    tokenizer = byte_tokenizer(TOKENS, END)
    return Vocabulary(tokenizer, TOKENS.__getitem__, lambda text: list(text.encode()), frozenset([END]))


class Wishes:
    """A sampler that wants certain tokens, one after another; what it cannot have it asks for again, then takes any."""

    def __init__(self, wishes: Sequence[int | str]) -> None:
        self._wishes = [TOKENS.index(one.encode()) if isinstance(one, str) else one for one in wishes]
        self.row = np.zeros(len(TOKENS), dtype=np.float32)
        self.is_closed = False

    @property
    def wish(self) -> int:
        return self._wishes[0] if self._wishes else END

    def sample(self, row: int) -> int:
        wish = self.wish
        if np.isfinite(self.row[wish]):
            self._wishes[:1] = []
            return wish
        return int(np.flatnonzero(np.isfinite(self.row))[-1])

    def close(self) -> None:
        self.is_closed = True


def said(stages: Sequence[Stage], wishes: Sequence[int | str], most: int = 40, ahead: ThreadPoolExecutor | None = None):
    """What comes of the wishes, as the texts of the tokens."""
    inner = Wishes(wishes)
    answer = hold(AnswerRules(tuple(stages)), Grammars(vocabulary()))
    sampler = ConstrainedSampler(inner, answer, lambda row: inner.row, ahead)
    found: list[str] = []
    for _ in range(most):
        inner.row = np.zeros(len(TOKENS), dtype=np.float32)
        inner.row[inner.wish] = 1.0
        token = sampler.sample(0)
        if token == END:
            found.append("END")
            break
        found.append(TOKENS[token].decode("latin-1"))
    return found


def test_a_held_stage_allows_what_its_grammar_does_and_then_the_end():
    assert ["{", "7", "}", "END"] == said([Held(NUMBER)], ["{", "7", "}", END])
    assert "END" == said([Held(NUMBER)], ["x", "<c>", END])[-1]
    assert "".join(said([Held(NUMBER)], ["x", "<c>", END])).startswith("{")


def test_the_next_mask_may_be_computed_ahead():
    with ThreadPoolExecutor(1) as ahead:
        assert ["{", "7", "}", "END"] == said([Held(NUMBER)], ["{", "7", "}", END], ahead=ahead)


def test_a_mark_ends_a_free_stage_however_it_is_spelled():
    stages = [Free((Mark("<c>", 1),)), Held(NUMBER, 0)]
    for wishes in (["a", "<c>", "{", "1", "}", "b", END], [*"a<c>{1}b", END], ["ab<c>", *"{1}b", END]):
        assert "".join(str(wish) for wish in wishes[:-1]) == "".join(said(stages, wishes)[:-1])


def test_what_stands_behind_a_mark_in_its_token_belongs_to_the_next_stage():
    stages = [Free((Mark("<c>", 1),)), Held(NUMBER)]
    assert ["<c>{", "1", "}", "END"] == said(stages, ["<c>{", "1", "}", END])
    assert ["<", "c>{1", "}", "END"] == said(stages, ["<", "c>{1", "}", END])


def test_a_token_that_runs_on_into_what_may_not_follow_is_not_chosen():
    found = said([Free((Mark("<c>", 1),)), Held(NUMBER)], ["<c>x"], most=1)
    assert "<c>x" != found[0]


def test_one_token_may_end_two_stages():
    stages = [Free((Mark("no", 1),)), Free((Mark("</t>", 2),)), Held(NUMBER)]
    assert ["no</t>{1", "}", "END"] == said(stages, ["no</t>{1", "}", END])


def test_an_opening_counts_only_at_the_start_and_may_be_part_of_what_follows():
    stages = [Free(openings=(Opening(rb"\s*\{", 1, is_part=True),)), Held(NUMBER)]
    assert [" ", "{", "5", "}", "END"] == said(stages, [" ", "{", "5", "}", END])
    assert ["a", "{", "x", "END"] == said(stages, ["a", "{", "x", END])


def test_a_budget_says_the_first_mark_and_waits_for_a_whole_character():
    stages = [Free((Mark("</t>", 1),), most_tokens=2), Free()]
    assert [*"ab</t>c", "END"] == said(stages, [*"ab", *"</t>", "c", END])
    euro = list("€".encode())
    found = said(stages, [*euro, *euro, "c", END])
    assert "€</t>" == "".join(found[:7]).encode("latin-1").decode()


def test_a_turn_that_must_go_on_does_not_end():
    assert "END" != said([Free((Mark("</t>", 1),), must_go_on=True), Held(NUMBER)], [END, "</t>"], most=1)[0]


def test_a_forbidden_text_is_not_completed():
    found = said([Free(forbidden=("<c>",))], ["ab<c>", "<", "c", ">", END], most=5)
    assert "<c>" not in "".join(found)


def number_or_mark(blanks: str = "", own: str = NUMBER) -> list[Stage]:
    """A number, or behind blanks a mark that leads elsewhere."""
    whole = f'start: n | /[ ]{{0,4}}/ "<c>"{blanks}\nn: {own[7:]}'
    return [Held(whole, None, (Mark("<c>", 1),), own), Free()]


def test_a_mark_is_not_said_for_want_of_what_the_grammar_forbids():
    for wishes in (["x"], ["x", " ", "<"]):
        assert "{" == said(number_or_mark(), wishes, most=1)[0]


def test_a_mark_instead_of_the_grammars_text_leads_elsewhere():
    assert ["<", "c", ">", "f", "r", "e", "e", "END"] == said(number_or_mark(), [*"<c>free", END])
    assert ["{", "1", "}", "END"] == said(number_or_mark(), ["{", "1", "}", "f", END])


def test_blanks_before_a_mark_are_said_where_the_model_begins_with_them():
    assert [" ", "<", "c", ">", "f", "END"] == said(number_or_mark(), [" ", *"<c>f", END])
    may_go_on = number_or_mark(" | / / n")
    assert [" ", "{", "1", "}", "END"] == said(may_go_on, [" ", *"{1}", END])
    assert [" ", "{"] == said(may_go_on, [" ", "x"], most=2)


def test_a_grammar_whose_own_text_begins_with_blanks_or_as_a_mark_does_is_kept():
    assert [*"  7", "END"] == said(number_or_mark(own='start: "  7"'), ["x", "y", "z", END])
    both = number_or_mark(own='start: "<d" /[0-9]/')
    assert ["<", "d"] == said(both, ["x", "x"], most=2)
    assert ["<", "c", ">", "f", "END"] == said(both, [*"<c>f", END])


class Lowest(Wishes):
    """Wants the first token that it can have."""

    def sample(self, row: int) -> int:
        return int(np.flatnonzero(np.isfinite(self.row))[0])


def test_an_answer_that_insists_fails_and_says_why():
    inner = Lowest([])
    stages = (Free(forbidden=tuple(chr(code) for code in range(128))),)
    sampler = ConstrainedSampler(inner, hold(AnswerRules(stages), Grammars(vocabulary())), lambda row: inner.row)
    with pytest.raises(EngineError, match="insists on what its answer may not say"):
        sampler.sample(0)
    sampler.close()
    assert inner.is_closed


def test_a_grammar_that_cannot_be_compiled_is_refused():
    with pytest.raises(BadRequestError, match="the grammar cannot be kept"):
        hold(AnswerRules((Held("start: ("),)), Grammars(vocabulary()))


def test_a_grammar_is_compiled_once_and_each_answer_begins_anew():
    grammars = Grammars(vocabulary())
    first, second = grammars.matcher(NUMBER), grammars.matcher(NUMBER)
    assert first.consume_token(ord("{"))
    assert [False, True] == [matcher.consume_token(ord("{")) for matcher in (first, second)]


@pytest.mark.parametrize("allowed", [[0], [0, 2, 4], [1, 2, 3, 4], []])
def test_only_the_allowed_tokens_keep_their_logits(allowed):
    logits = np.arange(5, dtype=np.float32)
    keep_only(logits, np.isin(np.arange(5), allowed))
    assert allowed == np.flatnonzero(np.isfinite(logits)).tolist()
    assert [float(token) for token in allowed] == logits[allowed].tolist()


def test_the_end_of_a_text_may_cut_a_character():
    texts = {
        b"": False,
        b"a": False,
        "é".encode(): False,
        "é".encode()[:1]: True,
        "🙂".encode()[:3]: True,
        b"\x80": False,
    }
    assert texts == {text: is_cut_character(text) for text in texts}


def test_messages_name_the_keyword_and_nothing_of_texts_nobody_wrote():
    assert 'unsupported keywords: "not", "if"' == readable('Unimplemented keys: ["not", "if"]')
    assert "bad b" == readable("at 3(7): failed to compile JSON schema: bad\n b\n   1 | start: x\n   2 | y")
    assert None is schema_complaint('{"type": "string"}')
    assert "Invalid type: int" == schema_complaint('{"type": "int"}')
    assert "object" in str(schema_complaint("[]"))
