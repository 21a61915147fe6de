"""Names under which a request's guidance travels in `SamplingParams.extra_args`."""

KEY = "decant.logits"  # the guidance itself
REPORT = "decant.report"  # the key by which the request's report will ask what was done
