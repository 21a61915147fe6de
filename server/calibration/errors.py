"""What ends a calibration, in words for the operator."""


class CalibrationError(Exception):
    """The calibration cannot begin, go on, or give what was asked for."""


class Refused(CalibrationError):
    """The server takes no such request; others it may take."""
