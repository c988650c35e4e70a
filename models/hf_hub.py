"""Files of a model from the Hugging Face hub, or its cache, and an exported folder to the hub.

Only what is needed is fetched, and nothing is sent but what `push` is called for.
"""

from pathlib import Path

from balance.errors import UserError

SECONDS = 10
"""How long the hub may take to answer before the cache is used."""
TEXTS = ("*.json", "*.txt", "*.model")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def fetch(repository: str, said: str, weights: bool) -> Path:
    """The folder of a repository's files: configuration, tokenizer and processor; with `weights` those, too.

    Raises:
        UserError: neither the hub nor the cache has them.
    """
    from huggingface_hub import snapshot_download

    def get(*patterns: str) -> Path:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), etag_timeout=SECONDS))

    try:
        folder = get(*TEXTS)
        if weights:
            for pattern in WEIGHTS:
                if any(folder.glob(pattern)):
                    break
                folder = get(pattern)
        return folder
    except Exception as error:  # the hub's client has many
        raise UserError(f"{said}: {repository} can't be had from the Hugging Face hub: {_why(error)}") from error


def check_push(repository: str, private: bool) -> None:
    """Check that a folder may be sent to a repository, before anything is made.

    Args:
        repository: `organisation/name`.
        private: whether others must not see it.

    Raises:
        UserError: nobody is logged in, the hub can't be reached, or the repository is there and public.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    said = f"push_to_hub={repository}"
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{said}: write push_to_hub=<user or organisation>/<name>.")
    api = HfApi()
    try:
        api.whoami()
    except Exception as error:  # the hub's client has many
        raise UserError(f"{said}: log in to the Hugging Face hub first, with: hf auth login ({_why(error)})") from error
    try:
        there = api.repo_info(repository, timeout=SECONDS)
    except RepositoryNotFoundError:
        return
    except Exception as error:
        raise UserError(f"{said}: the hub does not tell of it: {_why(error)}") from error
    if private and not there.private:
        raise UserError(f"{said}: the repository is there and public; add private=false, or name another.")


def push(folder: Path, repository: str, private: bool) -> str:
    """Send a folder to a repository of the hub, which is made where it is not there; its address.

    Raises:
        UserError: it can't be sent.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported from Counterbalance")
    except Exception as error:  # the hub's client has many
        raise UserError(
            f"push_to_hub={repository}: {folder} is written, and can't be sent: {_why(error)}; send it with: "
            f"hf upload {repository} {folder}"
        ) from error
    return f"{api.endpoint}/{repository}"


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
