"""`decant bench`: which decoding method pays, for a model and a task.

An HTTP client of a server, like `server.calibration`, whose client, journal and rounds it uses.
"""
