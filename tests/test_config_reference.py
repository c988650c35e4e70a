"""The page of all keys is the one that its script writes now."""

from scripts.config_reference import main as config_reference


def test_the_page_of_all_keys_is_up_to_date() -> None:
    config_reference(["--check"])
