"""The Modelfile grammar: what is read, what is refused with its line, and that writing and reading are inverse."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.generation import Message, Options
from localllm.load_options import NOT_YET, LoadOptions
from localllm.modelfile import PARAMETER_TYPES, Modelfile, ModelfileError, decode, parse, write
from localllm.template_syntax import is_go


def test_every_statement_is_read():
    text = """
# how the guide speaks
FROM ./guide.gguf
ADAPTER ./lora.gguf
DRAFT ./small.gguf
RENDERER qwen3-coder
PARSER qwen3-coder
PARAMETER temperature 0.7
parameter top_k 20
PARAMETER stop "<|im_end|>"
PARAMETER stop two words
PARAMETER use_mmap true
PARAMETER num_parallel 4
Parameter KV_LAYOUT streams
PARAMETER stream_slowdown 1.5
SYSTEM You are a guide.
TEMPLATE \"\"\"{{ messages }}
# not a comment
\"\"\"
LICENSE MIT
LICENSE "and
another"
MESSAGE user hello
MESSAGE assistant "Hi there"
REQUIRES 0.14.0
"""
    expected = Modelfile(
        bases=("./guide.gguf",),
        adapters=("./lora.gguf",),
        draft="./small.gguf",
        renderer="qwen3-coder",
        parser="qwen3-coder",
        load=LoadOptions(num_parallel=4, kv_layout="streams", stream_slowdown=1.5),
        options=Options(temperature=0.7, top_k=20, stop=("<|im_end|>", "two words"), use_mmap=True),
        system="You are a guide.",
        template="{{ messages }}\n# not a comment\n",
        licenses=("MIT", "and\nanother"),
        messages=(Message("user", "hello"), Message("assistant", "Hi there")),
        requires="0.14.0",
    )
    assert expected == parse(text)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("plain", "plain"),
        ("  padded \t ", "padded"),
        ('"quoted "', "quoted "),
        ('"""three"""', "three"),
        ('""', ""),
        ('""""""', ""),
        ('"""\nfirst line is empty"""', "\nfirst line is empty"),
        ('"two\nlines"', "two\nlines"),
        ('"inner " quote"', 'inner " quote'),
        ('"trailing space after the quote"  ', "trailing space after the quote"),
        ('"foo" bar\nuntil here"', 'foo" bar\nuntil here'),
        ('ends with a quote"', 'ends with a quote"'),
        ('"""keeps   \n  blanks"""', "keeps   \n  blanks"),
        ("no-break\u00a0", "no-break\u00a0"),
        (
            "\u3000wide and \U0001f468\u200d\U0001f469\u200d\U0001f467",
            "\u3000wide and \U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ('"""""end\na line"""\nmore\nend"""""', 'a line"""\nmore'),
        ("# no comment here", "# no comment here"),
        ('"""one\r\ntwo"""', "one\ntwo"),
    ],
)
def test_values_end_where_their_line_or_their_quote_ends(written, value):
    assert value == parse(f"FROM x\nSYSTEM {written}\nLICENSE after\n").system
    assert ("after",) == parse(f"FROM x\nSYSTEM {written}\nLICENSE after\n").licenses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("# only a comment", "no FROM line"),
        ("FROM", "(line 1): FROM needs a value"),
        ("FROM x\n\nSYSTEM", "(line 3): SYSTEM needs a value"),
        (
            "FROM x\nFORM y",
            '(line 2): command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", '
            '"parser", "parameter", "message", or "requires"',
        ),
        (
            'FROM x\nSYSTEM """\nnever\nclosed',
            '(line 2): the value that starts here is never closed by a line that ends with """ (unexpected EOF)',
        ),
        ('FROM x\nSYSTEM """""end\nend', '(line 2): the value that starts here is never closed by a line end"""""'),
        ("FROM x\nPARAMETER", "(line 2): PARAMETER needs a name and a value"),
        ("FROM x\nPARAMETER top_k", "(line 2): PARAMETER top_k needs a value"),
        ("FROM x\nPARAMETER top_k many", "(line 2): invalid int value [many] for parameter 'top_k'"),
        ("FROM x\nPARAMETER top_k 1_000", "(line 2): invalid int value [1_000] for parameter 'top_k'"),
        ("FROM x\nPARAMETER top_p high", "(line 2): invalid float value [high] for parameter 'top_p'"),
        ("FROM x\nPARAMETER use_mmap yes", "(line 2): invalid bool value [yes] for parameter 'use_mmap'"),
        ("FROM x\nPARAMETER logit_bias [", "(line 2): invalid object value [[] for parameter 'logit_bias'"),
        (
            'FROM x\nPARAMETER dry_sequence_breakers ","',
            "(line 2): invalid array value [,] for parameter 'dry_sequence_breakers'",
        ),
        ("FROM x\nPARAMETER mirostat 3", '(line 2): option "mirostat" must be between 0 and 2, not 3'),
        ("FROM x\nPARAMETER top_p 1e999", '(line 2): option "top_p" must be a finite number'),
        ("FROM x\nPARAMETER top_p 2", '(line 2): option "top_p" must be between 0 and 1, not 2.0'),
        ('FROM x\nPARAMETER stop ""', "(line 2): a stop text must not be empty"),
        ("FROM x\nPARAMETER speed 5", "(line 2): unknown parameter 'speed'"),
        (
            "FROM x\nPARAMETER num_parallel 0",
            "(line 2): option \"num_parallel\" must be an integer between 1 and 256, not '0'",
        ),
        (
            "FROM x\nPARAMETER num_parallel 2.5",
            "(line 2): option \"num_parallel\" must be an integer between 1 and 256, not '2.5'",
        ),
        (
            "FROM x\nPARAMETER kv_layout wide",
            "(line 2): option \"kv_layout\" must be auto, unified, streams, not 'wide'",
        ),
        (
            "FROM x\nPARAMETER stream_slowdown 1",
            "(line 2): option \"stream_slowdown\" must be a number above 1, not '1'",
        ),
        (
            "FROM x\nPARAMETER lora_scale 0.5",
            "(line 2): parameter 'lora_scale' (the strength of an adapter) is not supported yet",
        ),
        (
            "FROM x\nPARAMETER draft_min 2",
            "(line 2): parameter 'draft_min' (how many tokens a draft model guesses at least) is not supported yet",
        ),
        (
            "FROM x\nPARAMETER draft_max -1",
            "(line 2): option \"draft_max\" must be an integer between 0 and 1024, not '-1'",
        ),
        (
            "FROM x\nPARAMETER draft_p_min 75",
            "(line 2): option \"draft_p_min\" must be a number between 0 and 1, not '75'",
        ),
        ("FROM x\nREQUIRES soon", "(line 2): requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM x\nMESSAGE robot hi", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM x\nMESSAGE user", "(line 2): MESSAGE user needs a value"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(text, message):
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert message == caught.value.message


def test_the_example_in_the_readme_is_one_modelfile_without_a_warning():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = readme.partition("A Modelfile is Ollama's, and a little more:\n\n```\n")[2].partition("\n```\n")[0]
    said = parse(example)
    assert ("llama3.2", "You answer in\none sentence.", LoadOptions(num_parallel=2)) == (
        said.bases[0],
        said.system,
        said.load,
    )
    assert (Options(temperature=0.3, stop=("END",)), ("MIT",), "0.14.0") == (said.options, said.licenses, said.requires)
    assert said.template is not None
    assert is_go(said.template)
    assert () == said.warnings


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("PARAMETER temperature 0.7 # creative", "a comment stands on a line of its own"),
        ("PARAMETER temperature=0.7", "such as: PARAMETER temperature 0.7"),
        ("MESSAGE system: hi", "such as: MESSAGE user Hello"),
        ("PARAMETER tfs_z 1", "older versions of Ollama had it: leave the line out"),
        ('SYSTEM """be brief""" # please', 'nothing may follow """ on the last line, not even a comment'),
        ("\u00a0SYSTEM x", r"the line is: \xa0SYSTEM x"),
        ("SYSTEM a\n```", "the line is: ```"),
    ],
)
def test_what_people_write_by_mistake_is_told_with_what_they_meant(line, hint):
    with pytest.raises(ModelfileError) as caught:
        parse(f"FROM x\n{line}\n")
    assert hint == caught.value.hint


def test_a_stop_text_that_was_probably_meant_otherwise_is_kept_and_said():
    lines = ["'<|end|>'", '["a", "b"]', '"\\n"', "\\", "'", '"\n"', "<|end|>"]
    read = parse("FROM x\n" + "\n".join(f"PARAMETER stop {line}" for line in lines))
    assert ("'<|end|>'", '["a", "b"]', "\\n", "\\", "'", "\n", "<|end|>") == read.options.stop
    assert (
        "(line 2): the stop text is '<|end|>' as it stands, with its single quotes",
        '(line 3): the stop text is ["a", "b"] as it stands, one text: several are several lines',
        "(line 4): the stop text is \\n as it stands, with its backslash: for a line break, break the line in quotes",
    ) == read.warnings


def test_a_base_that_was_probably_meant_otherwise_is_kept_and_said():
    read = parse("FROM llama3 # the small one\nADAPTER './a#1.gguf'\n")
    assert ("llama3 # the small one", "'./a#1.gguf'") == (*read.bases, *read.adapters)
    comment = "with what follows the #: a comment stands on a line of its own"
    assert (
        f"(line 1): FROM is llama3 # the small one as it stands, {comment}",
        "(line 2): ADAPTER is './a#1.gguf' as it stands, with its single quotes",
    ) == read.warnings


def test_what_has_no_effect_is_a_warning():
    said = parse("FROM x\nPARAMETER numa 1\nRENDERER qwen3\nPARSER qwen3\nPARAMETER main_gpu 1\n")
    assert Options(main_gpu=1) == said.options
    assert (
        "(line 2): parameter numa is deprecated and has no effect",
        "(line 3): RENDERER has no effect: the chat template is used",
        "(line 4): PARSER has no effect: the answer is parsed by what the chat template shows",
    ) == said.warnings


@pytest.mark.parametrize("statement", ["DRAFT", "PARAMETER draft", "PARAMETER draft_model", "PARAMETER model_draft"])
def test_a_draft_model_is_named_by_its_own_word_or_by_llama_cpps(statement):
    said = parse(f"FROM x\n{statement} ./small.gguf\nPARAMETER draft_num_predict 4\nPARAMETER draft_p_min 0.5\n")
    assert ("./small.gguf", LoadOptions(draft_max=4, draft_p_min=0.5)) == (said.draft, said.load)
    assert ((), "(line 2): ") == (said.warnings, said.place("draft", 0))
    assert said == parse(write(said))


def test_llama_cpps_launch_options_are_read_and_written_back():
    said = parse(
        "FROM x\nPARAMETER kv_cache_type Q8_0\nPARAMETER cache_type_k f16\nPARAMETER flash_attn true\n"
        "PARAMETER n_cpu_moe 3\nPARAMETER cpu_moe false\nPARAMETER tensor_split 3,1\nPARAMETER split_mode none\n"
        "PARAMETER override_tensor blk\\.1\\.ffn_up=CPU,output=CUDA1\n"
    )
    wanted = LoadOptions(
        cache_type_k="f16", cache_type_v="q8_0", flash_attn="on", cpu_moe=False, n_cpu_moe=3, tensor_split=(3.0, 1.0),
        split_mode="none", override_tensor=(r"blk\.1\.ffn_up=CPU", "output=CUDA1"),
    )  # fmt: skip
    assert wanted == said.load
    assert said == parse(write(said))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("split_mode row", "is not supported: several GPUs share a model by layers"),
        ("cache_type_k q3_k", "must be f16, q8_0, bf16, f32, q4_0, q4_1, q5_0, q5_1, iq4_nl"),
        ("tensor_split 0,0", "must be at most 16 shares of the GPUs such as 3,1"),
        ("tensor_split 1,x", "must be at most 16 shares of the GPUs such as 3,1"),
        ("override_tensor (=CPU", "PATTERN=DEVICE such as ffn_up_exps=CPU"),
        ("override_tensor output", "PATTERN=DEVICE such as ffn_up_exps=CPU"),
        ("n_cpu_moe -1", "must be an integer between 0 and"),
        ("cpu_moe maybe", "must be true or false"),
    ],
)
def test_a_launch_option_that_cannot_be_says_what_it_takes(line, says):
    with pytest.raises(ModelfileError) as caught:
        parse(f"FROM x\nPARAMETER {line}\n")
    assert says in caught.value.message


def test_every_option_of_a_request_is_a_parameter():
    assert set(Options.__struct_fields__) == set(PARAMETER_TYPES)


def test_a_parameter_is_known_or_not_yet_supported_but_not_both():
    known = {*PARAMETER_TYPES, *LoadOptions.__struct_fields__}
    assert set() == known & set(NOT_YET)


def test_bytes_may_be_utf_8_or_utf_16_with_or_without_a_mark():
    text = "FROM é\n"
    for data in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16")):
        assert ("é",) == parse(decode(data)).bases
    with pytest.raises(ModelfileError, match="not UTF-8"):
        decode(b"FROM \xff\xfe\xfd")


def test_a_megabyte_of_unclosed_lines_is_refused_in_a_moment():
    started = time.process_time()
    with pytest.raises(ModelfileError):
        parse('FROM x\nSYSTEM "' + "\n" * 1_000_000)
    assert time.process_time() - started < 1


TEXTS = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=30) | st.text(
    '" \n\t#e_nd\u00a0\u200d', max_size=30
)
NUMBERS = st.floats(0, 1, allow_subnormal=False)
OPTIONS = st.builds(
    Options,
    temperature=st.none() | NUMBERS,
    top_p=st.none() | NUMBERS,
    top_k=st.none() | st.integers(0, 2**31 - 1),
    seed=st.none() | st.integers(-1, 2**32 - 1),
    num_predict=st.none() | st.integers(-2, 100),
    use_mmap=st.none() | st.booleans(),
    mirostat=st.none() | st.integers(0, 2),
    dry_sequence_breakers=st.none()
    | st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), max_size=3).map(tuple),
    stop=st.none() | st.lists(TEXTS.filter(bool), min_size=1, max_size=3).map(tuple),
    logit_bias=st.none()
    | st.dictionaries(st.integers(0, 2**31 - 1), NUMBERS, max_size=3).map(lambda d: tuple(d.items())),
)
LOAD = st.builds(
    LoadOptions,
    num_parallel=st.none() | st.integers(1, 256),
    kv_layout=st.none() | st.sampled_from(["auto", "unified", "streams"]),
    stream_slowdown=st.none() | st.floats(1, 100, exclude_min=True),
)
VERSIONS = st.from_regex(r"v?[0-9]{1,3}(\.[0-9]{1,3}){0,2}(-rc[0-9])?", fullmatch=True)
MODELFILES = st.builds(
    Modelfile,
    bases=st.lists(TEXTS, min_size=1, max_size=2).map(tuple),
    options=OPTIONS,
    load=LOAD,
    draft=st.none() | TEXTS,
    renderer=st.none() | TEXTS,
    parser=st.none() | TEXTS,
    template=st.none() | TEXTS,
    system=st.none() | TEXTS,
    adapters=st.lists(TEXTS, max_size=2).map(tuple),
    licenses=st.lists(TEXTS, max_size=2).map(tuple),
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=3).map(
        tuple
    ),
    requires=st.none() | VERSIONS,
)


@settings(max_examples=300, deadline=None)
@given(MODELFILES)
def test_what_is_written_reads_back_as_it_was(modelfile):
    assert modelfile == parse(write(modelfile))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["FROM", "SYSTEM", " ", "\n", '"', '"""', "a", "PARAMETER", "stop", "#", '"""""end'])).map(
        "".join
    )
)
def test_any_text_is_read_or_refused_and_what_is_read_can_be_written(text):
    try:
        modelfile = parse(text)
    except ModelfileError:
        return
    assert modelfile == parse(write(modelfile))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "SYSTEM plain"),
        (" padded", 'SYSTEM " padded"'),
        ("two\nlines", 'SYSTEM "two\nlines"'),
        ('say "hi"\nnow', 'SYSTEM """say "hi"\nnow"""'),
        ('"quoted" start', 'SYSTEM ""quoted" start"'),
        ('a"""\nb', 'SYSTEM """""end\na"""\nb\nend"""""'),
    ],
)  # fmt: skip
def test_a_value_is_written_as_plainly_as_reads_back(value, written):
    assert f"FROM x\n{written}\n" == write(Modelfile(bases=("x",), system=value))
