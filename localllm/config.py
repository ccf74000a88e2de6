"""Settings: the only reader of environment variables and of config.toml.

One table, `SETTINGS`, names every setting, its variable, the variable of Ollama's that is honoured when ours is unset,
how it is read and what it is for; README's table and `localllm serve --help` come from it. A value that cannot be read,
or a `LOCALLLM_` variable or key nobody knows, is a ConfigError: a wrong setting never looks like the default.

    order:  environment LOCALLLM_X  >  config.toml  >  environment OLLAMA_X  >  default

With LOCALLLM_HOME set, everything lives under it:

    $LOCALLLM_HOME/config.toml
    $LOCALLLM_HOME/models/localllm/   manifests (see store/)
    $LOCALLLM_HOME/state/             daemon.log, history, the engine verdict
    $LOCALLLM_HOME/cache/             what can be fetched again: the converter of safetensors
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import platformdirs

from localllm.durations import parse_keep_alive
from localllm.errors import ConfigError
from localllm.sizes import Reserve, parse_reserve

DEFAULT_PORT = 11434
KvLayout = Literal["auto", "unified", "streams"]
CacheType = Literal["f16", "q8_0", "bf16", "f32", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
FlashAttention = Literal["auto", "on", "off"]
LogFormat = Literal["human", "json"]


class Address(NamedTuple):
    """Where the daemon listens, or the CLI looks for it. `host` is without brackets; `is_tls`: by https."""

    host: str
    port: int
    is_tls: bool = False

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or self.host.startswith("127.") or self.host == "::1"

    @property
    def url(self) -> str:
        """The base URL a client uses; a wildcard bind is reached over loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        scheme = "https" if self.is_tls else "http"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, read once. Durations are seconds, sizes bytes; 0 is "automatic" where said."""

    home: Path
    config_file: Path
    models_dir: Path
    state_dir: Path
    cache_dir: Path
    address: Address
    keep_alive_seconds: float
    load_timeout_seconds: float
    render_timeout_seconds: float
    max_loaded_models: int
    max_queue: int
    num_parallel: int
    context_length: int
    num_threads: int
    kv_layout: KvLayout
    kv_cache_type: CacheType | Literal["auto"]
    flash_attention: FlashAttention
    reserve: Reserve
    devices_file: Path | None
    stream_slowdown: float
    origins: tuple[str, ...]
    registry: str
    package_index: str
    api_key: str
    require_key: bool
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None
    max_connections: int
    head_timeout_seconds: float
    body_timeout_seconds: float
    idle_connection_seconds: float
    otlp_endpoint: str
    max_body_bytes: int
    ping_seconds: float
    responses_keep_seconds: float
    responses_most_bytes: int
    log_level: str
    log_format: LogFormat
    idle_exit_seconds: float
    shutdown_grace_seconds: float

    @property
    def keys_file(self) -> Path:
        """Where `localllm key` keeps what is known of the API keys."""
        return self.config_file.parent / "keys.json"


def parse_address(text: str) -> Address:
    """Read HOST, HOST:PORT, :PORT, [v6]:PORT or an http or https URL of these, as OLLAMA_HOST may be written."""
    body = text.strip().strip("\"'")
    default_port, is_tls = DEFAULT_PORT, body.startswith("https://")
    for scheme, port in (("http://", 80), ("https://", 443)):
        if body.startswith(scheme):
            body, default_port = body[len(scheme) :].split("/", 1)[0], port
    if body.startswith("["):
        host, _, rest = body[1:].partition("]")
        port_text = rest.removeprefix(":")
    elif body.count(":") == 1:
        host, _, port_text = body.partition(":")
    else:
        host, port_text = body, ""
    if port_text and not (port_text.isascii() and port_text.isdigit() and int(port_text) < 65536):
        raise ValueError(f"{port_text!r} is not a port")
    if any(character in host for character in " /@?#"):
        raise ValueError(f"{host!r} is not a host")
    return Address(host or "127.0.0.1", int(port_text) if port_text else default_port, is_tls)


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise ValueError("out of range")
    return value


def _positive(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise ValueError("must not be 0")
    return value


def _seconds(text: str) -> float:
    body = text.strip()
    seconds = parse_keep_alive(float(body) if _is_number(body) else body)
    return math.inf if seconds < 0 else seconds


def _time_limit(text: str) -> float:
    seconds = _seconds(text)
    if seconds == 0:
        raise ValueError("must not be 0")
    return seconds


def _is_number(text: str) -> bool:
    return text.lstrip("+-").replace(".", "", 1).isdigit()


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false"):
        raise ValueError("neither true nor false")
    return text.lower() in ("1", "true")


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("not a level")
    return text.upper()


def _log_format(text: str) -> str:
    if text.lower() not in get_args(LogFormat):
        raise ValueError("not a format")
    return text.lower()


def _layout(text: str) -> str:
    if text.lower() not in get_args(KvLayout):
        raise ValueError("not a layout")
    return text.lower()


def _cache_type(text: str) -> str:
    if text.lower() not in ("auto", *get_args(CacheType)):
        raise ValueError("not a type of cache")
    return text.lower()


def _flash_attention(text: str) -> str:
    word = {"1": "on", "true": "on", "0": "off", "false": "off"}.get(text.lower(), text.lower())
    if word not in get_args(FlashAttention):
        raise ValueError("not a choice")
    return word


def _factor(text: str) -> float:
    value = float(text)
    if not 1.0 < value < math.inf:
        raise ValueError("out of range")
    return value


def _file(text: str) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("not a URL")
    return text.rstrip("/")


def _url_or_none(text: str) -> str:
    return _url(text) if text else ""


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `key` is the key in config.toml; the variable is LOCALLLM_ plus it in capitals."""

    key: str
    field: str
    read: Callable[[str], Any]
    default: str
    accepts: str
    purpose: str
    ollama: str | None = None

    @property
    def variable(self) -> str:
        return f"LOCALLLM_{self.key.upper()}"


HOME = Setting("home", "home", Path, "", "a folder", "Moves configuration, models, state and logs under one folder")
MODELS = Setting("models", "models_dir", Path, "", "a folder", "Where names and uploaded files live", "OLLAMA_MODELS")
SETTINGS: tuple[Setting, ...] = (
    Setting("host", "address", parse_address, f"127.0.0.1:{DEFAULT_PORT}", "HOST, HOST:PORT or a URL",
            "Where the daemon listens and the CLI looks for it", "OLLAMA_HOST"),
    Setting("keep_alive", "keep_alive_seconds", _seconds, "5m", 'seconds or a duration such as "10m"; -1 for ever',
            "How long a model stays loaded after its last request", "OLLAMA_KEEP_ALIVE"),
    Setting("load_timeout", "load_timeout_seconds", _seconds, "5m", "seconds or a duration; -1 for ever",
            "How long a load may go without progress", "OLLAMA_LOAD_TIMEOUT"),
    Setting("render_timeout", "render_timeout_seconds", _seconds, "10s", "seconds or a duration",
            "How long a chat template may take before its process is replaced"),
    Setting("max_loaded_models", "max_loaded_models", _count, "3", "a count; 0 for the default",
            "How many models may be loaded at once", "OLLAMA_MAX_LOADED_MODELS"),
    Setting("max_queue", "max_queue", _positive, "64", "a count of at least 1",
            "How many requests may wait for one model before the next gets a 503", "OLLAMA_MAX_QUEUE"),
    Setting("num_parallel", "num_parallel", _count, "8", "a count up to 256; 0 for the default",
            "How many requests one model serves at once", "OLLAMA_NUM_PARALLEL"),
    Setting("context_length", "context_length", _count, "0", "a count of tokens; 0 for the model's own",
            "The context of a request that does not ask for one", "OLLAMA_CONTEXT_LENGTH"),
    Setting("num_threads", "num_threads", _count, "0", "a count; 0 for the physical cores",
            "CPU threads of each model"),
    Setting("kv_layout", "kv_layout", _layout, "auto", "auto, unified or streams",
            "Whether the requests of a model share one pool of cells or have a stream each"),
    Setting("kv_cache_type", "kv_cache_type", _cache_type, "f16", f"auto, {', '.join(get_args(CacheType))}",
            "How keys and values are kept; auto is f16, or q8_0 where that keeps a layer on a GPU",
            "OLLAMA_KV_CACHE_TYPE"),
    Setting("flash_attention", "flash_attention", _flash_attention, "auto", "auto, on or off",
            "Whether attention is computed in one pass; auto does where the device can", "OLLAMA_FLASH_ATTENTION"),
    Setting("reserve", "reserve", parse_reserve, "5%+300MiB", "a share, an amount or both such as 5%+300MiB",
            "What is left free of each device's memory", "OLLAMA_GPU_OVERHEAD"),
    Setting("devices", "devices_file", _file, "", "a JSON file",
            "The devices to plan with, as `plan --device-file` takes them, in place of those that are here"),
    Setting("stream_slowdown", "stream_slowdown", _factor, "2", "a factor above 1",
            "How much slower an answer may stream while another's long prompt is computed"),
    Setting("origins", "origins", _list, "", "a comma-separated list such as https://chat.example",
            "Web pages that may use the API besides local ones", "OLLAMA_ORIGINS"),
    Setting("registry", "registry", _url, "https://registry.ollama.ai", "an http or https URL",
            "Where models named ollama.com/… are pulled from: Ollama's registry, or a mirror of it"),
    Setting("package_index", "package_index", _url_or_none, "", "an http or https URL",
            "Where the converter of safetensors is fetched from once; unset: `PIP_INDEX_URL`, else PyPI"),
    Setting("api_key", "api_key", str.strip, "", "any text",
            "A key for clients that may do everything; with it every request needs a key (see Keys)"),
    Setting("require_key", "require_key", _flag, "0", "0 or 1",
            "Whether every request needs a key; for a bind that is not loopback it always does"),
    Setting("tls_cert", "tls_cert", _file, "", "a PEM file",
            "The certificate, and those above it, that the daemon serves https with"),
    Setting("tls_key", "tls_key", _file, "", "a PEM file", "Its key, when the certificate's file does not hold it"),
    Setting("tls_ca", "tls_ca", _file, "", "a PEM file",
            "Whose certificates the commands trust; on the daemon's machine they trust its own anyway"),
    Setting("max_connections", "max_connections", _positive, "4096", "a count of at least 1",
            "How many connections may be open; beyond it the longest idle one is closed"),
    Setting("head_timeout", "head_timeout_seconds", _time_limit, "20s", "seconds or a duration; -1 for ever",
            "How long the first line and the headers of a request may take"),
    Setting("body_timeout", "body_timeout_seconds", _time_limit, "60s", "seconds or a duration; -1 for ever",
            "How long nothing of a request's body may come, or 1 kB a second from then on"),
    Setting("idle_connection", "idle_connection_seconds", _time_limit, "75s", "seconds or a duration; -1 for ever",
            "How long a connection stays open without a request"),
    Setting("max_body_bytes", "max_body_bytes", _positive, str(64 * 2**20), "a count of bytes",
            "The largest request body"),
    Setting("ping", "ping_seconds", _time_limit, "10s", "seconds or a duration; -1 for never",
            "How long a stream may be silent before it says, outside of its events, that it goes on"),
    Setting("responses_keep", "responses_keep_seconds", _seconds, "24h", "seconds or a duration; 0 for not at all",
            "How long a response of `/v1/responses` can be gone on from; in memory only"),
    Setting("responses_most_bytes", "responses_most_bytes", _count, str(32 * 2**20), "a count of bytes",
            "How much memory these may take together; the oldest go first"),
    Setting("otlp_endpoint", "otlp_endpoint", _url_or_none, "", "an http or https URL",
            "Where traces of answers are sent by OTLP over HTTP; needs the extra `otel`"),
    Setting("log_level", "log_level", _level, "INFO", "DEBUG, INFO, WARNING or ERROR", "How much the daemon logs"),
    Setting("log_format", "log_format", _log_format, "human", "human or json", "How the daemon's log lines look"),
    Setting("idle_exit", "idle_exit_seconds", _seconds, "30m", "seconds or a duration; -1 for never",
            "When a daemon that the CLI started ends by itself"),
    Setting("shutdown_grace", "shutdown_grace_seconds", _seconds, "10s", "seconds or a duration",
            "How long running requests may go on after SIGTERM"),
)  # fmt: skip


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read every setting. Raises ConfigError naming the variable, or the file and key, and what it accepts."""
    _refuse_unknown_variables(environment)
    home_text = environment.get(HOME.variable, "").strip()
    home = Path(home_text).expanduser().absolute() if home_text else None
    config_file = (home or platformdirs.user_config_path("localllm")) / "config.toml"
    file_values = _read_file(config_file)
    values = {setting.field: _value(setting, environment, file_values, config_file) for setting in SETTINGS}
    if values["num_parallel"] > 256:
        raise ConfigError(f"LOCALLLM_NUM_PARALLEL must be at most 256, not {values['num_parallel']}")
    values["num_parallel"] = values["num_parallel"] or 8
    values["max_loaded_models"] = values["max_loaded_models"] or 3
    if values["tls_key"] and not values["tls_cert"]:
        raise ConfigError("LOCALLLM_TLS_KEY is set, but LOCALLLM_TLS_CERT is not", hint="the two belong together")
    if values["tls_cert"]:
        values["address"] = values["address"]._replace(is_tls=True)
    data_dir = home or platformdirs.user_data_path("localllm")
    models_text = _text(MODELS, environment, file_values)
    return Settings(
        home=data_dir,
        config_file=config_file,
        models_dir=Path(models_text).expanduser().absolute() if models_text else data_dir / "models",
        state_dir=home / "state" if home else platformdirs.user_state_path("localllm"),
        cache_dir=home / "cache" if home else platformdirs.user_cache_path("localllm"),
        **values,
    )


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {setting.variable for setting in (*SETTINGS, HOME, MODELS)}
    for name in environment:
        if name.startswith("LOCALLLM_") and name not in known:
            raise ConfigError(f"{name} is not a setting", hint=f"the settings are {', '.join(sorted(known))}")


def _read_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # a config file is optional
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    known = {setting.key for setting in (*SETTINGS, MODELS)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{path}: {key} is not a setting", hint=f"the keys are {', '.join(sorted(known))}")
        if isinstance(value, (dict, bool)):
            raise ConfigError(f"{path}: {key} must be a string, a number or a list")
    return {key: ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in values.items()}


def _text(setting: Setting, environment: Mapping[str, str], file_values: Mapping[str, str]) -> str:
    for text in (
        environment.get(setting.variable),
        file_values.get(setting.key),
        environment.get(setting.ollama) if setting.ollama else None,
    ):
        if text is not None and text.strip():
            return text.strip()
    return setting.default


def _value(setting: Setting, environment: Mapping[str, str], file_values: Mapping[str, str], config_file: Path) -> Any:
    text = _text(setting, environment, file_values)
    try:
        return setting.read(text)
    except ValueError as error:
        source = setting.variable
        if not environment.get(setting.variable, "").strip():
            source = f"{config_file}: {setting.key}" if setting.key in file_values else str(setting.ollama)
        raise ConfigError(f"{source} is {text!r}, but must be {setting.accepts}") from error
