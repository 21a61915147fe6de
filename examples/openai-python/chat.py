"""OpenAI's Python client: a method by preset, by field, and streamed."""

import json
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
MESSAGES = [{"role": "user", "content": "Write a review of the hotel."}]
DECODING = {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": True}

# By preset: the method is part of the model's name.
answer = client.chat.completions.create(model="demo:ead", messages=MESSAGES, temperature=0, max_tokens=64)
print("preset:", answer.choices[0].message.content)

# By field: any method, with its parameters. `report` asks what was done.
answer = client.chat.completions.create(
    model="demo", messages=MESSAGES, temperature=0, max_tokens=64, extra_body={"decoding": DECODING}
)
print("field:", answer.choices[0].message.content)
print("report:", json.dumps(answer.model_extra["decoding"]))

# Streamed: the report comes with the last chunk.
stream = client.chat.completions.create(
    model="demo",
    messages=MESSAGES,
    temperature=0,
    max_tokens=64,
    stream=True,
    extra_body={"decoding": DECODING},
)
report = None
print("stream: ", end="")
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    report = chunk.model_extra.get("decoding", report)
print("\nreport:", json.dumps(report))
