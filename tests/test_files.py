"""A file is complete or absent, whatever ends the writing of it."""

from pathlib import Path

import pytest

from balance.files import whole_file, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.txt"
    with whole_file(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError])
def test_what_is_not_finished_leaves_the_old_file(tmp_path: Path, end: type[BaseException]) -> None:
    path = write_whole(tmp_path / "x.txt", "old ä")

    def stopped() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise end

    with pytest.raises(end):
        stopped()
    assert path.read_bytes() == "old ä".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "x.txt"):
        pass
