#!/bin/sh
# curl: a method by preset, by field, and streamed. The report is the answer's field `decoding`.
set -eu

ask() {
  curl --silent --show-error --fail-with-body --no-buffer --write-out '\n' \
    "${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}/chat/completions" \
    --header "Authorization: Bearer ${OPENAI_API_KEY:-none}" --header "Content-Type: application/json" --data "$1"
}

# By preset: the method is part of the model's name.
ask '{"model": "demo:ead", "temperature": 0, "max_tokens": 64,
  "messages": [{"role": "user", "content": "Write a review of the hotel."}]}'

# By field: any method, with its parameters. `report` asks what was done.
ask '{"model": "demo", "temperature": 0, "max_tokens": 64,
  "messages": [{"role": "user", "content": "Write a review of the hotel."}],
  "decoding": {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": true}}'

# Streamed: the report comes with the last event before [DONE].
ask '{"model": "demo", "temperature": 0, "max_tokens": 64, "stream": true,
  "messages": [{"role": "user", "content": "Write a review of the hotel."}],
  "decoding": {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": true}}'
