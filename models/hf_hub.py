"""Files of a model on the Hugging Face hub, from its cache where they are there; only what is needed is fetched."""

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
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{said}: {repository} can't be had from the Hugging Face hub: {reason}") from error
