"""`decant calibrate`: measure a decoding method's thresholds on your prompts, and choose one.

An HTTP client of a Decant server, so that what is measured is what clients get.
"""
