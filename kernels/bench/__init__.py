"""The operators' speed against this machine's copy bandwidth and against plain torch."""
