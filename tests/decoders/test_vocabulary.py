from decoders.vocabulary import fingerprint


class Tokenizer:
    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


def test_only_the_content_counts() -> None:
    same = [{"a": 0, "é": 1, "b": 2}, {"b": 2, "a": 0, "é": 1}]
    assert fingerprint(Tokenizer(same[0])) == fingerprint(Tokenizer(same[1]))


def test_any_other_content_differs() -> None:
    vocabularies = [
        {"a": 0, "b": 1},
        {"a": 1, "b": 0},
        {"a": 0, "b": 1, "c": 2},
        {"a": 0, "c": 1},
        {"a": 0, "b": 2},
    ]
    assert len({fingerprint(Tokenizer(v)) for v in vocabularies}) == len(vocabularies)
