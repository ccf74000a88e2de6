"""`localllm search` as people use it: the short names, the hub on loopback, and a hub that is not there."""

from __future__ import annotations

from pathlib import Path

from cli_process import cli_environment, run_cli
from hub_server import HubRepo, hub_server
from pseudo_terminal import Terminal

QWEN = {"architecture": "qwen3", "total": 8_190_735_360, "context_length": 40960}
REPOSITORIES = {
    "owner/Qwen3-8B-GGUF": HubRepo({}, downloads=1_234_567, gguf=QWEN),
    "other/Qwen3-Special-GGUF": HubRepo({}, downloads=5_000_000, is_gated=True),
    "other/Llama-GGUF": HubRepo({}, downloads=7_000_000),
    "Qwen/Qwen3-0.6B-GGUF": HubRepo({}, downloads=42),
}


def environment(home: Path, **more: str) -> dict[str, str]:
    return cli_environment(home, "127.0.0.1:1", **{"NO_PROXY": "*", **more})


def lines(text: str) -> list[list[str]]:
    return [[cell for cell in line.split("    ") if cell.strip()] for line in text.splitlines()]


def test_a_word_finds_short_names_and_then_repositories_the_most_downloaded_first(tmp_path):
    with hub_server(REPOSITORIES) as hub:
        done = run_cli("search", "qwen3", environment=environment(tmp_path, HF_ENDPOINT=hub.url))
        assert ["GET /api/models"] == [request.partition("?")[0] for request in hub.requests], (
            "and nothing told besides"
        )
    assert (0, "") == (done.returncode, done.stderr)
    rows = [[cell.strip() for cell in row] for row in lines(done.stdout)]
    assert ["NAME", "WHAT", "FROM"] == rows[0]
    assert ["qwen3:0.6b", "Alibaba's Qwen 3, 0.6B parameters, thinks", "hf.co/Qwen/Qwen3-0.6B-GGUF:Q8_0"] in rows
    assert [
        ["hf.co/other/Qwen3-Special-GGUF", "5.0M downloads, terms to accept first", "Hugging Face"],
        ["hf.co/owner/Qwen3-8B-GGUF", "qwen3, 8.2B, 1.2M downloads", "Hugging Face"],
    ] == rows[-2:]
    assert not any(":latest" in cell for row in rows for cell in row)
    assert not any(row[0] == "hf.co/Qwen/Qwen3-0.6B-GGUF" for row in rows), "it has a short name already"


def test_several_words_must_all_be_there_and_the_limit_is_kept(tmp_path):
    with hub_server(REPOSITORIES) as hub:
        there = environment(tmp_path, HF_ENDPOINT=hub.url)
        done = run_cli("search", "qwen3", "special", environment=there)
        assert ["NAME", "hf.co/other/Qwen3-Special-GGUF"] == [row[0].strip() for row in lines(done.stdout)]
        done = run_cli("search", "gguf", "--limit", "1", environment=there)
        assert "hf.co/other/Llama-GGUF" == lines(done.stdout)[-1][0].strip()
        done = run_cli("search", "no such model", environment=there)
        assert (0, 1) == (done.returncode, len(done.stdout.splitlines()))
        assert 'nothing has "no such model" in it\n' == done.stderr


def test_without_a_word_or_with_a_limit_of_nothing_the_hub_is_not_asked(tmp_path):
    with hub_server(REPOSITORIES) as hub:
        there = environment(tmp_path, HF_ENDPOINT=hub.url)
        assert "llama3.2:1b" in run_cli("search", environment=there).stdout
        assert "llama3.2:1b" in run_cli("search", "llama", "--limit", "0", environment=there).stdout
        assert [] == hub.requests


def test_what_keeps_the_hub_from_being_searched_is_one_line_and_the_names_come_all_the_same(tmp_path):
    with hub_server(REPOSITORIES) as hub:
        hub.search_status = 503
        for more, why in (
            ({"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.url}, "HF_HUB_OFFLINE is set"),
            ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
            ({"HF_ENDPOINT": hub.url}, f"{hub.url} answered 503"),
        ):
            done = run_cli("search", "llama3.2", environment=environment(tmp_path, **more), seconds=40)
            assert 0 == done.returncode
            assert "llama3.2:1b" in done.stdout
            assert 1 == len(done.stderr.splitlines())
            assert done.stderr.startswith(f"Hugging Face was not searched: {why}")


def test_a_terminal_shows_the_same_table(tmp_path):
    with (
        hub_server(REPOSITORIES) as hub,
        Terminal("search", "special", environment=environment(tmp_path, HF_ENDPOINT=hub.url)) as terminal,
    ):
        assert 0 == terminal.end(30)
        assert "hf.co/other/Qwen3-Special-GGUF" in terminal.shown
