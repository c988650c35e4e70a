"""Settings of any shape are told by their key, never by a traceback."""

from typing import Any

import pytest

from balance.common.structure import expecting
from balance.errors import UserError
from balance.labels.annotators import build_annotator
from balance.stream.shards import expand_shards
from eval.runner import build_suite
from eval.sets import load_set

ODD: list[Any] = [None, True, 0, 1.5, "x", [], [1], [[]], {}, {"a": 1}, {1: 2}, [{"kind": 3}]]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_settings_are_refused_by_name(value: Any) -> None:
    for name, read in {
        "data.train": lambda: expand_shards(value),
        "attributes": lambda: build_annotator({"sources": [{"kind": "captions", "attributes": value}]}),
        "attributes.sources": lambda: build_annotator({"sources": [{"kind": "json", "field": value, "values": value}]}),
        "eval.sets.faces": lambda: load_set("faces", value),
        "eval.evaluators.rb": lambda: build_suite({}, {"rb": value}),
        "eval.evaluators.rb.kind": lambda: build_suite({}, {"rb": {"kind": value}}),
    }.items():
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value), name


def test_a_misfit_names_its_setting_and_user_errors_pass_through() -> None:
    with pytest.raises(UserError, match=r"^a\.b has a value of the wrong kind \(KeyError: 'c'\)\.$"), expecting("a.b"):
        {}["c"]
    with pytest.raises(UserError, match=r"^as it is$"), expecting("a.b"):
        raise UserError("as it is")
    with pytest.raises(OSError), expecting("a.b"):
        raise OSError
