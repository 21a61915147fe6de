"""LiteLLM: a method by preset, by field, and streamed."""

import json
import os

from litellm import completion

# The prefix `openai/` is LiteLLM's name for any server that speaks OpenAI's API.
SERVER = {
    "api_base": os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("OPENAI_API_KEY", "none"),
    "temperature": 0,
    "max_tokens": 64,
}
MESSAGES = [{"role": "user", "content": "Write a review of the hotel."}]
DECODING = {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": True}

# By preset: the method is part of the model's name.
answer = completion(model="openai/demo:ead", messages=MESSAGES, **SERVER)
print("preset:", answer.choices[0].message.content)

# By field: any method, with its parameters. `report` asks what was done.
answer = completion(model="openai/demo", messages=MESSAGES, extra_body={"decoding": DECODING}, **SERVER)
print("field:", answer.choices[0].message.content)
print("report:", json.dumps(answer.decoding))

# Streamed: the report comes with the last chunk.
stream = completion(
    model="openai/demo", messages=MESSAGES, extra_body={"decoding": DECODING}, stream=True, **SERVER
)
report = None
print("stream: ", end="")
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    report = getattr(chunk, "decoding", report)
print("\nreport:", json.dumps(report))
