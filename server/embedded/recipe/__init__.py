"""The scripts that make the embedded family: corpus, tokenizer, training, reward models, measurements.

`python -m server.embedded.recipe all` makes everything anew. `items` gives development and test items and,
like all modules about the corpus, needs neither torch nor the weights.
"""
