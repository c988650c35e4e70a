"""How commands read, check and put together the configuration; the folders beside this one hold its YAML groups."""
