"""Modelfiles as people write them, in forms seen in the wild: each is read, written, and read back to the same."""

from __future__ import annotations

import pytest

from localllm.modelfile import parse, write

FORMS = (
    "from llama3\nsystem you are a pirate\nparameter temperature 1",
    "FROM llama3:8b-instruct-q4_0\nPARAMETER num_ctx 8192\nPARAMETER num_gpu 999\nPARAMETER num_thread 8",
    "FROM hf.co/owner/Model-GGUF:Q4_K_M\n",
    "FROM https://huggingface.co/owner/Model-GGUF",
    "FROM ./model.gguf\nADAPTER ./lora.gguf",
    "FROM ./folder with blanks/model.gguf  ",
    'FROM "C:\\Users\\my name\\model.gguf"',
    'FROM C:\\models\\model.gguf\r\nPARAMETER top_k 40\r\nSYSTEM """a\r\nb"""\r\n',
    "FROM ~/models/model.gguf",
    "FROM @sha256:0123",
    "FROM .",
    "\ufeffFROM llama3",
    "  FROM m\n\tPARAMETER\ttop_k\t40\n\n#comment\n  # another\nSYSTEM    lots   of   blanks   ",
    'FROM m\n\n\n\nPARAMETER stop "<|im_start|>"\nPARAMETER stop "<|im_end|>"\nPARAMETER stop </s>',
    'FROM m\nPARAMETER stop "User:"\nPARAMETER stop "\nUser:"\nPARAMETER stop "###"',
    "FROM m\nPARAMETER temperature .5\nPARAMETER top_p 1.\nPARAMETER min_p 5e-2\nPARAMETER repeat_penalty 1.1",
    'FROM m\nPARAMETER temperature "0.7"\nPARAMETER seed -1',
    "FROM m\nPARAMETER num_predict -2\nPARAMETER repeat_last_n -1\nPARAMETER num_keep 24",
    "FROM m\nPARAMETER mirostat 2\nPARAMETER mirostat_tau 5.0\nPARAMETER mirostat_eta 0.1",
    "FROM m\nPARAMETER penalize_newline false\nPARAMETER use_mmap True\nPARAMETER low_vram true",
    "FROM m\nparameter Temperature 0.1\nPARAMETER TOP_K 3\nPARAMETER temperature 0.2",
    'FROM m\nSYSTEM """\nYou are {{ .Name }}.\n\n- one\n- two\n"""',
    'FROM m\nSYSTEM """You said "hello" and ""quoted"" things."""',
    'FROM m\nSYSTEM """\nYou are """quoted""" text\n"""\nPARAMETER top_k 1',
    "FROM m\nSYSTEM \u201cYou are curly\u201d \u2014 and caf\u00e9 \U0001f469\u200d\U0001f4bb\u00a0",
    "FROM m\nSYSTEM #not a comment\n#a comment",
    'FROM m\nSYSTEM ""',
    'FROM m\nSYSTEM "one line in quotes"   ',
    'FROM m\nSYSTEM "several\nlines\n\nin one quote"',
    "FROM m\nSYSTEM it's 5 o'clock, \"almost\"",
    'FROM m\nTEMPLATE "{{ .System }}\nUSER: {{ .Prompt }}\nASSISTANT: "',
    'FROM m\nTEMPLATE """{{ if .System }}<|system|>\n{{ .System }}<|end|>\n{{ end }}{{ .Response }}"""',
    'FROM m\nTEMPLATE """{{- range $i, $_ := .Messages }}\n{{ if eq .Role "user" }}"\n{{ end }}{{ end }}"""',
    'FROM m\nTEMPLATE """{% for m in messages %}{{ m[\'content\'] }}\n# not a comment\n{% endfor %}"""',
    'FROM m\nTEMPLATE """   {{ .Prompt }}   \n\n\n"""',
    'FROM m\nMESSAGE system """Be brief.\nVery."""\nMESSAGE user Hi\nMESSAGE assistant "Hello"\nMESSAGE assistant ""',
    'FROM m\nLICENSE """\nMIT License\n\nCopyright (c) "X"\n"""\nLICENSE Apache-2.0',
    "FROM m\nRENDERER qwen3-coder\nPARSER qwen3-coder\nREQUIRES 0.14.0",
    "FROM m\nPARAMETER cache_type_k q8_0\nPARAMETER kv_cache_type q8_0\nPARAMETER flash_attn on",
    "FROM m\nSYSTEM a\x0cb\x85c\u2028d\x00e",
    "SYSTEM first\nPARAMETER top_k 1\nFROM last",
)


@pytest.mark.parametrize("text", FORMS)
def test_a_form_of_the_wild_reads_back_as_it_was_read(text):
    read = parse(text)
    written = write(read)
    assert read == parse(written)
    assert written == write(parse(written)), "and is written as it was from then on"
