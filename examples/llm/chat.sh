#!/bin/sh
# llm (https://llm.datasette.io): a method by preset, streamed as always. `--chat` instead of a question converses.
set -eu

llm openai endpoint "${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}" --key "${OPENAI_API_KEY:-none}" \
  --model demo:ead -o temperature 0 -o max_tokens 64 "Write a review of the hotel."
