"""`localllm key`: made once, listed without its secret, gone when revoked; and the daemon that asks for it."""

from __future__ import annotations

import json

import httpx
from cli_process import cli_environment, run_cli
from daemon_process import running_daemon


def test_a_key_is_shown_once_and_the_daemon_takes_it_until_it_is_revoked(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_REQUIRE_KEY="1") as daemon:
        made = run_cli("key", "new", "laptop", environment=daemon.environment)
        key = made.stdout.strip()
        assert key.startswith("localllm_")
        assert "only time it is shown" in made.stderr

        def tags() -> int:
            headers = {"authorization": f"Bearer {key}"}
            return httpx.get(f"{daemon.url}/api/tags", headers=headers, trust_env=False, timeout=60).status_code

        assert (200, 401) == (tags(), daemon.http.get("/api/tags").status_code)
        (listed,) = json.loads(run_cli("key", "list", "--json", environment=daemon.environment).stdout)
        assert ("laptop", ["infer"]) == (listed["name"], listed["scopes"])
        assert key.split("_", 2)[2] not in (daemon.home / "keys.json").read_text()
        with_key = {**daemon.environment, "LOCALLLM_API_KEY": key}
        assert "guide" in run_cli("list", environment=with_key).stdout
        assert "revoked 'laptop'\n" == run_cli("key", "revoke", "laptop", environment=daemon.environment).stdout
        assert 401 == tags()


def test_wrong_words_say_what_is_right(tmp_path):
    environment = cli_environment(tmp_path, "127.0.0.1:1")
    for words in (("key", "make", "a"), ("key", "new"), ("key", "new", "a", "--scope", "infer,all")):
        done = run_cli(*words, environment=environment)
        assert 2 == done.returncode
        assert "localllm key new NAME" in done.stderr or "infer and manage" in done.stderr
    gone = run_cli("key", "revoke", "nobody", environment=environment)
    assert (1, True) == (gone.returncode, "there is no key named 'nobody'" in gone.stderr)
