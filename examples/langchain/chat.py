"""LangChain: a method by preset, by field, and streamed."""

import json
import os

from langchain_openai import ChatOpenAI

QUESTION = "Write a review of the hotel."
DECODING = {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": True}
SERVER = {
    "base_url": os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("OPENAI_API_KEY", "none"),
    "temperature": 0,
    "max_tokens": 64,
}


class ChatDecant(ChatOpenAI):
    """ChatOpenAI, which drops what OpenAI's own answers do not have, with the report in `response_metadata`.

    LangChain's packages for other servers (langchain-deepseek, for one) keep such fields in the same way.
    """

    def _create_chat_result(self, response, generation_info=None):
        result = super()._create_chat_result(response, generation_info)
        fields = response if isinstance(response, dict) else response.model_extra
        if "decoding" in fields:
            for generation in result.generations:
                generation.message.response_metadata["decoding"] = fields["decoding"]
        return result

    def _convert_chunk_to_generation_chunk(self, chunk, default_chunk_class, base_generation_info):
        found = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if found and "decoding" in chunk:
            found.message.response_metadata["decoding"] = chunk["decoding"]
        return found


# By preset: the method is part of the model's name, and plain ChatOpenAI is enough.
print("preset:", ChatOpenAI(model="demo:ead", **SERVER).invoke(QUESTION).content)

# By field: any method, with its parameters. `report` asks what was done.
model = ChatDecant(model="demo", extra_body={"decoding": DECODING}, **SERVER)
answer = model.invoke(QUESTION)
print("field:", answer.content)
print("report:", json.dumps(answer.response_metadata["decoding"]))

# Streamed: the report comes with the last chunk.
report = None
print("stream: ", end="")
for chunk in model.stream(QUESTION):
    print(chunk.content, end="", flush=True)
    report = chunk.response_metadata.get("decoding", report)
print("\nreport:", json.dumps(report))
