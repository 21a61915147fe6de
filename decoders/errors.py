"""The one error a decoding method raises for a request it cannot honour."""


class Refusal(Exception):
    """A request that this deployment cannot honour as it stands.

    Args:
        message: what was asked for and what is allowed, in words for the caller.
        param: the request field at fault, dotted, for example `decoding.sequence.engine`.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
