"""The demo world: small drawn pictures with captions, from a joint distribution that is known."""
