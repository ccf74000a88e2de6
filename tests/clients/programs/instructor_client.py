"""Instructor over OpenAI's client: objects by JSON Schema, by a tool, and as they grow."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel
from scenario import BASE_URL, MODEL, NOBODY, QUESTION, error_of, tell


class Command(BaseModel):
    """The command that answers the question."""

    command: Literal["pull", "run"]


plain = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="unused", max_retries=0)
client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
by_tool = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
messages = [{"role": "user", "content": QUESTION}]
wanted = {"response_model": Command, "messages": messages, "max_retries": 0, "temperature": 0}
tell(
    chat=plain.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content,
    structured=client.chat.completions.create(model=MODEL, **wanted).model_dump(),
    structured_by_tool=by_tool.chat.completions.create(model=MODEL, **wanted).model_dump(),
    streamed_by_tool=[part.model_dump() for part in by_tool.chat.completions.create_partial(model=MODEL, **wanted)],
    stream=[str(part.command) for part in client.chat.completions.create_partial(model=MODEL, **wanted)],
    error=error_of(lambda: client.chat.completions.create(model=NOBODY, **wanted)),
)
